"""The published numbers that ship with this package: HEAR's tasks, the paper's rows, the leaderboard.

Scores are fractions here, whatever the file's unit.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

import click

from eval_recipes.task_table import data_rows, hear_tasks

TASKS, PAPER = "report_tasks.csv", "paper_hear_domains.csv"
PAPER_KNN = "paper_knn.csv"
ESTIMATES, LEADERBOARD = "dasheng12b_hear_per_task_estimates.csv", "hear_leaderboard.csv"

DOMAINS = ("Environment", "Speech", "Music")
"""As the paper groups them."""

APART = "Beehive"
"""HEAR's task that the paper leaves out."""

READ_OFF = "Dasheng-1.2B (read off a figure)"
PRINTED = "label = Dasheng-1.2B"
"""The note of an estimate that the figure prints as a number; the others were measured in it."""


@dataclass(frozen=True)
class ShownTask:
    """A task of the benchmark as a report shows it.

    Attributes:
        folder: its folder's name, which holds the version.
        title: short, for tables and axes.
        domain: one of `DOMAINS`, or `APART`.
        metric: the primary one.
        leaderboard: its column in the leaderboard; empty for the two folders of Beehive.
        estimate: its name in the estimates for Dasheng-1.2B.
    """

    folder: str
    title: str
    domain: str
    metric: str
    leaderboard: str
    estimate: str


@dataclass(frozen=True)
class PublishedScore:
    """A published score, a fraction; `is_measured_in_figure` if it was not printed as a number."""

    score: float
    is_measured_in_figure: bool = False


@dataclass(frozen=True)
class LeaderboardRow:
    """A submission: scores by task folder (Beehive's one score under `APART`), with its date."""

    name: str
    date: str
    scores: dict[str, PublishedScore]


def _fraction(percent: str) -> float:
    """Exactly the number that a table in percent means."""
    return float(Decimal(percent) / 100)


def sources_of(
    *, with_paper: bool, with_leaderboard: bool, with_paper_knn: bool = False
) -> tuple[dict[str, str], ...]:
    """Title, URL and remark of each data file that a report shows numbers of."""
    shown = {PAPER: with_paper, ESTIMATES: with_paper, LEADERBOARD: with_leaderboard}
    shown[PAPER_KNN] = with_paper_knn
    is_any = with_paper or with_leaderboard
    return tuple(row for row in data_rows("sources.csv") if shown.get(row["file"], is_any))


@cache
def shown_tasks() -> dict[str, ShownTask]:
    """HEAR's 20 task folders, in the order of the domains."""
    known = {task.folder: task for task in hear_tasks()}
    return {
        row["folder"]: ShownTask(
            **row, domain=known[row["folder"]].domain or APART, metric=known[row["folder"]].metric
        )
        for row in data_rows(TASKS)
    }


def paper_domain_means() -> dict[str, dict[str, float]]:
    """Model -> domain -> mean, as the paper prints them (fractions).

    >>> paper_domain_means()["Dasheng-1.2B"]["Music"]
    0.849
    """
    return {
        row["model"]: {domain: _fraction(row[domain.lower()]) for domain in DOMAINS}
        for row in data_rows(PAPER)
    }


def paper_knn() -> dict[str, dict[str, float | None]]:
    """Model -> data set -> accuracy of nearest neighbours, as the paper prints them (fractions).

    >>> paper_knn()["Dasheng-Base"]["esc50"]
    0.619
    """
    return {
        row["model"]: {
            name: _fraction(value) if value else None for name, value in row.items() if name != "model"
        }
        for row in data_rows(PAPER_KNN)
    }


def estimates() -> dict[str, PublishedScore]:
    """Dasheng-1.2B's scores by task folder, read off the paper's figure."""
    folders = {task.estimate: task.folder for task in shown_tasks().values() if task.estimate}
    return {
        folders[row["task"]]: PublishedScore(_fraction(row["dasheng_1.2B_est"]), row["note"] != PRINTED)
        for row in data_rows(ESTIMATES)
    }


def leaderboard_row(name: str) -> LeaderboardRow:
    """A row of the HEAR leaderboard, by its name in any case.

    Raises:
        click.BadParameter: there is none of that name; the nearest are named.
    """
    rows = {row["Model"].casefold(): row for row in data_rows(LEADERBOARD)}
    row = rows.get(name.strip().casefold())
    if row is None:
        raise click.BadParameter(
            f"the HEAR leaderboard has no row {name!r}; the nearest: {', '.join(_nearest(name))}"
        )
    columns = {task.leaderboard: task.folder for task in shown_tasks().values() if task.leaderboard}
    columns["Beehive"] = APART
    scores = {folder: PublishedScore(float(row[column])) for column, folder in columns.items() if row[column]}
    return LeaderboardRow(row["Model"], row["Submission Date"], scores)


def _nearest(name: str, n: int = 3) -> list[str]:
    """Names alike in spelling; first those that contain what was typed."""
    names = {row["Model"].casefold(): row["Model"] for row in data_rows(LEADERBOARD)}
    typed = name.strip().casefold()
    containing = [folded for folded in names if typed and typed in folded]
    alike = difflib.get_close_matches(typed, names, n=n, cutoff=0)
    return [names[folded] for folded in dict.fromkeys([*containing, *alike])][:n]
