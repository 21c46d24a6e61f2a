"""Waveform -> log-mel spectrogram, in plain torch.

The front end of every Dasheng model: 16 kHz, 512-point Hann window, hop 160,
power spectrum, 64 HTK mel bands between 0 and 8000 Hz without area
normalisation, then decibels with a floor 120 dB under the maximum *of the clip*.
Equal to ``torchaudio.transforms.MelSpectrogram`` followed by
``AmplitudeToDB(top_db=120)`` on one clip at a time.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

SAMPLE_RATE_HZ = 16_000
N_FFT = 512
HOP_SAMPLES = 160
N_MELS = 64
F_MAX_HZ = 8_000.0
TOP_DB = 120.0
MIN_POWER = 1e-10
MIN_DB = -100.0
"""10 * log10(MIN_POWER): the level of digital silence."""

MIN_SAMPLES = 3 * HOP_SAMPLES
"""Shortest clip with four frames, that is one token (480 samples, 30 ms)."""

CHUNK_FRAMES = 2_000
"""Frames transformed at once: bounds the memory that a long recording needs."""


def n_frames(n_samples: int) -> int:
    """Frames of a clip of `n_samples`: one each 10 ms, the first centred on sample 0."""
    return 1 + n_samples // HOP_SAMPLES


def htk_filter_bank() -> Float[Tensor, "freqs mels"]:
    """Triangular filters, equally spaced on the HTK mel scale, peak 1.

    HTK's scale is ``mel = 2595 * log10(1 + hz / 700)``. A filter rises from its
    left neighbour's centre to its own and falls to its right neighbour's, so on
    the frequency axis it is the lower of two straight lines, cut off at zero.
    """
    freqs_hz = torch.linspace(0, SAMPLE_RATE_HZ // 2, N_FFT // 2 + 1)
    top_mel = 2595.0 * torch.log10(torch.tensor(1.0 + F_MAX_HZ / 700.0, dtype=torch.float64))
    edges_mel = torch.linspace(0.0, top_mel.item(), N_MELS + 2)
    edges_hz = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    widths_hz = edges_hz.diff()
    offsets_hz = edges_hz - freqs_hz[:, None]
    rising = -offsets_hz[:, :-2] / widths_hz[:-1]
    falling = offsets_hz[:, 2:] / widths_hz[1:]
    return torch.minimum(rising, falling).clamp(min=0)


class LogMel(nn.Module):
    """Waveforms of one common length -> log-mel spectrograms in dB.

    Buffers are recomputed, never saved: they are constants.
    """

    window: Tensor
    filter_bank: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        self.register_buffer("filter_bank", htk_filter_bank(), persistent=False)

    def forward(self, waveforms: Float[Tensor, "clips samples"]) -> Float[Tensor, "clips mels frames"]:
        """Transform clips; the 120 dB floor is each clip's own.

        Args:
            waveforms: at 16 kHz, in [-1, 1]. Clips under 480 samples (too short
                for the four frames of a token) are extended with zeros.

        Returns:
            64 mel levels in dB, frame i centred on 10 * i ms.
        """
        missing = MIN_SAMPLES - waveforms.shape[-1]
        if missing > 0:
            waveforms = F.pad(waveforms, (0, missing))
        frames = n_frames(waveforms.shape[-1])
        half = N_FFT // 2
        padded = F.pad(waveforms, (half, half), mode="reflect")
        chunks = []
        for first in range(0, frames, CHUNK_FRAMES):
            last = min(first + CHUNK_FRAMES, frames)
            samples = padded[:, first * HOP_SAMPLES : (last - 1) * HOP_SAMPLES + N_FFT]
            chunks.append(self._decibels(samples))
        db = torch.cat(chunks, dim=-1)
        return torch.maximum(db, db.amax(dim=(1, 2), keepdim=True) - TOP_DB)

    def _decibels(self, samples: Float[Tensor, "clips samples"]) -> Float[Tensor, "clips mels frames"]:
        spectrum = torch.stft(
            samples, N_FFT, HOP_SAMPLES, window=self.window, center=False, return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        mel = torch.matmul(power.transpose(1, 2), self.filter_bank).transpose(1, 2)
        return 10.0 * torch.log10(mel.clamp(min=MIN_POWER))
