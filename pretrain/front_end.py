"""The log-mel spectrogram in training: never compiled, never in another precision, never differentiated."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hear_dasheng.compute.precision import fp32_arithmetic
from hear_dasheng.mel import LogMel


@torch.compiler.disable
@torch.no_grad()
def spectrogram(
    log_mel: LogMel, waveforms: Float[Tensor, "clips samples"]
) -> Float[Tensor, "clips mels frames"]:
    """Log-mel levels in dB, in full precision and uncompiled, whatever is done with the rest."""
    with torch.autocast(waveforms.device.type, enabled=False), fp32_arithmetic(allow_tf32=False):
        return log_mel(waveforms.float())
