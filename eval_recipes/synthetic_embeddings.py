"""Embedded tasks made of random numbers, in heareval's layout, of any size.

Each label has a direction, and an embedding is the sum of its labels' directions and
noise: how well a probe can do is set by how much noise there is.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

SCENE_FOLDS = {"embedding_type": "scene", "prediction_type": "multiclass", "split_mode": "new_split_kfold"}
SCENE_SPLITS = {"embedding_type": "scene", "prediction_type": "multilabel", "split_mode": "trainvaltest"}
EVENT_SPLITS = {"embedding_type": "event", "prediction_type": "multilabel", "split_mode": "trainvaltest"}
SPLITS = ("train", "valid", "test")
LABEL_SHARE = 0.3
"""Of the clips of a task with several labels, how many have a given one."""


def multiclass(
    folder: Path,
    *,
    clips: int = 90,
    folds: int = 3,
    classes: int = 4,
    dim: int = 24,
    noise: float = 3.0,
    **metadata: Any,
) -> Path:
    """Clips with one label each, in folds; `metadata` adds to the task's own or replaces it."""
    labels = [f"class {index}" for index in range(classes)]
    names = [f"fold{index:02d}" for index in range(folds)]
    for index, split in enumerate(names):
        rng = np.random.default_rng([1, index])
        label = rng.permutation(np.arange(clips // folds) % classes)
        _write_split(folder, split, rng, np.eye(classes, dtype=bool)[label], labels, dim, noise)
    own = {**SCENE_FOLDS, "splits": names, "evaluation": ["top1_acc", "chroma_acc"]}
    return _write_task(folder, labels, own | metadata)


def multilabel(
    folder: Path,
    *,
    clips: tuple[int, int, int] = (80, 40, 60),
    classes: int = 5,
    dim: int = 24,
    noise: float = 2.0,
    **metadata: Any,
) -> Path:
    """Clips with any number of labels, split once."""
    labels = [str(index) for index in range(classes)]
    for index, (split, count) in enumerate(zip(SPLITS, clips, strict=True)):
        rng = np.random.default_rng([2, index])
        _write_split(folder, split, rng, rng.random((count, classes)) < LABEL_SHARE, labels, dim, noise)
    own = {**SCENE_SPLITS, "splits": list(SPLITS), "evaluation": ["mAP", "d_prime", "aucroc"]}
    return _write_task(folder, labels, own | metadata)


def events(
    folder: Path,
    *,
    files: tuple[int, int, int] = (6, 3, 4),
    seconds: float = 8.0,
    hop_ms: float = 40.0,
    classes: int = 3,
    dim: int = 24,
    noise: float = 1.0,
    **metadata: Any,
) -> Path:
    """Frames of longer files in which something happens once a second."""
    labels = [f"event {index}" for index in range(classes)]
    times_ms = hop_ms / 2 + np.arange(int(1000 * seconds / hop_ms)) * hop_ms
    for index, (split, count) in enumerate(zip(SPLITS, files, strict=True)):
        rng = np.random.default_rng([3, index])
        listed = {f"{split}_{n:03d}.wav": _events_of_file(rng, labels, seconds) for n in range(count)}
        frames = [[f"{split}/{file}", float(time_ms)] for file in listed for time_ms in times_ms]
        is_on = np.concatenate([_active(listed[file], labels, times_ms) for file in listed])
        _write_split(folder, split, rng, is_on, labels, dim, noise)
        (folder / f"{split}.filename-timestamps.json").write_text(json.dumps(frames))
        (folder / f"{split}.json").write_text(json.dumps(listed))
    own = {**EVENT_SPLITS, "splits": list(SPLITS), "evaluation": ["event_onset_200ms_fms", "segment_1s_er"]}
    return _write_task(folder, labels, own | metadata)


def _events_of_file(rng: np.random.Generator, labels: list[str], seconds: float) -> list[dict[str, Any]]:
    starts_ms = np.sort(rng.uniform(0, 1000 * seconds - 900, int(seconds)))
    return [
        {
            "label": labels[rng.integers(len(labels))],
            "start": float(ms),
            "end": float(ms + rng.uniform(300, 900)),
        }
        for ms in starts_ms
    ]


def _active(
    listed: list[dict[str, Any]], labels: list[str], times_ms: Float[ndarray, " frames"]
) -> Bool[ndarray, "frames labels"]:
    is_on = np.zeros((len(times_ms), len(labels)), dtype=bool)
    for event in listed:
        is_on[(times_ms >= event["start"]) & (times_ms <= event["end"]), labels.index(event["label"])] = True
    return is_on


def _write_split(
    folder: Path,
    split: str,
    rng: np.random.Generator,
    targets: Bool[ndarray, "rows labels"],
    labels: list[str],
    dim: int,
    noise: float,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    directions = np.random.default_rng(0).standard_normal((len(labels), dim))
    vectors = targets @ directions + noise * rng.standard_normal((len(targets), dim))
    vectors.astype(np.float32).tofile(folder / f"{split}.embeddings.npy")
    (folder / f"{split}.embedding-dimensions.json").write_text(json.dumps(vectors.shape))
    (folder / f"{split}.json").write_text("{}")
    with (folder / f"{split}.target-labels.pkl").open("wb") as opened:
        pickle.dump([[labels[index] for index in np.flatnonzero(row)] for row in targets], opened)


def _write_task(folder: Path, labels: list[str], metadata: dict[str, Any]) -> Path:
    rows = [f"{index},{label}" for index, label in enumerate(labels)]
    (folder / "labelvocabulary.csv").write_text("\n".join(["idx,label", *rows]) + "\n")
    (folder / "task_metadata.json").write_text(json.dumps({"task_name": folder.name, **metadata}, indent=1))
    (folder / ".done.embeddings").touch()
    return folder
