"""The lists that say what a HEAR task is: metadata, splits and vocabulary, checked whenever they are read.

They come from archives and folders that we did not write. Splits and clips become parts of paths, so each
must be a name; labels become rows of targets, so each must be a string, a number, or an event.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from eval_recipes.archives import ImportProblem
from hear_dasheng.files.names import LONGEST_BYTES, UnsafeName, check_name
from hear_dasheng.files.strict_json import JsonProblem, json_type, read_json_object

METADATA = "task_metadata.json"
VOCABULARY = "labelvocabulary.csv"
LONGEST_ENDING = ".embedding-dimensions.json"
"""The longest of the endings that embedding adds to names of splits and clips."""
REMEDY = "fetch or import the task again"
LARGEST_VOCABULARY_BYTES = 1 << 24


class TaskProblem(Exception):
    """One task cannot be done; the others can."""


class BrokenTask(TaskProblem, ImportProblem):
    """A task whose lists are missing, damaged or unsafe: it cannot be imported, embedded or scored."""


def read_metadata(task_dir: Path) -> dict[str, Any]:
    """Return a task's metadata, whose `splits` are checked.

    Raises:
        BrokenTask: the file is missing or not strict JSON, or its splits are not names, or not distinct.
    """
    path = task_dir / METADATA
    metadata = _object(path)
    splits = metadata.get("splits")
    if not isinstance(splits, list) or not splits:
        raise BrokenTask(f"{path} names no splits; {REMEDY}")
    for split in splits:
        _checked_name(split, path)
    if len(set(splits)) < len(splits):
        twice = next(split for split in splits if splits.count(split) > 1)
        raise BrokenTask(f"{path} names the split {twice!r} twice; {REMEDY}")
    return metadata


def read_split(task_dir: Path, split: str) -> dict[str, list[Any]]:
    """Return a split's clips and their labels.

    Args:
        task_dir: of the task, or of its embeddings, which have a copy of the list.
        split: one of the metadata's.

    Returns:
        For each clip's file name its labels (strings or numbers), or its events (`label`, `start` and `end`
        in ms).

    Raises:
        BrokenTask: the list is missing or not strict JSON, a clip is not a name, or its labels have another
            form.
    """
    path = task_dir / f"{split}.json"
    clips = _object(path)
    for clip, labels in clips.items():
        _checked_name(clip, path)
        if not isinstance(labels, list):
            raise BrokenTask(
                f"{path}: {clip!r} has {json_type(labels)} where a list of labels is expected; {REMEDY}"
            )
        for label in labels:
            if fault := _label_fault(label):
                raise BrokenTask(f"{path}: {clip!r} has {fault}; {REMEDY}")
    return clips


def read_splits(task_dir: Path) -> dict[str, dict[str, list[Any]]]:
    """Return all splits of a task; see `read_split`.

    Raises:
        BrokenTask: see `read_metadata` and `read_split`.
    """
    return {split: read_split(task_dir, split) for split in read_metadata(task_dir)["splits"]}


def read_vocabulary(task_dir: Path) -> dict[str, int]:
    """Return the indices of a task's labels, from 0 on.

    Raises:
        BrokenTask: the file is missing, too large, not UTF-8 or not a table of `idx` and `label`; a label is
            empty or there twice, or the indices are not 0 to their number.
    """
    path = task_dir / VOCABULARY
    if not path.is_file():
        raise BrokenTask(f"{path} is missing; {REMEDY}")
    if (size := path.stat().st_size) > LARGEST_VOCABULARY_BYTES:
        raise BrokenTask(f"{path} has {size} bytes; at most {LARGEST_VOCABULARY_BYTES} are read")
    found: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file, strict=True), 2):
                index, label = row.get("idx"), row.get("label")
                if not (index and index.isascii() and index.isdigit() and len(index) < 10 and label):
                    raise BrokenTask(f"{path}, row {number}: no idx (a number) and label; {REMEDY}")
                if label in found:
                    raise BrokenTask(f"{path}, row {number}: the label {label!r} is there twice; {REMEDY}")
                found[label] = int(index)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise BrokenTask(f"{path} is not UTF-8: byte {error.start} is {byte:#04x}; {REMEDY}") from error
    except csv.Error as error:
        raise BrokenTask(f"{path} is not a table: {error}; {REMEDY}") from error
    if sorted(found.values()) != list(range(len(found))):
        raise BrokenTask(f"{path}: the indices of {len(found)} labels are not 0 to their number; {REMEDY}")
    return found


def _object(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except FileNotFoundError as error:
        raise BrokenTask(f"{path} is missing; {REMEDY}") from error
    except JsonProblem as error:
        raise BrokenTask(f"{error}; {REMEDY}") from error


def _checked_name(name: Any, path: Path) -> None:
    try:
        check_name(name, str(path), LONGEST_BYTES - len(LONGEST_ENDING))
    except UnsafeName as error:
        raise BrokenTask(f"{error}; nothing is read or written there") from error


def _label_fault(label: Any) -> str:
    """Return what is wrong with a label or an event; nothing if it is one."""
    if isinstance(label, dict):
        times = [label.get("start"), label.get("end")]
        if not _is_label(label.get("label")) or not all(map(_is_number, times)) or times[1] < times[0]:
            return "an event without label, start and a later end (in ms)"
        return ""
    return "" if _is_label(label) else f"{json_type(label)} where a label is expected"


def _is_label(value: Any) -> bool:
    return isinstance(value, str) or _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
