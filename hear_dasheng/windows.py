"""Log-mels of any lengths -> tokens: windows of 252 tokens, batches, timestamps.

Long audio follows the published package: the log-mel is computed once over the
clip, its tokens are cut into windows of 252 that do not see each other, and the
positions start again in each. The windows of all clips are sorted by length and
encoded together in batches of bounded size. Padding inside a batch is never looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hear_dasheng.encoder import PATCH_FRAMES, Encoder
from hear_dasheng.mel import HOP_SAMPLES, MIN_DB, MIN_SAMPLES, SAMPLE_RATE_HZ, TOP_DB, n_frames

TOKEN_MS = 1000.0 * PATCH_FRAMES * HOP_SAMPLES / SAMPLE_RATE_HZ
FIRST_CENTRE_MS = 1000.0 * (PATCH_FRAMES - 1) / 2 * HOP_SAMPLES / SAMPLE_RATE_HZ
"""Frame i is centred on 10 i ms and token 0 holds frames 0 to 3: its centre is 15 ms."""

TAILS = ("drop", "pad")

MAX_PADDING_TOKENS = 12
"""Tokens that a window may be padded by; padding more costs more than a batch of its own."""


def n_tokens(n_samples: int, tail: str = "drop") -> int:
    """Tokens of a clip.

    Args:
        n_samples: length at 16 kHz, at least 1. Below 480 samples there is one token.
        tail: what becomes of the one to three frames after the last complete token:
            "drop" leaves them out as the published package does; "pad" completes
            them to a token with silence, if that token's centre lies within the clip.

    >>> n_tokens(160_000), n_tokens(31_680), n_tokens(31_680, tail="pad")
    (250, 49, 50)
    """
    frames = n_frames(max(n_samples, MIN_SAMPLES))
    complete, rest = divmod(frames, PATCH_FRAMES)
    centre_ms = FIRST_CENTRE_MS + TOKEN_MS * complete
    keeps_tail = tail == "pad" and rest > 0 and centre_ms <= 1000.0 * n_samples / SAMPLE_RATE_HZ
    return complete + keeps_tail


def timestamps_ms(n_samples: int, tail: str = "drop") -> Float[Tensor, " tokens"]:
    """Centres of a clip's tokens in ms: 40 j + 15, never past the end of the clip.

    >>> timestamps_ms(1_600)
    tensor([15., 55.])
    """
    centres = FIRST_CENTRE_MS + TOKEN_MS * torch.arange(n_tokens(n_samples, tail))
    return centres.clamp(max=1000.0 * n_samples / SAMPLE_RATE_HZ)


def fit_to_tokens(mel: Float[Tensor, "mels frames"], tokens: int) -> Float[Tensor, "mels {4*tokens}"]:
    """Cut a clip's log-mel to a whole number of tokens, or complete its last one with silence.

    Silence is what digital zeros would measure under the clip's own 120 dB floor.
    """
    missing = tokens * PATCH_FRAMES - mel.shape[1]
    if missing <= 0:
        return mel[:, : tokens * PATCH_FRAMES]
    silence_db = torch.clamp(mel.max() - TOP_DB, min=MIN_DB)
    return torch.cat([mel, silence_db.expand(mel.shape[0], missing)], dim=1)


@dataclass(frozen=True)
class Window:
    """Some consecutive tokens of one clip."""

    clip: int
    first: int
    tokens: int


def plan_batches(
    token_counts: Sequence[int], window_tokens: int, batch_tokens: int
) -> Iterator[list[Window]]:
    """Cut clips into windows and group windows of similar length.

    Args:
        token_counts: tokens of each clip.
        window_tokens: the most tokens of a window.
        batch_tokens: the most tokens of a batch, padding included; a batch holds
            one window at least, and none that is `MAX_PADDING_TOKENS` shorter than its longest.
    """
    windows = [
        Window(clip, first, min(window_tokens, total - first))
        for clip, total in enumerate(token_counts)
        for first in range(0, total, window_tokens)
    ]
    windows.sort(key=lambda window: -window.tokens)
    batch: list[Window] = []
    for window in windows:
        if batch:
            is_full = (len(batch) + 1) * batch[0].tokens > batch_tokens
            if is_full or batch[0].tokens - window.tokens > MAX_PADDING_TOKENS:
                yield batch
                batch = []
        batch.append(window)
    if batch:
        yield batch


def encode_clips(
    encoder: Encoder,
    mels: Sequence[Float[Tensor, "mels _"]],
    layers: Sequence[int],
    batch_tokens: int,
) -> list[Float[Tensor, "_ features"]]:
    """Encode log-mels of any lengths, each a whole number of tokens.

    Returns:
        For each clip its tokens in order, float32.
    """
    counts = [mel.shape[1] // PATCH_FRAMES for mel in mels]
    features = encoder.config.dim * len(layers)
    outputs = [mel.new_empty(count, features) for mel, count in zip(mels, counts, strict=True)]
    for batch in plan_batches(counts, encoder.config.window_tokens, batch_tokens):
        longest = batch[0].tokens
        frames = mels[0].new_zeros(len(batch), mels[0].shape[0], longest * PATCH_FRAMES)
        for row, window in zip(frames, batch, strict=True):
            start = window.first * PATCH_FRAMES
            stop = start + window.tokens * PATCH_FRAMES
            row[:, : stop - start] = mels[window.clip][:, start:stop]
        is_valid = None
        if batch[-1].tokens < longest:
            lengths = torch.tensor([window.tokens for window in batch], device=frames.device)
            is_valid = torch.arange(longest, device=frames.device) < lengths[:, None]
        encoded = encoder(frames, is_valid, layers)
        for row, window in zip(encoded, batch, strict=True):
            outputs[window.clip][window.first : window.first + window.tokens] = row[: window.tokens]
    return outputs
