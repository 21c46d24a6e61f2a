"""Log-mels of any lengths -> embeddings: windows, batches, timestamps.

Long audio follows the published package: the log-mel is computed once over the
clip, its moments (columns of tokens; one token each in the released models) are cut
into windows that do not see each other, and the positions start again in each. The
windows of all clips are sorted by length and encoded together in batches of bounded
size. Padding inside a batch is never looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hear_dasheng.encoder import Encoder
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.mel import MIN_DB, SAMPLE_RATE_HZ

TAILS = ("drop", "pad")

MAX_PADDING_MOMENTS = 12
"""Moments that a window may be padded by; padding more costs more than a batch of its own."""


def centre_ms(config: EncoderConfig, moment: int) -> float:
    """Centre of a moment: halfway between the centres of its first and last frame.

    >>> released = EncoderConfig.of_size("base")
    >>> [centre_ms(released, moment) for moment in range(3)]
    [15.0, 55.0, 95.0]
    """
    return config.mel.centre_ms(moment * config.patch_frames + (config.patch_frames - 1) / 2)


def n_moments(config: EncoderConfig, n_samples: int, tail: str = "drop") -> int:
    """Moments of a clip.

    Args:
        config: the encoder's.
        n_samples: length at 16 kHz, at least 1. Too short a clip has one moment
            (released: below 480 samples).
        tail: what becomes of the frames after the last complete patch: "drop" leaves
            them out as the published package does; "pad" completes them to a moment
            with silence, if that moment's centre lies within the clip.

    >>> released = EncoderConfig.of_size("base")
    >>> n_moments(released, 160_000), n_moments(released, 31_680), n_moments(released, 31_680, tail="pad")
    (250, 49, 50)
    """
    complete, rest = divmod(config.mel.n_frames(n_samples), config.patch_frames)
    if complete < 1:
        return 1
    is_within = centre_ms(config, complete) <= 1000.0 * n_samples / SAMPLE_RATE_HZ
    return complete + (tail == "pad" and rest > 0 and is_within)


def timestamps_ms(config: EncoderConfig, n_samples: int, tail: str = "drop") -> Float[Tensor, " moments"]:
    """Centres of a clip's moments in ms, never past the end of the clip.

    >>> timestamps_ms(EncoderConfig.of_size("base"), 1_600)
    tensor([15., 55.])
    """
    step_ms = centre_ms(config, 1) - centre_ms(config, 0)
    centres = centre_ms(config, 0) + step_ms * torch.arange(n_moments(config, n_samples, tail))
    return centres.clamp(max=1000.0 * n_samples / SAMPLE_RATE_HZ)


def fit_to_moments(
    config: EncoderConfig, mel: Float[Tensor, "mels frames"], moments: int
) -> Float[Tensor, "mels {moments*config.patch_frames}"]:
    """Cut a clip's log-mel to a whole number of moments, or complete its last one with silence.

    Silence is what digital zeros would measure under the clip's own floor.
    """
    frames = moments * config.patch_frames
    missing = frames - mel.shape[1]
    if missing <= 0:
        return mel[:, :frames]
    top_db = config.mel.top_db
    silence_db = mel.new_tensor(MIN_DB) if top_db is None else (mel.max() - top_db).clamp(min=MIN_DB)
    return torch.cat([mel, silence_db.expand(mel.shape[0], missing)], dim=1)


@dataclass(frozen=True)
class Window:
    """Some consecutive moments of one clip."""

    clip: int
    first: int
    moments: int


def plan_batches(counts: Sequence[int], window_moments: int, batch_moments: int) -> Iterator[list[Window]]:
    """Cut clips into windows and group windows of similar length.

    Args:
        counts: moments of each clip.
        window_moments: the most moments of a window.
        batch_moments: the most moments of a batch, padding included; a batch holds one
            window at least, and none that is over `MAX_PADDING_MOMENTS` shorter than its longest.
    """
    windows = [
        Window(clip, first, min(window_moments, total - first))
        for clip, total in enumerate(counts)
        for first in range(0, total, window_moments)
    ]
    windows.sort(key=lambda window: -window.moments)
    batch: list[Window] = []
    for window in windows:
        if batch:
            is_full = (len(batch) + 1) * batch[0].moments > batch_moments
            if is_full or batch[0].moments - window.moments > MAX_PADDING_MOMENTS:
                yield batch
                batch = []
        batch.append(window)
    if batch:
        yield batch


def encode_clips(
    encoder: Encoder,
    mels: Sequence[Float[Tensor, "mels _"]],
    layers: Sequence[int],
    batch_moments: int,
) -> list[Float[Tensor, "_ features"]]:
    """Encode log-mels of any lengths, each a whole number of moments.

    Returns:
        For each clip its moments in order, float32: their tokens' means over the mel axis.
    """
    config = encoder.config
    counts = [mel.shape[1] // config.patch_frames for mel in mels]
    features = config.dim * len(layers)
    outputs = [mel.new_empty(count, features) for mel, count in zip(mels, counts, strict=True)]
    for batch in plan_batches(counts, config.window_moments, batch_moments):
        longest = batch[0].moments
        frames = mels[0].new_zeros(len(batch), mels[0].shape[0], longest * config.patch_frames)
        for row, window in zip(frames, batch, strict=True):
            start = window.first * config.patch_frames
            stop = start + window.moments * config.patch_frames
            row[:, : stop - start] = mels[window.clip][:, start:stop]
        is_valid = None
        if batch[-1].moments < longest:
            lengths = torch.tensor([window.moments for window in batch], device=frames.device)
            is_valid = torch.arange(longest, device=frames.device) < lengths[:, None]
            is_valid = is_valid.repeat(1, config.bands)
        encoded = encoder(frames, is_valid, layers).unflatten(1, (config.bands, longest)).mean(1)
        for row, window in zip(encoded, batch, strict=True):
            outputs[window.clip][window.first : window.first + window.moments] = row[: window.moments]
    return outputs
