"""One embedded task -> tensors: metadata, folds, vocabulary, embeddings, labels.

Reads the layout that heareval writes, a file a split: `<split>.embeddings.npy` (raw
float32), `.embedding-dimensions.json`, `.target-labels.pkl`, and for event tasks
`.filename-timestamps.json` and `<split>.json` (the true events).
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eval_recipes.task_checks import TaskProblem
from eval_recipes.task_lists import read_metadata, read_split, read_vocabulary
from hear_dasheng.files.strict_json import JsonProblem, read_json

FOLD_MODES = ("new_split_kfold", "presplit_kfold")
LARGEST_TIMES_BYTES = 1 << 31
"""Largest file of a split's timestamps: at about 60 bytes a frame, a week of frames of 20 ms."""


@dataclass(frozen=True)
class Fold:
    """Which splits train, select and test one model."""

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def name(self) -> str:
        """The fold's name in a score file."""
        return "|".join(self.test)


@dataclass(frozen=True)
class Split:
    """What a split holds.

    Attributes:
        embeddings: one row a clip (scene) or frame (event), mapped from the disk.
        targets: one row of zeros and ones each.
    """

    name: str
    embeddings: Float[Tensor, "rows features"]
    targets: Float[Tensor, "rows labels"]


class TaskData:
    """An embedded task's folder.

    Args:
        folder: with `task_metadata.json` and the files of all splits.

    Raises:
        TaskProblem: a file is missing or does not fit the others.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata: dict[str, Any] = read_metadata(folder)
        self.is_event_task = self._one_of("embedding_type", ("scene", "event")) == "event"
        self.is_multilabel = self._one_of("prediction_type", ("multiclass", "multilabel")) == "multilabel"
        self.metrics: list[str] = self.metadata["evaluation"]
        self.label_to_index = read_vocabulary(folder)
        self._splits: dict[str, Split] = {}

    @property
    def labels(self) -> int:
        """How many labels there are."""
        return len(self.label_to_index)

    @property
    def features(self) -> int:
        """Width of the embeddings, the same in all splits."""
        return self.split(self.metadata["splits"][0]).embeddings.shape[1]

    @property
    def selects_by_score(self) -> bool:
        """Whether the primary metric selects models; else the validation loss does."""
        return self.metadata.get("use_scoring_for_early_stopping", True)

    @cached_property
    def folds(self) -> list[Fold]:
        """Each split once as test, its successor as validation, the others as training."""
        mode = self.metadata["split_mode"]
        if mode == "trainvaltest":
            return [Fold(("train",), ("valid",), ("test",))]
        if mode not in FOLD_MODES:
            raise TaskProblem(f"split_mode {mode!r} is none of trainvaltest, {', '.join(FOLD_MODES)}")
        names = sorted(self.metadata["splits"])
        folds = []
        for index, test in enumerate(names):
            valid = names[(index + 1) % len(names)]
            folds.append(Fold(tuple(n for n in names if n not in (test, valid)), (valid,), (test,)))
        return folds

    def split(self, name: str) -> Split:
        """A split's tensors, read once."""
        if name not in self._splits:
            embeddings = self._read_embeddings(name)
            self._splits[name] = Split(name, embeddings, self._read_targets(name, len(embeddings)))
        return self._splits[name]

    def splits(self, names: tuple[str, ...]) -> list[Split]:
        """Several splits, in order."""
        return [self.split(name) for name in names]

    def frames(self, names: tuple[str, ...]) -> list[tuple[str, float]]:
        """File name and time in ms of each frame of an event task's splits."""
        listed = [frame for name in names for frame in self._json(f"{name}.filename-timestamps.json")]
        if len(listed) != (rows := sum(len(split.targets) for split in self.splits(names))):
            raise TaskProblem(f"{self.folder}: {len(listed)} timestamps for {rows} embeddings in {names}")
        return [(Path(file).name, float(time_ms)) for file, time_ms in listed]

    def true_events(self, names: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
        """Events (label, start and end in ms) of each file of an event task's splits."""
        events: dict[str, list[dict[str, Any]]] = {}
        for name in names:
            of_split = read_split(self.folder, name)
            if twice := events.keys() & of_split.keys():
                raise TaskProblem(f"{self.folder}: {min(twice)} is in two splits of {names}")
            events |= of_split
        return events

    def _json(self, name: str) -> Any:
        path = self.folder / name
        if not path.is_file():
            raise TaskProblem(f"{path} is missing: the task is only half embedded; embed it again")
        try:
            return read_json(path, largest_bytes=LARGEST_TIMES_BYTES)
        except JsonProblem as error:
            raise TaskProblem(f"{error}; embed the task again") from error

    def _one_of(self, key: str, allowed: tuple[str, ...]) -> str:
        if self.metadata[key] not in allowed:
            raise TaskProblem(f"{key} {self.metadata[key]!r} is none of {', '.join(allowed)}")
        return self.metadata[key]

    def _read_embeddings(self, name: str) -> Float[Tensor, "rows features"]:
        rows, features = self._json(f"{name}.embedding-dimensions.json")
        path = self.folder / f"{name}.embeddings.npy"
        if not path.is_file() or path.stat().st_size != rows * features * 4:
            raise TaskProblem(f"{path} is not {rows} rows of {features} float32 values; embed the task again")
        # Copy-on-write: torch warns of arrays that it could not write to.
        return torch.from_numpy(np.memmap(path, np.float32, "c", shape=(rows, features)))

    def _read_targets(self, name: str, rows: int) -> Float[Tensor, "rows labels"]:
        listed = _plain_lists(self.folder / f"{name}.target-labels.pkl")
        if len(listed) != rows:
            raise TaskProblem(f"{self.folder}: {len(listed)} label lists for {rows} embeddings in {name}")
        targets = torch.zeros(rows, self.labels)
        places = [(row, str(label)) for row, labels in enumerate(listed) for label in labels]
        if unknown := {label for _, label in places} - self.label_to_index.keys():
            raise TaskProblem(f"{self.folder}: {name} has the label {min(unknown)!r}, the vocabulary has not")
        if places:
            index = torch.tensor([(row, self.label_to_index[label]) for row, label in places])
            targets[index[:, 0], index[:, 1]] = 1.0
        if not self.is_multilabel and not bool((targets.sum(1) == 1).all()):
            row = int((targets.sum(1) != 1).nonzero()[0])
            raise TaskProblem(f"{self.folder}: row {row} of {name} has {listed[row]}, not exactly one label")
        return targets


def _plain_lists(path: Path) -> list[list[Any]]:
    """Return the lists of labels in a pickle.

    Raises:
        TaskProblem: it is damaged, or holds anything else.
    """
    try:
        with path.open("rb") as opened:
            listed = _PlainUnpickler(opened).load()
    except (TaskProblem, OSError):
        raise
    except Exception as error:  # on arbitrary bytes the unpickler raises nearly anything
        raise TaskProblem(
            f"{path} is damaged ({type(error).__name__}: {error}); embed the task again"
        ) from error
    if not isinstance(listed, list) or not all(isinstance(labels, list) for labels in listed):
        raise TaskProblem(f"{path} does not hold a list of labels for each row; embed the task again")
    return listed


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists of strings and numbers, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise TaskProblem(f"a file of target labels asks for {module}.{name}; only plain lists are read")
