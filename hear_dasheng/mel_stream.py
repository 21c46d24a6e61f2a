"""Blocks of audio -> an encoder's windows of log-mel, one after another, as of the whole clip.

The floor of a log-mel lies under the clip's maximum, so that a clip is gone through
twice: once for its maximum and length, once for its windows. A short one is kept
between, and decoded only once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hear_dasheng.compute.precision import fp32_arithmetic
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.mel import MIN_DB, LogMel
from hear_dasheng.windows import n_moments

KEPT_FRAMES = 60_000
"""Ten minutes as released, 15 MB: a clip of so many frames is not decoded a second time."""

Blocks = Callable[[], Iterator[Float[np.ndarray, " _"]]]
"""Begins to go through a clip's samples."""


class MelStream:
    """The log-mel of a clip of any length, in windows.

    Args:
        log_mel: the front end; computes on its own device.
        config: the encoder's.
        blocks: gives the clip's samples from the start, each time it is called.
        tail: of `n_moments`.

    Attributes:
        n_samples: length of the clip.
        moments: its tokens in time.
    """

    def __init__(self, log_mel: LogMel, config: EncoderConfig, blocks: Blocks, tail: str = "drop") -> None:
        self.log_mel, self.config, self.blocks = log_mel, config, blocks
        self.n_samples, self._peak_db, self._kept = self._measure()
        self.moments = n_moments(config, self.n_samples, tail)

    def _measure(self) -> tuple[int, float, list[Tensor] | None]:
        """Length, highest level, and the levels themselves if the clip is short."""
        n_samples, peak_db = 0, MIN_DB
        kept: list[Tensor] | None = []

        def counted() -> Iterator[Float[np.ndarray, " _"]]:
            nonlocal n_samples
            for block in self.blocks():
                n_samples += len(block)
                yield block

        for chunk in decibel_chunks(self.log_mel, counted()):
            peak_db = max(peak_db, chunk.max().item())
            if kept is not None:
                kept.append(chunk)
                if sum(part.shape[1] for part in kept) > KEPT_FRAMES:
                    kept = None
        return n_samples, peak_db, kept

    def windows(self) -> Iterator[Float[Tensor, "mels _"]]:
        """Log-mels of consecutive windows, each a whole number of moments; the last may be shorter."""
        patch_frames, top_db = self.config.patch_frames, self.config.mel.top_db
        floor_db = MIN_DB if top_db is None else self._peak_db - top_db
        chunks = self._kept if self._kept is not None else decibel_chunks(self.log_mel, self.blocks())
        waiting: list[Tensor] = []
        moments_left = self.moments
        for chunk in chunks:
            waiting.append(chunk)
            while sum(part.shape[1] for part in waiting) >= self.config.window_moments * patch_frames:
                size = min(self.config.window_moments, moments_left) * patch_frames
                together = torch.cat(waiting, dim=1)
                yield together[:, :size].clamp(min=floor_db)
                waiting = [together[:, size:]]
                moments_left -= size // patch_frames
                if not moments_left:
                    return
        if moments_left:
            rest = torch.cat(waiting, dim=1)
            missing = moments_left * patch_frames - rest.shape[1]
            if missing >= patch_frames:
                raise ValueError("the clip became shorter while it was read; leave its file alone meanwhile")
            rest = F.pad(rest, (0, max(0, missing)), value=MIN_DB)
            yield rest[:, : moments_left * patch_frames].clamp(min=floor_db)


def decibel_chunks(
    log_mel: LogMel, blocks: Iterator[Float[np.ndarray, " _"]]
) -> Iterator[Float[Tensor, "mels _"]]:
    """Consecutive frames of a clip's log-mel, as `LogMel` computes them, without its floor."""
    margin, hop, n_fft = log_mel.config.margin_samples, log_mel.config.hop_samples, log_mel.config.n_fft
    waiting = torch.empty(0, device=log_mel.window.device)
    is_start = True
    block = next(blocks, None)
    while block is not None:
        following = next(blocks, None)
        waiting = torch.cat([waiting, torch.from_numpy(block).to(waiting.device)])
        if following is None and is_start:
            waiting = F.pad(waiting, (0, max(0, log_mel.min_samples - len(waiting))))
        if is_start and (following is None or len(waiting) > margin):
            waiting = torch.cat([waiting[1 : margin + 1].flip(0), waiting])
            is_start = False
        if following is None:
            waiting = torch.cat([waiting, waiting[-margin - 1 : -1].flip(0)])
        kept_back = 0 if following is None else margin + 1  # what is reflected at the end
        available = len(waiting) - kept_back
        frames = 0 if is_start else 1 + (available - n_fft) // hop
        if frames > 0:
            with fp32_arithmetic(allow_tf32=False):
                yield log_mel.decibels(waiting[None, : (frames - 1) * hop + n_fft])[0]
            waiting = waiting[frames * hop :]
        block = following
