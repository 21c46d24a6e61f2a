"""Log-mel statistics as a HEAR module: what a score means without any learning.

A 64-band HTK log-mel spectrogram (25 ms Hann windows each 10 ms). A timestamp
embedding is the mean and standard deviation of the bands over four frames (40 ms),
a scene embedding those over the whole clip: 128 features each. The filter bank is librosa's.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SAMPLE_RATE_HZ = 16_000
WINDOW_SAMPLES = 400
N_FFT = 512
HOP_SAMPLES = 160
N_MELS = 64
FRAMES_PER_TOKEN = 4
TOKEN_SAMPLES = FRAMES_PER_TOKEN * HOP_SAMPLES
MIN_POWER = 1e-10


class LogMelStatistics(nn.Module):
    """Mean and standard deviation of log-mel bands.

    Attributes:
        sample_rate: 16000 Hz.
        scene_embedding_size: 128.
        timestamp_embedding_size: 128.
        checkpoint_path: empty.
    """

    window: Tensor
    filter_bank: Tensor

    def __init__(self) -> None:
        from librosa.filters import mel

        super().__init__()
        bank = mel(sr=SAMPLE_RATE_HZ, n_fft=N_FFT, n_mels=N_MELS, htk=True, norm=None)
        self.register_buffer("filter_bank", torch.from_numpy(bank))
        self.register_buffer("window", torch.hann_window(WINDOW_SAMPLES))
        self.sample_rate = SAMPLE_RATE_HZ
        self.checkpoint_path = ""  # it has no weights that a record could name
        self.scene_embedding_size = self.timestamp_embedding_size = 2 * N_MELS

    def log_mel(self, audio: Tensor) -> Tensor:
        """(n, samples) -> (n, frames, 64); frame i covers the 25 ms around 10 i + 5 ms.

        There are as many tokens of four frames as have their centre within the audio.
        """
        tokens = max(1, (audio.shape[1] + TOKEN_SAMPLES // 2) // TOKEN_SAMPLES)
        frames = tokens * FRAMES_PER_TOKEN
        side = (N_FFT - HOP_SAMPLES) // 2
        needed = (frames - 1) * HOP_SAMPLES + N_FFT - side
        padded = F.pad(audio, (side, max(0, needed - audio.shape[1])))
        spectrum = torch.stft(
            padded, N_FFT, HOP_SAMPLES, WINDOW_SAMPLES, self.window, center=False, return_complex=True
        )[:, :, :frames]
        mel = self.filter_bank @ spectrum.abs().square()
        return mel.clamp(min=MIN_POWER).log().transpose(1, 2)


def load_model(path: str | Path = "") -> LogMelStatistics:
    """The baseline; it has no weights, so a path is an error."""
    if path:
        raise ValueError(f"the log-mel baseline has no weights to load from {path}; leave the path out")
    return LogMelStatistics().eval()


def _statistics(frames: Tensor, axis: int) -> Tensor:
    return torch.cat([frames.mean(axis), frames.std(axis, correction=0)], dim=-1)


def get_scene_embeddings(audio: Tensor, model: LogMelStatistics) -> Tensor:
    """(n, samples) at 16 kHz -> float32 (n, 128)."""
    return _statistics(model.log_mel(audio), 1)


def get_timestamp_embeddings(audio: Tensor, model: LogMelStatistics) -> tuple[Tensor, Tensor]:
    """(n, samples) at 16 kHz -> float32 (n, tokens, 128) and centres in ms, each 40 ms from 20."""
    frames = model.log_mel(audio)
    tokens = frames.unflatten(1, (-1, FRAMES_PER_TOKEN))
    token_ms = 1000.0 * TOKEN_SAMPLES / SAMPLE_RATE_HZ
    centres_ms = token_ms * (torch.arange(tokens.shape[1], device=audio.device) + 0.5)
    centres_ms = centres_ms.clamp(max=1000.0 * audio.shape[1] / SAMPLE_RATE_HZ)
    return _statistics(tokens, 2), centres_ms.expand(len(audio), -1)
