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

import numpy as np

from eval_recipes.whole_files import whole_file, write_whole

if TYPE_CHECKING:
    from eval_recipes.embedding.module import Embedding

EMBEDDINGS_DONE = ".done.embeddings"
EMBEDDINGS_RECORD = "hear-dasheng.embeddings.json"
PROFILE = "profile.embeddings.json"
SHUFFLE_SEED = 0
LABEL_END_MS = 0.0001
"""Added to an event's end, so that the end belongs to it."""


def embedding_folder(embeddings_dir: Path, module: str, options: dict[str, Any]) -> Path:
    """Where heareval puts a module's embeddings: its name, then the options, slugified."""
    from slugify import slugify

    suffix = "".join(f"-{slugify(name)}={slugify(str(value))}" for name, value in options.items())
    return embeddings_dir / f"{module}{suffix}"


def copy_task_files(task_dir: Path, out: Path) -> dict[str, dict[str, Any]]:
    """Copy what says what a task is into its folder of embeddings.

    Returns:
        For each split its clips' names and labels.
    """
    metadata = json.loads((task_dir / "task_metadata.json").read_text())
    lists = [f"{split}.json" for split in metadata["splits"]]
    for name in ("task_metadata.json", "labelvocabulary.csv", *lists):
        write_whole(out / name, (task_dir / name).read_bytes())
    for split in metadata["splits"]:
        (out / split).mkdir(exist_ok=True)
    return {split: json.loads((out / f"{split}.json").read_text()) for split in metadata["splits"]}


def is_written(out: Path, split: str, clip: str) -> bool:
    """Whether a clip's files are all there: the embedding comes last."""
    return (out / split / f"{clip}.embedding.npy").is_file()


def write_clip(out: Path, split: str, clip: str, embedding: Embedding, labels: list[Any]) -> None:
    """Write a clip's files, each whole or not there.

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
        _write_text(folder / f"{clip}.timestamps.json", json.dumps(embedding.timestamps_ms.tolist()))
    _write_text(folder / f"{clip}.target-labels.json", json.dumps(labels, indent=indent))
    with whole_file(folder / f"{clip}.embedding.npy") as file:
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
    with whole_file(out / f"{split}.embeddings.npy") as joined:
        for file in files:
            values = np.load(file).astype(np.float32)
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
    write_whole(out / f"{split}.target-labels.pkl", pickle.dumps(labels))
    if moments:
        _write_text(out / f"{split}.filename-timestamps.json", json.dumps(moments, indent=4))
    _write_text(out / f"{split}.embedding-dimensions.json", json.dumps((n_rows, dimensions)))


def _write_text(path: Path, text: str) -> None:
    write_whole(path, text.encode())
