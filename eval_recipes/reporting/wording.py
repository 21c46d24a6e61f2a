"""Numbers and findings in words: what the page, the Markdown and the charts say alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval_recipes.reporting.columns import MEASURED, Cell, Column, Row, tasks_with_different_files
from eval_recipes.reporting.domain_means import DomainMean
from eval_recipes.reporting.published import DOMAINS, shown_tasks
from eval_recipes.reporting.score_files import Spread


def score_text(row: Row, cell: Cell) -> str:
    """A score as a reader wants it: percent with one decimal, or three decimals where 1 is no limit.

    >>> score_text(Row("esc50", "top1_acc"), Cell(0.8534, is_approximate=True))
    '~85.3'
    """
    if not cell.is_number:
        return "not a number"
    text = f"{100 * cell.score:.1f}" if row.is_fraction else f"{cell.score:.3f}"
    return f"~{text}" if cell.is_approximate else text


def spread_text(row: Row, spread: Spread) -> str:
    """A spread with what it is over.

    >>> spread_text(Row("esc50", "top1_acc"), Spread("folds", 0.0131, 5))
    '± 1.3 over 5 folds'
    """
    std = f"{100 * spread.std:.1f}" if row.is_fraction else f"{spread.std:.3f}"
    return f"± {std} over {spread.count} {spread.over}"


def mean_text(mean: DomainMean) -> str:
    """A domain's mean, or what it lacks.

    >>> mean_text(DomainMean(None, 4, ("ESC-50",)))
    'incomplete: 3 of 4'
    """
    if mean.mean is not None:
        return f"{100 * mean.mean:.1f}"
    return f"incomplete: {mean.n_scored} of {mean.n_tasks}" if mean.n_scored else "none"


def findings(columns: Sequence[Column], unscored: Sequence[Path]) -> list[str]:
    """What a reader must know before comparing columns."""
    measured = [column for column in columns if column.kind == MEASURED]
    told = [*_told_apart(measured), *_different_files(measured)]
    for folder, tasks in _by_parent(unscored).items():
        told.append(f"Embedded in {folder.name}, but not scored: {', '.join(tasks)}.")
    for column in measured:
        if nans := [row.title for row, cell in column.cells.items() if not cell.is_number]:
            told.append(f"{column.label}: the scorer gave no number for {', '.join(nans)}.")
        told += _impossible(column)
        told += _missing(column)
    return told


def _impossible(column: Column) -> list[str]:
    """Warn of scores that their metric cannot take."""
    return [
        f"{column.label}: the {row.metric} of {row.title} is {cell.score:g}, but lies between 0 and 1; the "
        "score file was changed or its scorer is wrong."
        for row, cell in column.cells.items()
        if row.is_fraction and cell.is_number and not 0 <= cell.score <= 1
    ]


def _told_apart(measured: Sequence[Column]) -> list[str]:
    told = []
    folders = [column.origin.folder for column in measured if column.origin]
    for folder in dict.fromkeys(folders):
        if folders.count(folder) > 1:
            told.append(
                f"{folder.name} holds results of {folders.count(folder)} origins (weights, options or "
                "protocols); each has its own column."
            )
    protocols = list(dict.fromkeys(column.protocol for column in measured))
    if len(protocols) > 1:
        told.append(f"Scored in {len(protocols)} ways, not to be compared closely: {'; '.join(protocols)}.")
    return told


def _different_files(measured: Sequence[Column]) -> list[str]:
    differing = tasks_with_different_files([result for column in measured for result in column.results])
    if not differing:
        return []
    titles = [shown_tasks()[task].title if task in shown_tasks() else task for task in sorted(differing)]
    return [
        f"Not made on the same files (metadata, vocabulary or splits): {', '.join(titles)}. They have a row "
        "for each version, and domain means that include them rest on different versions."
    ]


def _missing(column: Column) -> list[str]:
    """Tasks that a domain lacks, if it has any; a report on one task needs no list of the other 19."""
    present = {row.task for row, cell in column.cells.items() if row.hear_task and cell.is_number}
    told = []
    for domain in DOMAINS:
        tasks = [task for task in shown_tasks().values() if task.domain == domain]
        lacking = [task.title for task in tasks if task.folder not in present]
        if 0 < len(lacking) < len(tasks):
            told.append(f"{column.label}: {domain} is incomplete, without {', '.join(lacking)}.")
    return told


def _by_parent(folders: Sequence[Path]) -> dict[Path, list[str]]:
    parents: dict[Path, list[str]] = {}
    for folder in folders:
        parents.setdefault(folder.resolve().parent, []).append(folder.name)
    return parents
