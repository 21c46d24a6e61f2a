"""HEAR's 19 tasks in 20 folders, as one table: `data/hear_tasks.csv`, which names its sources."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

ZENODO_RECORD = 6332517
"""HEAR 2021.3, the archives of all tasks."""

ARCHIVE_RATE_HZ = 48_000
"""The only rate in that record."""


class UnknownTask(ValueError):
    """No task of HEAR's has this name; the message suggests one."""


@dataclass(frozen=True)
class HearTask:
    """A task folder of the benchmark.

    Attributes:
        folder: its name on disk, which holds name, version and mode.
        title: of the task; the two Beehive folders share one.
        domain: in Dasheng's grouping; None for Beehive, which is in no domain's mean.
        embedding: one for each clip, or one for each moment.
        prediction: one label, or several.
        split_mode: three splits, or folds (HEAR's own or the data set's).
        folds: None for three splits.
        metric: heareval's primary metric.
        seconds: of each clip; None if they differ.
        hours: of all clips.
        clips: in all splits.
        classes: in the label vocabulary.
        archive_bytes: of the archive; None if unknown.
        licence: of the data set it was made from; None if unknown.
    """

    folder: str
    title: str
    domain: Literal["Environment", "Speech", "Music"] | None
    embedding: Literal["scene", "event"]
    prediction: Literal["multiclass", "multilabel"]
    split_mode: Literal["trainvaltest", "new_split_kfold", "presplit_kfold"]
    folds: int | None
    metric: str
    seconds: float | None
    hours: float
    clips: int
    classes: int
    archive_bytes: int | None
    licence: str | None

    @property
    def name(self) -> str:
        """The folder's name without version and mode: `esc50`."""
        return self.folder.split("-")[0]

    @property
    def version(self) -> str:
        """Between name and mode: `v2.0.0`."""
        return "-".join(self.folder.split("-")[1:-1])

    @property
    def mode(self) -> str:
        """`full`, or how many hours were taken of the data set."""
        return self.folder.split("-")[-1]

    @property
    def archive(self) -> str:
        """Name of its archive in the Zenodo record."""
        return f"hear2021-{self.folder}-{ARCHIVE_RATE_HZ}.tar.gz"


@cache
def data_rows(name: str) -> tuple[dict[str, str], ...]:
    """The rows of a CSV file in `data/`, whose lines that begin with # are comments."""
    text = (files("eval_recipes") / "data" / name).read_text(encoding="utf-8")
    return tuple(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


@cache
def hear_tasks() -> tuple[HearTask, ...]:
    """All task folders, sorted by name."""
    return tuple(sorted(map(_task, data_rows("hear_tasks.csv")), key=lambda task: task.folder))


def _task(row: dict[str, str]) -> HearTask:
    """A row of the table; what it calls none, variable or unknown is None here."""
    known = {key: None if value in ("none", "variable", "unknown") else value for key, value in row.items()}
    seconds = float(known["seconds"]) if known["seconds"] else None
    clips = int(known["clips"])
    return HearTask(
        **{key: known[key] for key in ("folder", "title", "domain", "embedding", "prediction")},
        **{key: known[key] for key in ("split_mode", "metric", "licence")},
        folds=int(known["folds"]) if known["folds"] else None,
        seconds=seconds,
        hours=clips * seconds / 3600 if seconds else float(known["hours"]),
        clips=clips,
        classes=int(known["classes"]),
        archive_bytes=int(known["archive_bytes"]) if known["archive_bytes"] else None,
    )


def find_tasks(names: Iterable[str]) -> list[HearTask]:
    """The tasks that a user names, each once, in the table's order.

    Args:
        names: folders, names without version (which may stand for two folders) and
            `tfds_`, titles, or `all`; upper and lower case are one.

    Raises:
        UnknownTask: one of them is none of these.

    >>> [task.folder for task in find_tasks(["esc50", "NSynth_pitch"])]
    ['esc50-v2.0.0-full', 'nsynth_pitch-v2.2.3-50h', 'nsynth_pitch-v2.2.3-5h']
    """
    by_name: dict[str, set[HearTask]] = {"all": set(hear_tasks())}
    for task in hear_tasks():
        for name in (task.folder, task.name, task.name.removeprefix("tfds_"), task.title):
            by_name.setdefault(name.lower(), set()).add(task)
    found: set[HearTask] = set()
    for name in names:
        if name.lower() not in by_name:
            raise UnknownTask(_suggestion(name, by_name))
        found |= by_name[name.lower()]
    return [task for task in hear_tasks() if task in found]


def _suggestion(name: str, by_name: dict[str, set[HearTask]]) -> str:
    near = difflib.get_close_matches(name.lower(), by_name, n=1, cutoff=0.4)
    meant = f"; did you mean {min(task.folder for task in by_name[near[0]])}?" if near else "."
    return f"HEAR has no task {name!r}{meant} `hear-dasheng tasks list` shows all"
