"""heareval's protocol on one task with one seed: grid search, folds, test -> a result.

All grid points are trained on the first fold; the best by validation is then trained on the
other folds; each fold's model is tested. Trainings run side by side, one thread each: a probe is so
small that two cores are busier with two probes than with the halves of one.
"""

from __future__ import annotations

import math
import statistics
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from eval_recipes.scoring.batches import Batch, batches, trainable
from eval_recipes.scoring.grid import GridPoint, draw
from eval_recipes.scoring.judge import Judge, judge_of, maximizes
from eval_recipes.scoring.probe import Probe
from eval_recipes.scoring.task_data import Fold, TaskData
from eval_recipes.scoring.training import Trained, train
from hear_dasheng.compute.precision import fp32_arithmetic


@dataclass(frozen=True)
class Settings:
    """What a user chooses.

    Attributes:
        grid: `default`, `fast` or `faster`.
        grid_points: how many are drawn from it.
        precision: of the products in training, `fp32` or `bf16`.
        device: as torch names it.
    """

    grid: str = "default"
    grid_points: int = 8
    precision: str = "fp32"
    device: str = "cpu"


@dataclass(frozen=True)
class SeedResult:
    """One run of the protocol.

    Attributes:
        scores: what heareval writes for it.
        trainings: what each training was and came to, the grid's first.
    """

    seed: int
    scores: dict[str, Any]
    trainings: list[dict[str, Any]]


@contextmanager
def scoring_arithmetic() -> Iterator[None]:
    """Keep torch's products on the thread that asks for them, and fp32 products in full precision.

    Both are settings of the process, so they are set once around all trainings. The products that
    `precision: bf16` rounds are unaffected: their factors are bfloat16 already.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with fp32_arithmetic():
            yield
    finally:
        torch.set_num_threads(before)


class FoldData:
    """A fold's training batches and judges, shared by all trainings on it."""

    def __init__(self, task: TaskData, fold: Fold, device: torch.device) -> None:
        self.fold = fold
        self._task = task
        self._device = device
        self._lock = threading.Lock()
        self._batches: dict[int, list[Batch]] = {}
        self.valid = judge_of(task, fold.valid, device)

    def training(self, batch_size: int) -> list[Batch]:
        """The batches of an epoch."""
        with self._lock:
            if batch_size not in self._batches:
                cut = batches(self._task.splits(self.fold.train), batch_size, self._device)
                self._batches[batch_size] = trainable(cut)
            return self._batches[batch_size]

    def tester(self) -> Judge:
        """The judge of the test split."""
        return judge_of(self._task, self.fold.test, self._device)


class Protocol:
    """The protocol on one task.

    Args:
        task: its data.
        settings: the user's choices.
        pool: where trainings run.
        on_trained: called after each of them.
        stop: ends all of them early.
    """

    def __init__(
        self,
        task: TaskData,
        settings: Settings,
        pool: Executor,
        *,
        on_trained: Callable[[], None] = lambda: None,
        stop: threading.Event | None = None,
    ) -> None:
        self._task, self._settings, self._pool = task, settings, pool
        self._device = torch.device(settings.device)
        self._on_trained, self._stop = on_trained, stop
        self._folds = [FoldData(task, fold, self._device) for fold in task.folds]

    def run(self, seed: int) -> SeedResult:
        """Search, train on all folds, test."""
        points = draw(self._settings.grid, self._task.metadata, self._settings.grid_points, seed)
        # The slowest (deep, small steps) go first, so that no core waits long for the last of them.
        order = sorted(range(len(points)), key=lambda i: (-points[i].hidden_layers, points[i].lr))
        first = {index: self._submit(points[index], index, 0, seed) for index in order}
        searched = [first[index].result() for index in range(len(points))]
        best = max(searched, key=self._rank)  # of equal ones the first, as heareval sorts
        index = searched.index(best)
        others = [self._submit(best.point, index, fold, seed) for fold in range(1, len(self._folds))]
        chosen = [best, *(future.result() for future in others)]
        folds = [0] * len(searched) + list(range(1, len(chosen)))
        listed = zip(searched + chosen[1:], folds, strict=True)
        trainings = [self._describe(trained, fold) for trained, fold in listed]
        return SeedResult(seed, self._test(chosen), trainings)

    def _submit(self, point: GridPoint, index: int, fold: int, seed: int) -> Future[Trained]:
        return self._pool.submit(self._train, point, index, fold, seed)

    def _train(self, point: GridPoint, index: int, fold: int, seed: int) -> Trained:
        data = self._folds[fold]
        own_seed = int(np.random.SeedSequence([seed, index, fold]).generate_state(1)[0])
        probe = Probe(
            self._task.features,
            self._task.labels,
            self._task.is_multilabel,
            point,
            seed=own_seed,
            precision=self._settings.precision,
            device=self._device,
        )
        trained = train(
            point,
            probe,
            data.training(point.batch_size),
            data.valid.validate,
            maximize=maximizes(self._task),
            stop=self._stop,
        )
        self._on_trained()
        return trained

    def _describe(self, trained: Trained, fold: int) -> dict[str, Any]:
        return {
            "fold": self._folds[fold].fold.name,
            "hparams": trained.point.hparams(),
            "validation_score": trained.best.score,
            "epoch": trained.epoch,
            "epochs": trained.epochs,
            "validations": trained.validations,
            "time_in_min": trained.minutes,
        }

    def _rank(self, trained: Trained) -> np.float32:
        score = np.float32(trained.best.score)
        if math.isnan(score):
            return np.float32(-np.inf)
        return score if maximizes(self._task) else -score

    def _test(self, chosen: list[Trained]) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for data, trained in zip(self._folds, chosen, strict=True):
            results[data.fold.name] = {
                **data.tester().test(trained.probe, trained.best.postprocessing),
                "validation_score": trained.best.score,
                "epoch": trained.epoch,
                "time_in_min": trained.minutes,
            }
        if len(results) > 1:
            results["aggregated_scores"] = aggregate(list(results.values()))
        best = chosen[0]
        return results | {
            "hparams": best.point.hparams(),
            "postprocessing": [list(setting) for setting in best.best.postprocessing],
            "score_mode": "max" if maximizes(self._task) else "min",
            "embedding_path": str(self._task.folder),
        }


def aggregate(folds: list[dict[str, float]]) -> dict[str, float]:
    """Mean and sample standard deviation over folds; folds where a score is not a number are left out."""
    aggregated = {}
    for name in folds[0]:
        values = [float(fold[name]) for fold in folds if not math.isnan(fold[name])]
        aggregated[f"{name}_mean"] = statistics.fmean(values) if values else math.nan
        is_spread = len(values) > 1 and all(map(math.isfinite, values))
        aggregated[f"{name}_std"] = statistics.stdev(values) if is_spread else math.nan
    return aggregated
