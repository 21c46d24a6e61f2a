"""What the reader gives: crops, their names, and what their clips are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from hear_dasheng.compute.transfer import to_device


@dataclass
class Batch:
    """Crops to train on.

    Attributes:
        waveforms: float32, a crop in each row.
        keys: their names: shard/member#number of the crop in it.
        skipped: what was newly found unusable, by reason.
        targets: 1 for each class of a crop's clip, else 0; None if no labels were read.
    """

    waveforms: Float[Tensor, "batch samples"]
    keys: list[str]
    skipped: dict[str, int] = field(default_factory=dict)
    targets: Float[Tensor, "batch classes"] | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the same batch on another device."""
        targets = None if self.targets is None else to_device(self.targets, device)
        return replace(self, waveforms=to_device(self.waveforms, device), targets=targets)
