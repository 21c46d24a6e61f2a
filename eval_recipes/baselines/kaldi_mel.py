"""Kaldi's log-mel filter banks in plain torch.

Kaldi and kaldi-native-fbank refuse more than 126 bands of a 512-point spectrum, because
some of the lowest then hold no point of it. torchaudio, with which AudioMAE and its kin were
trained, leaves such bands at the floor; so does this, and it imports beside any torch.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from eval_recipes.baselines.peer import SAMPLE_RATE_HZ

WINDOW_SAMPLES = 400
HOP_SAMPLES = 160
N_FFT = 512
PRE_EMPHASIS = 0.97
LOW_HZ = 20.0


def kaldi_mel(clip: Tensor, n_mels: int) -> Tensor:
    """Natural log of mel energies, as `torchaudio.compliance.kaldi.fbank` computes them.

    A Hann window and no dither, otherwise Kaldi's defaults: windows of 25 ms each 10 ms
    that lie within the clip, each brought to zero mean, then pre-emphasised by 0.97 (its
    first sample is its own predecessor); power spectrum; bands from 20 Hz to half the sample rate.

    Args:
        clip: (samples) at 16 kHz, at least one; below 400 it is extended with zeros.
        n_mels: bands.

    Returns:
        (frames, n_mels); frame i is centred on 10 i + 12.5 ms.
    """
    clip = F.pad(clip, (0, max(0, WINDOW_SAMPLES - len(clip))))
    frames = clip.unfold(0, WINDOW_SAMPLES, HOP_SAMPLES)
    frames = frames - frames.mean(1, keepdim=True)
    frames = frames - PRE_EMPHASIS * torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    window = torch.hann_window(WINDOW_SAMPLES, periodic=False, device=clip.device)
    power = torch.fft.rfft(frames * window, N_FFT).abs().square()
    energies = power @ mel_bands(n_mels).to(clip.device)
    return energies.clamp(min=torch.finfo(torch.float32).eps).log()


@lru_cache
def mel_bands(n_mels: int) -> Tensor:
    """(257, n_mels): triangles on the scale `1127 * ln(1 + hz / 700)`, where they are equally wide.

    >>> int((mel_bands(128).amax(0) == 0).sum()), int((mel_bands(126).amax(0) == 0).sum())
    (1, 0)
    """
    low, top = (1127.0 * math.log(1 + hz / 700.0) for hz in (LOW_HZ, SAMPLE_RATE_HZ / 2))
    step = (top - low) / (n_mels + 1)
    hz = SAMPLE_RATE_HZ / N_FFT * torch.arange(N_FFT // 2 + 1, dtype=torch.float64)
    position = (1127.0 * (1 + hz / 700.0).log() - low) / step
    rising = position[:, None] - torch.arange(n_mels)
    bands = torch.minimum(rising, 2 - rising).clamp(min=0)
    bands[-1] = 0  # half the sample rate itself is left out
    return bands.float()
