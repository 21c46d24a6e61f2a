"""All data sets by name, with their publishers' sizes: `data/knn_datasets.csv`."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from eval_recipes.datasets import environmental_sounds, instruments, own_data, spoken_commands, voices
from eval_recipes.datasets.clips import (
    Clip,
    ClipList,
    DatasetProblem,
    Faults,
    Sizes,
    checked_list,
)
from eval_recipes.task_table import data_rows
from hear_dasheng.files.failures import shown

TABLE = "knn_datasets.csv"

Reader = Callable[[Path], tuple[Path, list[Clip]]]

READERS: dict[str, Reader] = {
    "esc50": environmental_sounds.esc50,
    "fsdkaggle2018": environmental_sounds.fsdkaggle2018,
    "nsynth_instrument": instruments.nsynth_instrument,
    "speech_commands_v1": spoken_commands.speech_commands_v1,
    "speech_commands_v2": spoken_commands.speech_commands_v2,
    "urbansound8k": environmental_sounds.urbansound8k,
    "voxceleb1": voices.voxceleb1,
    "ravdess_speech": voices.ravdess_speech,
    "fluent_speech_commands": spoken_commands.fluent_speech_commands,
    "fluent_speech_wordings": spoken_commands.fluent_speech_wordings,
}
"""Each takes the user's folder, and gives the data set's with the clips of its parts that are used."""

FOLDER, LIST = "folder", "list"
OWN = (FOLDER, LIST)


@dataclass(frozen=True)
class Published:
    """A published data set.

    Attributes:
        name: as the command has it.
        title: as a table shows it.
        paper_column: its column among the paper's numbers; empty if it has none.
        sizes: classes, and clips by part.
        source: where its sizes are told.
        remark: author, year, what the classes are.
    """

    name: str
    title: str
    paper_column: str
    sizes: Sizes
    source: str
    remark: str


@cache
def published_datasets() -> dict[str, Published]:
    """By name, in the paper's order."""
    return {row["dataset"]: _published(row) for row in data_rows(TABLE)}


def _published(row: dict[str, str]) -> Published:
    parts = dict(part.strip().rsplit(" ", 1) for part in row["parts"].split(";"))
    sizes = Sizes(int(row["classes"]), {name: int(count) for name, count in parts.items()})
    return Published(row["dataset"], row["title"], row["paper_column"], sizes, row["source"], row["remark"])


def folder_name(name: str, data: Path, own_name: str | None = None) -> str:
    """The folder of a data set's results: never the same for two data sets, published or one's own.

    Args:
        name: a published one, `folder` or `list`.
        data: its folder, or the table.
        own_name: what the user calls a data set of their own; None: after `data`, with a hash of where it is.

    Raises:
        DatasetProblem: the name is that of a published one's, or cannot be a folder's.

    >>> folder_name("esc50", Path("x")), folder_name("list", Path("x.csv"), "barks")
    ('esc50', 'list-barks')
    """
    if own_name is not None and name not in OWN:
        raise DatasetProblem(f"--name {own_name!r} is for data of your own (--dataset {' or '.join(OWN)})")
    if own_name is not None and not re.fullmatch(r"\w[\w.-]*", own_name):
        raise DatasetProblem(
            f"--name {own_name!r} must be letters, digits, '_', '-' and '.', no '-' or '.' first"
        )
    if name not in OWN:
        return name
    where = hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:8]
    return f"{name}-{own_name or f'{_own_title(name, data)}-{where}'}"


def own_identity(name: str, data: Path) -> dict[str, str]:
    """Where files are of which only paths below a folder are known; none for a published data set."""
    if name not in OWN:
        return {}
    return {"data": shown(data.resolve() if name == FOLDER else data.resolve().parent)}


def _own_title(name: str, data: Path) -> str:
    return shown(data.resolve().name if name == FOLDER else data.stem)


def read_dataset(
    name: str,
    data: Path,
    allow_incomplete: bool = False,
    label_column: str = "label",
    own_name: str | None = None,
    faults: Faults | None = None,
) -> ClipList:
    """Read and check a data set.

    Args:
        name: a published one, `folder` (one of one's own, a folder per class) or `list` (a table).
        data: its folder, or the table.
        allow_incomplete: go on with what is there of it.
        label_column: of a table.
        own_name: of a data set of one's own; None: after `data`.
        faults: looks into the files; None: they are not opened.

    Raises:
        DatasetProblem: it is unknown, not there, or not complete.
    """
    if name == LIST and not data.is_file():
        raise DatasetProblem(f"{data} is no file; --dataset list reads a CSV or TSV table")
    if name != LIST and not data.is_dir():
        raise DatasetProblem(f"{data} is no folder; --data is the folder that holds the data set")
    if name not in READERS and name not in OWN:
        near = difflib.get_close_matches(name.lower(), [*READERS, *OWN], n=1, cutoff=0.4)
        meant = f"; did you mean {near[0]}?" if near else "."
        raise DatasetProblem(f"there is no data set {name!r}{meant} It can be {', '.join((*READERS, *OWN))}")
    if name in OWN:
        folder, clips = (
            own_data.table(data, label_column) if name == LIST else own_data.folder_per_class(data)
        )
        return checked_list(own_name or _own_title(name, data), folder, clips, None, allow_incomplete, faults)
    folder, clips = READERS[name](data)
    return checked_list(name, folder, clips, published_datasets()[name].sizes, allow_incomplete, faults)
