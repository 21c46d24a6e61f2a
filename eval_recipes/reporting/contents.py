"""What a report shows, whatever it is written as."""

from __future__ import annotations

from dataclasses import dataclass

from eval_recipes.reporting.columns import Column, Row
from eval_recipes.reporting.domain_means import DomainRow
from eval_recipes.reporting.knn_table import KnnTable


@dataclass(frozen=True)
class Report:
    """All that a report shows.

    Attributes:
        columns: measured ones, then the leaderboard's, then the paper's figure.
        rows: tasks, HEAR's first.
        domains: means per domain; none if no task of HEAR is there in full.
        findings: what to know before comparing.
        sources: of the published numbers shown.
        knn: accuracies of nearest neighbours, if there are any.
    """

    columns: list[Column]
    rows: list[Row]
    domains: list[DomainRow]
    findings: list[str]
    sources: tuple[dict[str, str], ...]
    knn: KnnTable | None = None

    @property
    def title(self) -> str:
        """What it is a report of."""
        return "HEAR scores" if self.columns or not self.knn else "Nearest neighbours"
