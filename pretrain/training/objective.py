"""What a run trains, as the trainer sees it: masked autoencoding, or classification.

Steps, schedules, states, processes, metrics and the folder of a run are the same for both. An
objective says what the model is, what its loss is on a batch, what validation tells, and what is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pretrain.reading.clip_labels import ClipLabels
from pretrain.shards import Batch
from pretrain.training.config import RunConfig
from pretrain.training.processes import Processes


class Objective(Protocol):
    """Of one run; it holds nothing that changes while the run goes on.

    Attributes:
        name: what the run does, for the bar.
        config: of the run.
        loss_name: what the loss is, for the picture of its curve.
        picture_clips: validation clips that `draw` wants; 0: it draws nothing.
        training_labels: what to read beside the clips; None: nothing.
        validation_labels: the same for validation.
    """

    name: str
    config: RunConfig
    loss_name: str
    picture_clips: int
    training_labels: ClipLabels | None
    validation_labels: ClipLabels | None

    def new_model(self) -> nn.Module:
        """The model as training begins; its attribute `encoder` is a Dasheng encoder.

        Raises:
            ConfigError: the config describes none.
        """

    def model_without_weights(self) -> nn.Module:
        """Return the model of `new_model` with its parameters on the meta device."""

    def description(self, model: nn.Module) -> str:
        """How large the model is, in words."""

    def silence(self) -> Batch:
        """A clip for processes that have no data but must take part."""

    def losses(self, model: nn.Module, batch: Batch, random: torch.Generator) -> Float[Tensor, " clips"]:
        """The loss of each clip, all random choices drawn from `random`."""

    def examine(self, model: nn.Module, batch: Batch) -> Any:
        """What validation notes of a batch; the same each time."""

    def scores(self, notes: list[Any], processes: Processes) -> dict[str, float]:
        """What all processes' notes together say; `valid_loss` is among it."""

    def result_of(self, model: nn.Module) -> nn.Module:
        """What of the model is kept: its weights are averaged and written."""

    def copy_of_state(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The model that a state dict on the CPU holds, its tensors and all, in evaluation mode."""

    def write(self, result: nn.Module, path: Path) -> None:
        """Write what is kept as a folder, and beside it as `path`.pt, replacing older ones."""

    def load(self, path: Path) -> nn.Module:
        """Read what `write` has written."""

    def validated(self, result: nn.Module) -> nn.Module | None:
        """The model that `examine` takes, around what was kept; None if other parts of it are gone."""

    def farewell(self, source: str, run_dir: Path) -> str:
        """What the run has left in its folder, taken from `source` in it, and what it is good for."""

    def draw(self, model: nn.Module, batch: Batch, title: str, path: Path) -> None:
        """A PNG of what the model makes of `picture_clips` validation clips."""
