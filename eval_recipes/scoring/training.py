"""One training: batches and a grid point -> the best probe by validation.

Stops as heareval's Lightning does: after `patience` validations that were not strictly better, or at
the first that is not a finite number; the state of the best one counts. Scores are compared in
single precision, in which Lightning logs them.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eval_recipes.scoring.batches import Batch
from eval_recipes.scoring.events import Postprocessing
from eval_recipes.scoring.grid import GridPoint
from eval_recipes.scoring.probe import Probe

BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8


class Stopped(Exception):
    """The user interrupted the run."""


@dataclass(frozen=True)
class Validation:
    """A validation's outcome.

    Attributes:
        score: what selects models.
        postprocessing: of an event task, the settings it was reached with.
    """

    score: float
    postprocessing: Postprocessing = ()


@dataclass(frozen=True)
class Trained:
    """The best state of one training.

    Attributes:
        epoch: of that state, counted from 0.
        epochs: that were trained.
        validations: that were made.
        minutes: that it took.
    """

    point: GridPoint
    probe: Probe
    best: Validation
    epoch: int
    epochs: int
    validations: int
    minutes: float


class Adam:
    """torch's fused Adam on one vector, without the optimizer class and what it imports."""

    def __init__(self, parameters: Tensor, gradient: Tensor, lr: float) -> None:
        self._tensors = [parameters], [gradient]
        self._moments = [torch.zeros_like(parameters)], [torch.zeros_like(parameters)]
        self._steps = [torch.zeros((), device=parameters.device)]
        self._lr = lr

    def step(self) -> None:
        """Update the parameters by their gradient."""
        self._steps[0] += 1
        torch._fused_adam_(
            *self._tensors,
            *self._moments,
            [],
            self._steps,
            lr=self._lr,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=0.0,
            eps=ADAM_EPSILON,
            amsgrad=False,
            maximize=False,
        )


@torch.no_grad()
def train(
    point: GridPoint,
    probe: Probe,
    batches: list[Batch],
    validate: Callable[[Probe], Validation],
    *,
    maximize: bool,
    stop: threading.Event | None = None,
) -> Trained:
    """Train `probe` until it stops getting better, and leave it in its best state.

    Args:
        point: learning rate, patience and so on.
        probe: freshly initialised.
        batches: of one epoch, each of two rows or more.
        validate: scores the probe.
        maximize: whether a higher score is better.
        stop: set by another thread to end the training early.

    Raises:
        Stopped: `stop` was set.
        ValueError: the settings leave no room for a validation.
    """
    start = time.monotonic()
    adam = Adam(probe.parameters, probe.gradient, point.lr)
    best: tuple[Validation, int, tuple[Tensor, Tensor]] | None = None
    checkpoint_score = patience_score = np.float32(-np.inf)
    waited = validations = epoch = 0
    for epoch in range(point.max_epochs):
        for batch in batches:
            if stop is not None and stop.is_set():
                raise Stopped
            probe.compute_gradient(batch.x, batch.targets)
            adam.step()
        if (epoch + 1) % point.check_val_every_n_epoch:
            continue
        outcome = validate(probe)
        validations += 1
        score = np.float32(outcome.score if maximize else -outcome.score)
        if best is None or score > checkpoint_score:
            checkpoint_score = np.float32(-np.inf) if math.isnan(score) else score
            best = outcome, epoch, probe.state()
        if not math.isfinite(score):
            break
        if score > patience_score:
            patience_score, waited = score, 0
        else:
            waited += 1
            if waited >= point.patience:
                break
    if best is None:
        raise ValueError(
            f"max_epochs {point.max_epochs} ends before the first validation, "
            f"which check_val_every_n_epoch {point.check_val_every_n_epoch} sets"
        )
    probe.load(best[2])
    minutes = (time.monotonic() - start) / 60
    return Trained(point, probe, best[0], best[1], epoch + 1, validations, minutes)
