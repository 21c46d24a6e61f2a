"""Scores on disk -> a table: the reader of heareval's `test.predicted-scores.json`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hear_dasheng.files.json_shape import check_shape
from hear_dasheng.files.strict_json import read_json_object

SCORES = "test.predicted-scores.json"
PREDICTIONS_DONE = "prediction-done.json"
PREDICTIONS_RECORD = "hear-dasheng.predictions.json"


FETCH_TASKS = "`hear-dasheng tasks fetch` brings them, `tasks import` makes them from an archive"
EMBED_TASKS = "`hear-dasheng embed` puts them there"


class NoTasks(click.ClickException):
    """A folder holds no HEAR tasks; the message says how they come there."""


def task_folders(folder: Path, task: str = "all", remedy: str = FETCH_TASKS) -> list[Path]:
    """The task folders (those with `task_metadata.json`) that a path stands for.

    A path is one task, or a folder of tasks, of which `task` may name one, or all its versions;
    anything else lying there is named and left out, where heareval would stop.

    Raises:
        NoTasks: there are none; `remedy` says what to do.
        ClickException: the task named is not among them.
    """
    if (folder / "task_metadata.json").is_file():
        return [folder]
    entries = sorted(entry for entry in folder.glob("*") if not entry.name.startswith("."))
    found = [entry for entry in entries if (entry / "task_metadata.json").is_file()]
    if task != "all":
        named = [entry for entry in found if entry.name == task or entry.name.startswith(f"{task}-")]
        if not named:
            there = ", ".join(entry.name for entry in found) or "none"
            raise click.ClickException(f"there is no task {task!r} in {folder}; there is: {there}")
        return named
    if not found:
        below = [entry for entry in entries if any(entry.glob("*/task_metadata.json"))]
        if below:
            remedy = f"they are one level deeper, so name {' or '.join(map(str, below[:3]))}"
        raise NoTasks(f"{folder} holds no HEAR tasks (folders with a task_metadata.json); {remedy}")
    if strays := [entry.name for entry in entries if entry not in found and entry.suffix != ".log"]:
        click.echo(f"Left out, since they are no HEAR tasks: {', '.join(strays)}", err=True)
    return found


@dataclass(frozen=True)
class TaskScore:
    """The primary score of one task.

    Attributes:
        task: the task's folder name.
        metric: the first metric of its metadata.
        mean: over the folds, or of the one test split.
        std: over the folds; None for a task without folds.
    """

    task: str
    metric: str
    mean: float
    std: float | None

    def __str__(self) -> str:
        spread = "" if self.std is None else f" ± {self.std:.3f}"
        return f"{self.metric} {self.mean:.3f}{spread}"


def read_scores(task_dir: Path) -> dict[str, Any]:
    """Return all that a scorer wrote about a task; heareval writes NaN, which JSON does not know.

    Raises:
        FileNotFoundError: the task is not scored yet.
        JsonProblem: the file is damaged.
    """
    return read_json_object(task_dir / SCORES, allow_nan=True)


def primary_score(task_dir: Path) -> TaskScore:
    """A scored task's primary metric.

    Raises:
        FileNotFoundError: the task is not scored yet.
    """
    metadata = read_json_object(task_dir / "task_metadata.json")
    scores = read_scores(task_dir)
    metric = metadata["evaluation"][0]
    if "aggregated_scores" in scores:
        folds = scores["aggregated_scores"]
        mean, std = _number(folds[f"test_{metric}_mean"]), _number(folds[f"test_{metric}_std"])
        return TaskScore(task_dir.name, metric, mean, std)
    return TaskScore(task_dir.name, metric, _number(scores["test"][f"test_{metric}"]), None)


def _number(value: Any) -> float:
    """Return a score; strict JSON has null for what is not a number.

    Raises:
        JsonProblem: it is something else.
    """
    check_shape(value, (float, None), "the primary score")
    return math.nan if value is None else value


def scores_that_are_nan(task_dir: Path) -> list[str]:
    """Dotted names of all scores that are not a number (a class absent from a split, say)."""

    def walk(value: Any, name: str) -> list[str]:
        if isinstance(value, dict):
            return [found for key, inner in value.items() for found in walk(inner, f"{name}.{key}")]
        return [name.removeprefix(".")] if isinstance(value, float) and math.isnan(value) else []

    return walk(read_scores(task_dir), "")
