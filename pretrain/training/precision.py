"""Choose the precision of a training run: what the config asks for, else what suits the device."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch

MIXED_PRECISION = {"fp32": "no", "tf32": "no", "bf16": "bf16", "fp16": "fp16"}
"""Accelerate's name of each precision; others that its launcher may set keep their names."""
LAUNCHERS_CHOICE = "ACCELERATE_MIXED_PRECISION"
"""Set by `accelerate launch`, to "no" also where its user gave no --mixed_precision."""


class Precision(NamedTuple):
    """A precision and the reason for it.

    Attributes:
        name: fp32 (no TF32 anywhere), tf32 (fp32 with inputs of GPU products rounded to TF32), bf16 or fp16.
        reason: for the log, in brackets after the name.
    """

    name: str
    reason: str

    @property
    def accelerates(self) -> str:
        """Accelerate's name of it."""
        return MIXED_PRECISION.get(self.name, self.name)

    @property
    def allows_tf32(self) -> bool:
        """Whether a GPU may round the inputs of fp32 products to TF32."""
        return self.name == "tf32"

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The data type of products under autocast, or None without autocast."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.name)


def training_precision(asked: str | None, device_type: str, has_bfloat16: bool | None = None) -> Precision:
    """Return the precision of a run.

    A config that leaves it open gets what `accelerate launch --mixed_precision` says, else bf16 on a GPU that
    computes in it and fp32 elsewhere. The launcher's "no" is no choice, because it is its default as well.

    Args:
        asked: the config's `precision`.
        device_type: of the device that trains, as torch names it.
        has_bfloat16: whether that device computes in bfloat16; None: ask the device.
    """
    if asked == "tf32" and device_type != "cuda":
        return Precision("fp32", f"tf32 is for NVIDIA GPUs; this run is on {device_type}")
    if asked is not None:
        return Precision(asked, "as configured")
    launchers = os.environ.get(LAUNCHERS_CHOICE, "no")
    if launchers != "no":
        return Precision(launchers, "as accelerate launch was told")
    if device_type == "cpu":
        return Precision("fp32", "the default on a CPU")
    if computes_in_bfloat16(device_type) if has_bfloat16 is None else has_bfloat16:
        return Precision("bf16", "the default on this GPU; precision: fp32 or tf32 chooses another")
    return Precision("fp32", "this GPU does not compute in bf16")


def computes_in_bfloat16(device_type: str) -> bool:
    """Return whether this machine's accelerator has units for bfloat16; emulation does not count."""
    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return device_type == "xpu" and torch.xpu.is_available() and torch.xpu.is_bf16_supported()
