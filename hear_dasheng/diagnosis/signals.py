"""The fixed audio and the fixed model of the parity checks."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from hear_dasheng.encoder import Encoder
from hear_dasheng.export import new_encoder
from hear_dasheng.mel import SAMPLE_RATE_HZ, LogMel

NOISE_LEVEL, CHIRP_LEVEL = 0.03, 0.3


def fixed_audio(clips: int, seconds: float) -> Float[Tensor, "clips samples"]:
    """Return chirps of varying loudness in white noise, the same on every machine.

    The noise matters: in an empty mel band the level would be that of the Fourier transform's rounding
    errors, which differ from library to library.
    """
    time_s = torch.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    audio = NOISE_LEVEL * torch.randn(clips, len(time_s), generator=torch.Generator().manual_seed(0))
    for number, clip in enumerate(audio, start=1):
        phase = 2 * math.pi * number * (100 * time_s + 150 * time_s.square() / seconds)
        clip += CHIRP_LEVEL * (0.5 + 0.5 * torch.sin(2 * math.pi * number * time_s)) * torch.sin(phase)
    return audio


def fitted_encoder(size: str, audio: Float[Tensor, "clips samples"]) -> Encoder:
    """Return an encoder on the CPU with random weights, whose first norm has the statistics of this audio.

    Without them the levels, in dB, would be hundreds of times as large as all else, and hide its errors.
    """
    encoder = new_encoder(size)
    mel = LogMel(encoder.config.mel)(audio)
    encoder.init_bn.running_mean.copy_(mel.mean(dim=(0, 2)))
    encoder.init_bn.running_var.copy_(mel.var(dim=(0, 2)))
    return encoder
