"""Embedded tasks made of random numbers, in heareval's layout, for the tests of scoring."""

import json
import pickle
from pathlib import Path

import numpy as np


def write_split(folder: Path, split: str, embeddings: np.ndarray, labels: list[list]) -> None:
    """A split's vectors and labels."""
    (folder / f"{split}.embedding-dimensions.json").write_text(json.dumps(embeddings.shape))
    embeddings.astype(np.float32).tofile(folder / f"{split}.embeddings.npy")
    with (folder / f"{split}.target-labels.pkl").open("wb") as opened:
        pickle.dump(labels, opened)


def write_task(folder: Path, labels: list[str], **metadata) -> Path:
    """What all splits share."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{index},{label}" for index, label in enumerate(labels)]
    (folder / "labelvocabulary.csv").write_text("\n".join(["idx,label", *rows]) + "\n")
    (folder / "task_metadata.json").write_text(json.dumps({"task_name": "made_up", **metadata}))
    (folder / ".done.embeddings").touch()
    return folder


def _vectors(rng: np.random.Generator, targets: np.ndarray, dim: int, noise: float) -> np.ndarray:
    directions = np.random.default_rng(0).standard_normal((targets.shape[1], dim))
    return targets @ directions + noise * rng.standard_normal((len(targets), dim))


def multiclass_task(
    folder: Path, *, clips: int = 90, folds: int = 3, classes: int = 4, dim: int = 24, noise: float = 3.0
) -> Path:
    """Clips with one label each, in folds."""
    labels = [f"class {index}" for index in range(classes)]
    names = [f"fold{index:02d}" for index in range(folds)]
    for index, split in enumerate(names):
        rng = np.random.default_rng([1, index])
        label = rng.permutation(np.arange(clips // folds) % classes)
        write_split(
            folder_of(folder), split, _vectors(rng, np.eye(classes)[label], dim, noise), [[labels[i]] for i in label]
        )
        (folder / f"{split}.json").write_text("{}")
    metadata = {"embedding_type": "scene", "prediction_type": "multiclass", "split_mode": "new_split_kfold"}
    return write_task(folder, labels, splits=names, evaluation=["top1_acc", "chroma_acc"], **metadata)


def multilabel_task(
    folder: Path, *, clips: tuple[int, int, int] = (80, 40, 60), classes: int = 5, dim: int = 24, noise: float = 2.0
) -> Path:
    """Clips with no label to all of them."""
    labels = [str(index) for index in range(classes)]
    names = ["train", "valid", "test"]
    for index, (split, count) in enumerate(zip(names, clips, strict=True)):
        rng = np.random.default_rng([2, index])
        targets = rng.random((count, classes)) < 0.3
        listed = [[labels[i] for i in np.flatnonzero(row)] for row in targets]
        write_split(folder_of(folder), split, _vectors(rng, targets.astype(float), dim, noise), listed)
        (folder / f"{split}.json").write_text("{}")
    metadata = {"embedding_type": "scene", "prediction_type": "multilabel", "split_mode": "trainvaltest"}
    return write_task(folder, labels, splits=names, evaluation=["mAP", "d_prime", "aucroc"], **metadata)


def event_task(
    folder: Path,
    *,
    files: tuple[int, int, int] = (6, 3, 4),
    seconds: float = 8.0,
    classes: int = 3,
    dim: int = 24,
    noise: float = 1.0,
    hop_ms: float = 40.0,
) -> Path:
    """Frames of longer files, with events."""
    labels = [f"event {index}" for index in range(classes)]
    names = ["train", "valid", "test"]
    for index, (split, count) in enumerate(zip(names, files, strict=True)):
        rng = np.random.default_rng([3, index])
        times_ms = hop_ms / 2 + np.arange(int(1000 * seconds / hop_ms)) * hop_ms
        events, frames, targets = {}, [], []
        for number in range(count):
            file = f"{split}_{number:03d}.wav"
            starts = rng.uniform(0, 1000 * seconds - 900, int(seconds))
            events[file] = [
                {"label": labels[rng.integers(classes)], "start": float(s), "end": float(s + rng.uniform(300, 900))}
                for s in np.sort(starts)
            ]
            for time_ms in times_ms:
                frames.append([f"{split}/{file}", float(time_ms)])
                on = {e["label"] for e in events[file] if e["start"] <= time_ms <= e["end"]}
                targets.append([label in on for label in labels])
        listed = [[label for label, is_on in zip(labels, row, strict=True) if is_on] for row in targets]
        write_split(folder_of(folder), split, _vectors(rng, np.array(targets, float), dim, noise), listed)
        (folder / f"{split}.filename-timestamps.json").write_text(json.dumps(frames))
        (folder / f"{split}.json").write_text(json.dumps(events))
    metadata = {"embedding_type": "event", "prediction_type": "multilabel", "split_mode": "trainvaltest"}
    return write_task(folder, labels, splits=names, evaluation=["event_onset_200ms_fms", "segment_1s_er"], **metadata)


def folder_of(folder: Path) -> Path:
    """The folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder
