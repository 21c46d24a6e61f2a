"""Waveform -> log-mel spectrogram, in plain torch.

The front end of every released Dasheng model: 16 kHz, 512-point Hann window, hop
160, power spectrum, 64 HTK mel bands between 0 and 8000 Hz without area
normalisation, then decibels with a floor 120 dB under the maximum *of the clip*.
Equal to ``torchaudio.transforms.MelSpectrogram`` followed by
``AmplitudeToDB(top_db=120)`` on one clip at a time, for any `MelConfig`.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hear_dasheng.value_checks import OptionError, check_count, check_flag, check_number

logger = logging.getLogger(__name__)

SAMPLE_RATE_HZ = 16_000
MIN_POWER = 1e-10
MIN_DB = -100.0
"""10 * log10(MIN_POWER): the level of digital silence."""

MAX_FFT = 65_536
"""Four seconds: no front end needs a longer transform, and a damaged config might ask for one."""

CHUNK_FRAMES = 2_000
"""Frames transformed at once: bounds the memory that a long recording needs."""


@no_type_check  # it checks by hand, with messages for people
@dataclass(frozen=True)
class MelConfig:
    """What the front end computes from audio at 16 kHz.

    Attributes:
        n_fft: points of the Fourier transform.
        win_samples: length of the Hann window, in the middle of these points.
        hop_samples: from a frame to the next.
        n_mels: bands.
        f_min_hz: where the lowest band begins.
        f_max_hz: where the highest band ends.
        is_centred: frame i is centred on sample `i * hop_samples`, the ends being
            reflected; otherwise the first frame begins at sample 0.
        top_db: how far under a clip's maximum its floor is; None: no floor.
    """

    n_fft: int = 512
    win_samples: int = 512
    hop_samples: int = 160
    n_mels: int = 64
    f_min_hz: float = 0
    f_max_hz: float = 8_000
    is_centred: bool = True
    top_db: float | None = 120.0

    def __post_init__(self) -> None:
        for name in ("n_fft", "win_samples", "hop_samples", "n_mels"):
            check_count(name, getattr(self, name))
        if self.n_fft > MAX_FFT:
            raise OptionError("n_fft", self.n_fft, f"must be at most {MAX_FFT}")
        if self.win_samples > self.n_fft:
            raise OptionError("win_samples", self.win_samples, f"is longer than the {self.n_fft} of n_fft")
        low_hz, top_hz, nyquist_hz = self.f_min_hz, self.f_max_hz, SAMPLE_RATE_HZ / 2
        within = f"must be above 0 Hz and at most {nyquist_hz:g} Hz, where audio at 16 kHz ends"
        check_number("f_max_hz", top_hz, within, lambda hz: 0 < hz <= nyquist_hz)
        below = f"must be at least 0 Hz and below the upper end, {top_hz:g} Hz"
        check_number("f_min_hz", low_hz, below, lambda hz: 0 <= hz < top_hz)
        check_flag("is_centred", self.is_centred)
        if self.top_db is not None:
            check_number("top_db", self.top_db, "must be a number above 0, or null", lambda db: db > 0)

    @property
    def margin_samples(self) -> int:
        """Samples that reflection adds on either side."""
        return self.n_fft // 2 if self.is_centred else 0

    def n_frames(self, n_samples: int) -> int:
        """Frames of a clip; 0 or less if it is too short for one."""
        return 1 + (n_samples + 2 * self.margin_samples - self.n_fft) // self.hop_samples

    def min_samples(self, n_frames: int) -> int:
        """The shortest clip with `n_frames` frames.

        >>> RELEASED_MEL.min_samples(4)
        480
        """
        samples = (n_frames - 1) * self.hop_samples + self.n_fft - 2 * self.margin_samples
        return max(samples, self.margin_samples + 1)  # reflection cannot add more than there is

    def centre_ms(self, frame: float) -> float:
        """Centre of a frame's window on the clip's time axis; halves lie between two frames.

        >>> RELEASED_MEL.centre_ms(3), MelConfig(is_centred=False).centre_ms(0)
        (30.0, 16.0)
        """
        middle = (self.n_fft - self.win_samples) // 2 + self.win_samples / 2 - self.margin_samples
        return 1000.0 * (frame * self.hop_samples + middle) / SAMPLE_RATE_HZ


RELEASED_MEL = MelConfig()


def htk_filter_bank(config: MelConfig = RELEASED_MEL) -> Float[Tensor, "freqs mels"]:
    """Triangular filters, equally spaced on the HTK mel scale, peak 1.

    HTK's scale is ``mel = 2595 * log10(1 + hz / 700)``. A filter rises from its
    left neighbour's centre to its own and falls to its right neighbour's, so on
    the frequency axis it is the lower of two straight lines, cut off at zero.
    """
    freqs_hz = torch.linspace(0, SAMPLE_RATE_HZ // 2, config.n_fft // 2 + 1)
    low_mel, top_mel = (2595.0 * math.log10(1.0 + hz / 700.0) for hz in (config.f_min_hz, config.f_max_hz))
    edges_mel = torch.linspace(low_mel, top_mel, config.n_mels + 2)
    edges_hz = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    widths_hz = edges_hz.diff()
    offsets_hz = edges_hz - freqs_hz[:, None]
    rising = -offsets_hz[:, :-2] / widths_hz[:-1]
    falling = offsets_hz[:, 2:] / widths_hz[1:]
    return torch.minimum(rising, falling).clamp(min=0)


class LogMel(nn.Module):
    """Waveforms of one common length -> log-mel spectrograms in dB.

    Buffers are recomputed, never saved: they are constants.

    Args:
        config: what is computed.
        min_frames: shorter clips are extended with zeros to so many frames, by
            default the four of a released model's token (480 samples).
    """

    window: Tensor
    filter_bank: Tensor

    def __init__(self, config: MelConfig = RELEASED_MEL, min_frames: int = 4) -> None:
        super().__init__()
        self.config = config
        self.min_samples = config.min_samples(min_frames)
        bank = htk_filter_bank(config)
        self.register_buffer("window", torch.hann_window(config.win_samples), persistent=False)
        self.register_buffer("filter_bank", bank, persistent=False)
        n_empty = 0 if bank.is_meta else int((bank.amax(0) == 0).sum())
        if n_empty:
            logger.warning(
                "%d of %d mel bands are empty with a %d-point transform; use fewer bands or more points",
                n_empty,
                config.n_mels,
                config.n_fft,
            )

    def forward(self, waveforms: Float[Tensor, "clips samples"]) -> Float[Tensor, "clips mels frames"]:
        """Transform clips; the floor is each clip's own.

        Args:
            waveforms: at 16 kHz, in [-1, 1].

        Returns:
            Mel levels in dB; frame i is centred on `config.centre_ms(i)`, released: 10 * i ms.
        """
        config = self.config
        missing = self.min_samples - waveforms.shape[-1]
        if missing > 0:
            waveforms = F.pad(waveforms, (0, missing))
        frames = config.n_frames(waveforms.shape[-1])
        padded = F.pad(waveforms, (config.margin_samples, config.margin_samples), mode="reflect")
        chunks = []
        for first in range(0, frames, CHUNK_FRAMES):
            last = min(first + CHUNK_FRAMES, frames)
            stop = (last - 1) * config.hop_samples + config.n_fft
            chunks.append(self.decibels(padded[:, first * config.hop_samples : stop]))
        db = torch.cat(chunks, dim=-1)
        if config.top_db is None:
            return db
        return torch.maximum(db, db.amax(dim=(1, 2), keepdim=True) - config.top_db)

    def decibels(self, samples: Float[Tensor, "clips samples"]) -> Float[Tensor, "clips mels frames"]:
        """Levels of every whole frame in `samples`, without margins and without a floor."""
        spectrum = torch.stft(
            samples,
            self.config.n_fft,
            self.config.hop_samples,
            self.config.win_samples,
            window=self.window,
            center=False,
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        mel = torch.matmul(power.transpose(1, 2), self.filter_bank).transpose(1, 2)
        return 10.0 * torch.log10(mel.clamp(min=MIN_POWER))
