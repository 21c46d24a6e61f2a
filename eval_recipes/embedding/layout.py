"""Embeddings of a HEAR task on the disk, as heareval's embedding runner writes them.

A folder `<embeddings>/<module>[-options]/<task>` holds the task's metadata, vocabulary and split
lists; for each clip `<split>/<clip>.embedding.npy` with its labels and, of an event task, its
timestamps; for each split all rows in one file, in an order that heareval shuffles with seed 0.
Source: heareval 2021.1.3, `embeddings/task_embeddings.py`; a test compares whole folders.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from eval_recipes.hear_modules import check_name
from eval_recipes.task_checks import TaskProblem
from eval_recipes.task_lists import METADATA, VOCABULARY, read_splits
from hear_dasheng.files.atomic import atomic_file, write_atomically

if TYPE_CHECKING:
    from eval_recipes.embedding.module import Embedding

EMBEDDINGS_DONE = ".done.embeddings"
EMBEDDINGS_RECORD = "hear-dasheng.embeddings.json"
PROFILE = "profile.embeddings.json"
LONGEST_FOLDER_NAME = 255
"""In bytes, on all usual file systems."""
SHUFFLE_SEED = 0
LABEL_END_MS = 0.0001
"""Added to an event's end, so that the end belongs to it."""


def embedding_folder(embeddings_dir: Path, module: str, options: dict[str, Any]) -> Path:
    """Return where heareval puts a module's embeddings: its name, then the options, slugified.

    Raises:
        click.ClickException: the module's name is none, or no file system takes so long a name of a folder.
    """
    from slugify import slugify

    try:
        check_name(module)
    except ImportError as error:
        raise click.ClickException(str(error)) from error
    suffix = "".join(f"-{slugify(name)}={slugify(str(value))}" for name, value in options.items())
    if (excess := len(f"{module}{suffix}".encode(errors="replace")) - LONGEST_FOLDER_NAME) > 0:
        raise click.BadParameter(
            f"--model-options takes {len(suffix)} characters in the name of the folder of embeddings, "
            f"{excess} too many; let a file hold long values, or choose them in a module of your own"
        )
    return embeddings_dir / f"{module}{suffix}"


def copy_task_files(task_dir: Path, out: Path) -> dict[str, dict[str, Any]]:
    """Copy what says what a task is into its folder of embeddings.

    Returns:
        For each split its clips' names and labels.

    Raises:
        BrokenTask: a list is damaged, or names something outside its folder; nothing is written.
    """
    splits = read_splits(task_dir)
    for name in (METADATA, VOCABULARY, *(f"{split}.json" for split in splits)):
        write_atomically(out / name, (task_dir / name).read_bytes())
    for split in splits:
        (out / split).mkdir(exist_ok=True)
    return splits


def is_written(out: Path, split: str, clip: str) -> bool:
    """Return whether a clip's files are all there: the embedding comes last.

    Clips are not flushed to the disk one by one, so a power failure can leave empty ones; these do not count.
    """
    file = out / split / f"{clip}.embedding.npy"
    return file.is_file() and file.stat().st_size > 0


def write_clip(out: Path, split: str, clip: str, embedding: Embedding, labels: list[Any]) -> None:
    """Write a clip's files atomically; the finished task is flushed to the disk once, which is faster.

    Args:
        out: of the task's embeddings.
        split: the clip's.
        clip: its file name.
        embedding: of the scene or, with timestamps, of its moments.
        labels: of the scene, or its events with `start` and `end` in ms.
    """
    folder, indent = out / split, None
    if embedding.timestamps_ms is not None:
        labels, indent = labels_over_time(labels, embedding.timestamps_ms), 4
        times = json.dumps(embedding.timestamps_ms.tolist())
        write_atomically(folder / f"{clip}.timestamps.json", times, is_durable=False)
    labels_file = folder / f"{clip}.target-labels.json"
    write_atomically(labels_file, json.dumps(labels, indent=indent), is_durable=False)
    with atomic_file(folder / f"{clip}.embedding.npy", is_durable=False) as file:
        np.save(file, embedding.values)


def labels_over_time(events: Iterable[dict[str, Any]], timestamps_ms: np.ndarray) -> list[list[str]]:
    """The labels of the events that sound at each timestamp.

    Timestamps stay float32, as heareval has them: which events hold one at their very end depends on it.
    """
    from intervaltree import IntervalTree

    tree = IntervalTree()
    for event in events:
        tree.addi(event["start"], event["end"] + LABEL_END_MS, event["label"])
    return [[interval.data for interval in tree[moment]] for moment in timestamps_ms]


def join_splits(out: Path, splits: dict[str, dict[str, Any]]) -> None:
    """All clips' files -> one file of rows a split, labels and timestamps beside it.

    Args:
        out: of the task's embeddings, all clips written.
        splits: from `copy_task_files`.
    """
    shuffler = random.Random(SHUFFLE_SEED)
    for split, clips in splits.items():
        files = [out / split / f"{clip}.embedding.npy" for clip in clips]
        shuffler.shuffle(files)
        _join(out, split, files)


def _join(out: Path, split: str, files: list[Path]) -> None:
    labels: list[Any] = []
    moments: list[tuple[str, float]] = []
    n_rows = dimensions = 0
    with atomic_file(out / f"{split}.embeddings.npy") as joined:
        for file in files:
            values = _embedding_in(file)
            clip = str(file).removesuffix(".embedding.npy")
            clip_labels = json.loads(Path(f"{clip}.target-labels.json").read_text())
            if values.ndim == 2:
                times = json.loads(Path(f"{clip}.timestamps.json").read_text())
                moments += [(clip, time) for time in times]
                labels += clip_labels
            else:
                labels.append(clip_labels)
            joined.write(values.tobytes())
            n_rows, dimensions = n_rows + (len(values) if values.ndim == 2 else 1), values.shape[-1]
    write_atomically(out / f"{split}.target-labels.pkl", pickle.dumps(labels))
    if moments:
        write_atomically(out / f"{split}.filename-timestamps.json", json.dumps(moments, indent=4))
    write_atomically(out / f"{split}.embedding-dimensions.json", json.dumps((n_rows, dimensions)))


def _embedding_in(file: Path) -> np.ndarray:
    try:
        values = np.load(file)  # refuses pickled objects
        if values.dtype.kind != "f" or values.ndim not in (1, 2):
            raise ValueError(f"it holds {values.dtype} of the shape {values.shape}")
    except (ValueError, EOFError) as error:
        raise TaskProblem(
            f"{file} is damaged ({error}); delete it and give the same command again"
        ) from error
    return values.astype(np.float32)
