"""Columns -> means per domain, of complete domains alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval_recipes.reporting.columns import FIGURE, Column
from eval_recipes.reporting.published import APART, DOMAINS, paper_domain_means, shown_tasks

PAPER_KIND = "paper"


@dataclass(frozen=True)
class DomainMean:
    """The mean score of a domain, a fraction.

    Attributes:
        mean: None if a task is missing.
        n_tasks: how many the domain has.
        missing: titles of those without a score.
    """

    mean: float | None
    n_tasks: int
    missing: tuple[str, ...] = ()

    @property
    def n_scored(self) -> int:
        """How many tasks have a score."""
        return self.n_tasks - len(self.missing)


@dataclass(frozen=True)
class DomainRow:
    """A model's means by domain, `APART` included."""

    label: str
    kind: str
    protocol: str
    means: dict[str, DomainMean]


def domain_mean(column: Column, domain: str) -> DomainMean:
    """The mean over a domain's tasks, if all of them have a score."""
    tasks = [task for task in shown_tasks().values() if task.domain == domain]
    scores = {row.task: cell.score for row, cell in column.cells.items() if row.hear_task and cell.is_number}
    missing = tuple(task.title for task in tasks if task.folder not in scores)
    if domain == APART and column.beehive is not None:
        return DomainMean(column.beehive, len(tasks))
    mean = None if missing else sum(scores[task.folder] for task in tasks) / len(tasks)
    return DomainMean(mean, len(tasks), missing)


def domain_rows(columns: Sequence[Column], with_paper: bool) -> list[DomainRow]:
    """Means of every column (but not of numbers read off a figure), then the paper's own rows."""
    rows = [
        DomainRow(
            column.label,
            column.kind,
            column.protocol,
            {domain: domain_mean(column, domain) for domain in (*DOMAINS, APART)},
        )
        for column in columns
        if column.kind != FIGURE
    ]
    if with_paper:
        for model, means in paper_domain_means().items():
            of_domain = {domain: DomainMean(mean, _count(domain)) for domain, mean in means.items()}
            rows.append(DomainRow(f"{model} (paper)", PAPER_KIND, "as the paper prints it", of_domain))
    return rows


def _count(domain: str) -> int:
    return sum(task.domain == domain for task in shown_tasks().values())
