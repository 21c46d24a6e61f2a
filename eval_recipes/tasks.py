"""HEAR tasks as commands: `tasks list`, `tasks fetch`, `tasks import`."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from eval_recipes.archives import ImportProblem
from eval_recipes.disk_space import GIGABYTE, clips_bytes
from eval_recipes.task_files import count_clips, faintness
from eval_recipes.task_import import import_tasks
from eval_recipes.task_table import ZENODO_RECORD, HearTask, UnknownTask, find_tasks
from hear_dasheng.files.failures import Group
from hear_dasheng.files.number_options import MOST_WORKERS, WholeRange
from safe_download.patience import DownloadError
from safe_download.zenodo import HOST, record_files

LIST_COLUMNS: dict[str, Callable[[HearTask], Any]] = {
    "folder": lambda task: task.folder,
    "title": lambda task: task.title,
    "version": lambda task: task.version,
    "domain": lambda task: task.domain or "none",
    "embedding": lambda task: task.embedding,
    "prediction": lambda task: task.prediction,
    "split_mode": lambda task: task.split_mode,
    "folds": lambda task: task.folds or "none",
    "metric": lambda task: task.metric,
    "seconds": lambda task: f"{task.seconds:g}" if task.seconds else "variable",
    "hours": lambda task: task.hours,
    "clips": lambda task: task.clips,
    "classes": lambda task: task.classes,
    "gb_at_16k": lambda task: clips_bytes(task, 16_000) / GIGABYTE,
    "licence": lambda task: task.licence or "unknown",
    "archive": lambda task: task.archive,
}
SIZES_REMARK = (
    "archive_gb: what is unknown here the record tells; `hear-dasheng tasks list --online` asks it, and "
    "`tasks fetch` says all sizes before it downloads"
)
NOT_IN_THE_TABLE = ("title", "version", "hours", "archive")
"""Columns that only the CSV has: the others tell them."""

RATE = click.option(
    "--rate",
    "rate_hz",
    default=16_000,
    show_default=True,
    type=WholeRange(8_000, 96_000),
    help="Sample rate to write, in Hz.",
)
OUT = click.option(
    "--out", default="tasks", show_default=True, type=click.Path(file_okay=False, path_type=Path)
)
WORKERS = click.option("--workers", type=WholeRange(1, MOST_WORKERS), help="Threads; one a core unless told.")
ZENODO = click.option(
    "--zenodo",
    default=HOST,
    show_default=True,
    help="Where the record lies; a mirror's address does as well.",
)


@click.group(cls=Group)
def tasks() -> None:
    """List HEAR's tasks, and bring them to this disk."""


@tasks.command("list")
@click.argument("names", nargs=-1)
@click.option("--format", "layout", default="table", type=click.Choice(["table", "csv"]), show_default=True)
@click.option("--online", is_flag=True, help="Ask the record how large the archives are.")
@ZENODO
def list_command(names: tuple[str, ...], layout: str, online: bool, zenodo: str) -> None:
    """List the tasks NAMES, or all 19 of HEAR, in 20 folders (Beehive has two)."""
    try:
        chosen = find_tasks(names or ["all"])
        files = record_files(ZENODO_RECORD, zenodo) if online else {}
    except (UnknownTask, DownloadError) as problem:
        raise click.ClickException(str(problem)) from problem

    def archive_gb(task: HearTask) -> float | str:
        size = files[task.archive].size_bytes if task.archive in files else task.archive_bytes
        return "unknown" if size is None else size / GIGABYTE

    columns = LIST_COLUMNS | {"archive_gb": archive_gb}
    if layout == "table":
        columns = {name: value for name, value in columns.items() if name not in NOT_IN_THE_TABLE}
    written = _rounded if layout == "table" else _exact
    rows = [list(columns), *([written(value(task)) for value in columns.values()] for task in chosen)]
    if layout == "csv":
        click.echo(_csv(rows))
        return
    click.echo(_table(rows))
    click.echo(f"\nArchives: hear2021-<folder>-48000.tar.gz in {zenodo}/records/{ZENODO_RECORD}")
    if not online and any(row[-1] == "unknown" for row in rows):
        click.echo(SIZES_REMARK)


def _rounded(value: Any) -> str:
    """A cell for people.

    >>> _rounded(11.0612), _rounded(0.0042), _rounded(5)
    ('11.06', '<0.01', '5')
    """
    if not isinstance(value, float):
        return str(value)
    return "<0.01" if 0 < value < 0.01 else f"{value:.2f}"


def _exact(value: Any) -> str:
    """A cell for programs; sizes are estimates, so six digits are all."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().rstrip("\n")


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


@tasks.command("fetch")
@click.argument("names", nargs=-1, required=True)
@RATE
@OUT
@click.option(
    "--downloads",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where archives are while they are needed.  [default: OUT.downloads]",
)
@click.option("--keep-48k/--drop-48k", default=False, help="Also keep the clips as they are in the archive.")
@click.option(
    "--keep-archives/--drop-archives", default=False, help="Or delete them once their task is complete."
)
@WORKERS
@ZENODO
def fetch_command(names: tuple[str, ...], out: Path, downloads: Path | None, **options: Any) -> None:
    """Fetch the tasks NAMES (folders, names without version, titles, or `all`) from Zenodo, resampled."""
    from eval_recipes.task_fetch import Fetch, fetch_tasks

    named = out if out.name not in ("", "..") else out.resolve()
    fetch = Fetch(
        out=out,
        downloads=downloads or named.with_name(f"{named.name}.downloads"),
        rate_hz=options["rate_hz"],
        keeps_48k=options["keep_48k"],
        keeps_archives=options["keep_archives"],
        host=options["zenodo"],
        workers=options["workers"],
    )
    try:
        fetch_tasks(find_tasks(names), fetch)
    except (UnknownTask, ImportProblem) as problem:
        raise click.ClickException(str(problem)) from problem


@tasks.command("import")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@RATE
@OUT
@WORKERS
def import_command(source: Path, rate_hz: int, out: Path, workers: int | None) -> None:
    """Import SOURCE, a HEAR task archive (tar, tar.gz) or folder, resampled."""
    try:
        folders = import_tasks(source, out, rate_hz, workers)
    except ImportProblem as problem:
        raise click.ClickException(str(problem)) from problem
    except OSError as problem:
        raise click.ClickException(
            f"{problem.filename or source}: {problem.strerror or problem}; what is converted is kept in "
            f"{out}, and the same command resumes from there"
        ) from problem
    for folder in folders:
        click.echo(f"{folder}: {count_clips(folder)} clips at {rate_hz} Hz")
        if warning := faintness(folder, rate_hz):
            click.echo(f"{folder}: {warning}", err=True)
