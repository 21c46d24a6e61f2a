"""Scores -> columns (one origin each) and rows (one version of a task each)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eval_recipes.provenance import in_short
from eval_recipes.reporting.published import (
    APART,
    READ_OFF,
    LeaderboardRow,
    PublishedScore,
    ShownTask,
    estimates,
    shown_tasks,
)
from eval_recipes.reporting.score_files import NO_RECORD, Origin, Spread, TaskResult

MEASURED, LEADERBOARD, FIGURE = "measured", "leaderboard", "figure"

FRACTIONS = ("top1_acc", "pitch_acc", "chroma_acc", "mAP", "aucroc", "event_onset_200ms_fms")
FRACTIONS += ("event_onset_50ms_fms", "event_onset_offset_50ms_20perc_fms")
"""heareval's metrics between 0 and 1, higher being better; these are shown in percent and as bars."""


@dataclass(frozen=True)
class Row:
    """One version of one task.

    Attributes:
        task: folder name.
        metric: primary metric.
        files: first digits of the hash of the task's files where results on different ones meet, else empty.
    """

    task: str
    metric: str
    files: str = ""

    @property
    def hear_task(self) -> ShownTask | None:
        """The benchmark's task of this name and metric; None for any other task, version or metric."""
        known = shown_tasks().get(self.task)
        return known if known and known.metric == self.metric else None

    @property
    def title(self) -> str:
        """Short name."""
        title = self.hear_task.title if self.hear_task else self.task
        return f"{title} (files {self.files})" if self.files else title

    @property
    def domain(self) -> str:
        """The paper's domain; "Other" for tasks that are not HEAR's in full."""
        return self.hear_task.domain if self.hear_task else "Other"

    @property
    def is_fraction(self) -> bool:
        """Whether scores lie between 0 and 1."""
        return self.metric in FRACTIONS


@dataclass(frozen=True)
class Cell:
    """A score in a table.

    Attributes:
        score: NaN where the scorer could not tell.
        spreads: of measured scores.
        is_approximate: measured in a figure.
        task_files: hash of the task's files, as far as recorded.
    """

    score: float
    spreads: tuple[Spread, ...] = ()
    is_approximate: bool = False
    task_files: str = ""

    @property
    def is_number(self) -> bool:
        """Whether there is a score."""
        return math.isfinite(self.score)


@dataclass
class Column:
    """Scores that may stand together: of one model, scored in one way.

    Attributes:
        label: a name that no other column has.
        kind: `MEASURED`, `LEADERBOARD` or `FIGURE`.
        protocol: how it was scored.
        cells: the scores.
        beehive: a published score of Beehive's two folders together.
        origin: of measured scores.
        results: those scores with their records.
    """

    label: str
    kind: str
    protocol: str
    cells: dict[Row, Cell] = field(default_factory=dict)
    beehive: float | None = None
    origin: Origin | None = None
    results: list[TaskResult] = field(default_factory=list)


def measured_columns(results: Sequence[TaskResult], labels: dict[Path, str] | None = None) -> list[Column]:
    """One column per origin; labels come from folder names, as far as these differ.

    Args:
        results: any number, in any order.
        labels: names by (resolved) folder, where the user chose them.
    """
    origins = list(dict.fromkeys(result.origin for result in results))
    names = {**short_names([origin.folder for origin in origins]), **(labels or {})}
    differing = tasks_with_different_files(results)
    columns = []
    for origin in origins:
        own = [result for result in results if result.origin == origin]
        siblings = [other for other in origins if names[other.folder] == names[origin.folder]]
        label = names[origin.folder] + _distinction(origin, siblings)
        column = Column(label, MEASURED, origin.protocol, origin=origin, results=own)
        for result in own:
            files = (result.task_files[:8] or NO_RECORD) if result.task in differing else ""
            cell = Cell(result.score, result.spreads, task_files=result.task_files)
            column.cells[Row(result.task, result.metric, files)] = cell
        columns.append(column)
    for column, label in zip(columns, number_alike([column.label for column in columns]), strict=True):
        column.label = label
    return columns


def tasks_with_different_files(results: Sequence[TaskResult]) -> set[str]:
    """Tasks of which some results were made on other metadata, vocabulary or splits than others."""
    files: dict[str, set[str]] = {}
    for result in results:
        files.setdefault(result.task, set()).add(result.task_files)
    return {task for task, hashes in files.items() if len(hashes - {""}) > 1}


def short_names(folders: Sequence[Path]) -> dict[Path, str]:
    """The shortest ends of the paths that tell them apart.

    >>> list(short_names([Path("/a/x/m"), Path("/a/y/m"), Path("/a/n")]).values())
    ['x/m', 'y/m', 'n']
    """
    names = {}
    for folder in dict.fromkeys(folders):
        others = [other for other in folders if other != folder]
        for length in range(1, len(folder.parts) + 1):
            end = folder.parts[-length:]
            if all(other.parts[-length:] != end for other in others):
                break
        names[folder] = str(Path(*end))
    return names


def _distinction(origin: Origin, siblings: Sequence[Origin]) -> str:
    """What tells an origin from others of its name: weights, options, protocol."""
    if len(siblings) < 2:
        return ""
    parts = []
    if len({(other.module, other.checkpoint) for other in siblings}) > 1:
        weights = f"weights {in_short(origin.checkpoint, 8)}" if origin.checkpoint else "weights not recorded"
        parts += [origin.module, weights]
    if len({other.options for other in siblings}) > 1:
        parts.append(origin.options)
    if len({other.protocol for other in siblings}) > 1:
        parts.append(_own_words(origin, siblings))
    return f" [{', '.join(parts)}]" if parts else ""


def number_alike(labels: Sequence[str]) -> list[str]:
    """The labels, with a number where one occurs more than once.

    >>> number_alike(["a", "b", "a"])
    ['a (no. 1)', 'b', 'a (no. 2)']
    """
    return [
        f"{label} (no. {labels[: place + 1].count(label)})" if labels.count(label) > 1 else label
        for place, label in enumerate(labels)
    ]


def _own_words(origin: Origin, siblings: Sequence[Origin]) -> str:
    """Of a protocol what its siblings' do not all say too."""
    words = origin.protocol.split(", ")
    shared = set(words).intersection(*(other.protocol.split(", ") for other in siblings))
    return ", ".join([word for word in words if word not in shared] or words)


def _published_cells(scores: dict[str, PublishedScore]) -> dict[Row, Cell]:
    return {
        Row(folder, shown_tasks()[folder].metric): Cell(
            found.score, is_approximate=found.is_measured_in_figure
        )
        for folder, found in scores.items()
        if folder != APART
    }


def leaderboard_column(row: LeaderboardRow) -> Column:
    """A submission as a column."""
    label, protocol = f"{row.name} (leaderboard)", f"HEAR leaderboard, {row.date}"
    beehive = row.scores[APART].score if APART in row.scores else None
    return Column(label, LEADERBOARD, protocol, _published_cells(row.scores), beehive)


def estimates_column() -> Column:
    """Dasheng-1.2B as read off the paper's figure."""
    return Column(READ_OFF, FIGURE, "read off a figure of the paper", _published_cells(estimates()))


def ordered_rows(columns: Sequence[Column]) -> list[Row]:
    """All rows: HEAR's in the order of the domains, then others by name."""
    order = {folder: place for place, folder in enumerate(shown_tasks())}
    rows = {row for column in columns for row in column.cells}

    def place(row: Row) -> tuple[int, str, str, str]:
        return (
            order[row.task] if row.hear_task else len(order),
            row.task,
            row.metric,
            row.files,
        )

    return sorted(rows, key=place)
