"""Judges of a probe on held-out splits: predictions -> loss and metrics, for clips and for events."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from eval_recipes.scoring import events
from eval_recipes.scoring.batches import batches
from eval_recipes.scoring.event_metrics import EVENT_METRICS, MINIMIZED
from eval_recipes.scoring.grid import combinations
from eval_recipes.scoring.probe import Probe
from eval_recipes.scoring.scene_metrics import SCENE_METRICS
from eval_recipes.scoring.task_data import TaskData
from eval_recipes.scoring.training import Validation
from eval_recipes.task_checks import TaskProblem

ROWS_AT_ONCE = 1024


class Judge(Protocol):
    """What selects and scores probes."""

    def validate(self, probe: Probe) -> Validation:
        """The number that selects models."""

    def test(self, probe: Probe, postprocessing: events.Postprocessing) -> dict[str, float]:
        """All numbers, by the names in a score file."""


def maximizes(task: TaskData) -> bool:
    """Whether a higher validation score is better."""
    return task.selects_by_score and task.metrics[0] not in MINIMIZED


def judge_of(task: TaskData, names: tuple[str, ...], device: torch.device) -> Judge:
    """The judge that a task's embeddings ask for.

    Raises:
        TaskProblem: a metric of the task is unknown or of the other kind of task.
    """
    known = EVENT_METRICS if task.is_event_task else SCENE_METRICS
    if unknown := [metric for metric in task.metrics if metric not in known]:
        raise TaskProblem(
            f"metric {unknown[0]!r} is not one of this kind of task's: {', '.join(sorted(known))}"
        )
    return (EventJudge if task.is_event_task else SceneJudge)(task, names, device)


class _Predictions:
    """Held-out rows, and what a probe makes of them."""

    def __init__(self, task: TaskData, names: tuple[str, ...], device: torch.device) -> None:
        self._batches = batches(task.splits(names), ROWS_AT_ONCE, device)
        self.targets = torch.cat([batch.targets for batch in self._batches])

    def logits(self, probe: Probe) -> Float[Tensor, "rows labels"]:
        """Of all rows."""
        with torch.no_grad():
            return torch.cat([probe.logits(batch.x) for batch in self._batches])


class SceneJudge:
    """Scores the labels of clips."""

    def __init__(self, task: TaskData, names: tuple[str, ...], device: torch.device) -> None:
        self._task = task
        self._held_out = _Predictions(task, names, device)
        self._targets = self._held_out.targets.cpu().numpy()

    def validate(self, probe: Probe) -> Validation:
        """The first metric, or the loss."""
        logits = self._held_out.logits(probe)
        if not self._task.selects_by_score:
            return Validation(probe.loss(logits, self._held_out.targets).item())
        return Validation(self._metric(self._task.metrics[0], probe, logits))

    def test(self, probe: Probe, postprocessing: events.Postprocessing) -> dict[str, float]:
        """Loss and every metric."""
        logits = self._held_out.logits(probe)
        scores = {f"test_{name}": self._metric(name, probe, logits) for name in self._task.metrics}
        primary = scores[f"test_{self._task.metrics[0]}"]
        loss = probe.loss(logits, self._held_out.targets).item()
        return {"test_loss": loss, "test_score": primary, **scores}

    def _metric(self, name: str, probe: Probe, logits: Tensor) -> float:
        return SCENE_METRICS[name](probe.activate(logits).cpu().numpy(), self._targets)


class EventJudge:
    """Scores events made of frames; validation also chooses how they are made."""

    def __init__(self, task: TaskData, names: tuple[str, ...], device: torch.device) -> None:
        self._task = task
        self._held_out = _Predictions(task, names, device)
        self._timeline = events.FrameTimeline(task.frames(names))
        self._true = events.true_events(task.true_events(names), self._timeline.files, task.label_to_index)
        own = task.metadata.get("evaluation_params", {}).get("event_postprocessing_grid")
        self._choices = [tuple(choice.items()) for choice in combinations(own or events.DEFAULT_GRID)]
        if not task.selects_by_score and len(self._choices) > 1:
            raise TaskProblem("the task selects by loss, so its event_postprocessing_grid must be one point")

    def validate(self, probe: Probe) -> Validation:
        """The first metric under the best postprocessing, or the loss.

        "Best" is the highest, as in heareval, even where the metric is an error rate.
        """
        logits = self._held_out.logits(probe)
        if not self._task.selects_by_score:
            return Validation(probe.loss(logits, self._held_out.targets).item(), self._choices[0])
        probabilities = probe.activate(logits)
        scored = [(self._metrics(probabilities, c, self._task.metrics[:1]), c) for c in self._choices]
        primary = [(next(iter(scores.values())), choice) for scores, choice in scored]
        _, best = max((0.0 if math.isnan(score) else score, choice) for score, choice in primary)
        return Validation(next(score for score, choice in primary if choice == best), best)

    def test(self, probe: Probe, postprocessing: events.Postprocessing) -> dict[str, float]:
        """Loss and every metric with its parts."""
        logits = self._held_out.logits(probe)
        scores = self._metrics(probe.activate(logits), postprocessing, self._task.metrics)
        loss = probe.loss(logits, self._held_out.targets).item()
        named = {f"test_{name}": value for name, value in scores.items()}
        return {"test_loss": loss, "test_score": next(iter(named.values())), **named}

    def _metrics(
        self, probabilities: Tensor, postprocessing: events.Postprocessing, names: list[str]
    ) -> dict[str, float]:
        settings: dict[str, Any] = dict(postprocessing)
        found = self._timeline.events(probabilities.cpu().numpy(), **settings)
        scores: dict[str, float] = {}
        for name in names:
            metric: Callable = EVENT_METRICS[name]
            parts = metric(found, self._true)
            scores[name] = parts[0][1]
            scores |= {f"{name}_{part}": value for part, value in parts}
        return scores
