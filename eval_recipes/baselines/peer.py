"""What every peer shares: checked clips go in, HEAR's two kinds of embeddings come out.

A peer's own file holds its encoder, which turns clips of any length into tokens one
clip at a time or in batches that do not mix them, and says when a token is. The rest
is here: the checks, the mean over time, the timestamps, the batch.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from hear_dasheng.compute.precision import fp32_arithmetic

SAMPLE_RATE_HZ = 16_000
"""What all of them were trained on."""


class ClipEncoder(Protocol):
    """What a peer's file provides, as an `nn.Module`.

    Attributes:
        features: width of a token.
        first_ms: centre of a clip's first token.
        step_ms: from a token's centre to the next.
    """

    features: int
    first_ms: float
    step_ms: float

    def tokens(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Waveforms at 16 kHz, each of its own length -> their tokens, (tokens, features) each."""

    def finish(self, embeddings: Tensor) -> Tensor:
        """What the model applies to tokens or to their mean, at last."""


class Peer(nn.Module):
    """An encoder behind HEAR's functions, for inference only.

    Attributes:
        sample_rate: 16000 Hz.
        scene_embedding_size: features of a clip.
        timestamp_embedding_size: features of a token.
        checkpoint_path: the file or folder of the weights, whose hash evaluation records.
    """

    def __init__(self, encoder: ClipEncoder, checkpoint_path: str | Path) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.checkpoint_path = str(checkpoint_path)
        self.sample_rate = SAMPLE_RATE_HZ
        self.scene_embedding_size = self.timestamp_embedding_size = encoder.features
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> Peer:
        """Stay in evaluation mode."""
        return super().train(False)

    def times_ms(self, n_tokens: int, n_samples: int) -> Tensor:
        """Centres of a clip's tokens, without those after its end; the first is there in any case."""
        end_ms = 1000.0 * n_samples / SAMPLE_RATE_HZ
        centres = self.encoder.first_ms + self.encoder.step_ms * torch.arange(n_tokens)
        return centres[: max(1, int((centres <= end_ms).sum()))].clamp(max=end_ms)


def get_scene_embeddings(audio: Tensor, model: Peer, lengths: Sequence[int] | Tensor | None = None) -> Tensor:
    """One embedding a clip: the mean of its tokens.

    Args:
        audio: float32 (n_sounds, n_samples) in [-1, 1] at 16 kHz, on the model's device.
        model: from the module's `load_model`.
        lengths: valid samples of each sound; what follows is never looked at. None: all.

    Returns:
        float32 (n_sounds, model.scene_embedding_size).

    Raises:
        TypeError, ValueError: audio or lengths are not as above.
    """
    clips = checked_clips(audio, model.device, lengths)
    return model.encoder.finish(torch.stack([tokens.mean(0) for tokens in _tokens(model, clips)]))


def get_timestamp_embeddings(
    audio: Tensor, model: Peer, lengths: Sequence[int] | Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A clip's tokens in time, and the centre of the sound that each describes.

    Args:
        audio: float32 (n_sounds, n_samples) in [-1, 1] at 16 kHz, on the model's device.
        model: from the module's `load_model`.
        lengths: valid samples of each sound; what follows is never looked at. None: all.

    Returns:
        Embeddings, float32 (n_sounds, n_tokens, model.timestamp_embedding_size), and
        timestamps in ms, float32 (n_sounds, n_tokens). A last token whose centre lies after
        the clip's end is left out. Sounds with fewer tokens than the longest end in zeros
        whose timestamps are NaN.

    Raises:
        TypeError, ValueError: audio or lengths are not as above.
    """
    clips = checked_clips(audio, model.device, lengths)
    found = _tokens(model, clips)
    times = [model.times_ms(len(t), len(clip)).to(audio.device) for t, clip in zip(found, clips, strict=True)]
    embeddings = [model.encoder.finish(tokens[: len(own)]) for tokens, own in zip(found, times, strict=True)]
    return pad_sequence(embeddings, batch_first=True), pad_sequence(times, True, padding_value=torch.nan)


def _tokens(model: Peer, clips: list[Tensor]) -> list[Tensor]:
    with torch.no_grad(), fp32_arithmetic():
        return [tokens.float() for tokens in model.encoder.tokens(clips)]


def checked_clips(
    audio: Tensor, device: torch.device, lengths: Sequence[int] | Tensor | None
) -> list[Tensor]:
    """The valid part of each sound.

    Raises:
        TypeError, ValueError: audio is no finite float tensor (n_sounds, n_samples) on
            the device, or lengths are no whole numbers from 1 to n_samples, one a sound.
    """
    if not isinstance(audio, Tensor) or not audio.is_floating_point():
        what = audio.dtype if isinstance(audio, Tensor) else type(audio).__name__
        raise TypeError(f"audio must be a float32 tensor in [-1, 1], not {what}")
    if audio.ndim != 2 or 0 in audio.shape:
        raise ValueError(f"audio must have the shape (n_sounds, n_samples), not {tuple(audio.shape)}")
    if audio.device != device:
        raise ValueError(f"audio is on {audio.device} but the model is on {device}; move one of them")
    if not audio.isfinite().all():
        sound, sample = (~audio.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"audio holds {audio[sound, sample].item()} in sound {sound} at sample {sample}")
    n_sounds, n_samples = audio.shape
    valid = [n_samples] * n_sounds if lengths is None else torch.as_tensor(lengths).tolist()
    if not isinstance(valid, list) or len(valid) != n_sounds:
        raise ValueError(f"lengths must hold one number for each of the {n_sounds} sounds, not {lengths}")
    for sound, length in enumerate(valid):
        if not isinstance(length, int) or not 1 <= length <= n_samples:
            raise ValueError(
                f"lengths[{sound}] is {length}; it must be a whole number between 1 and the "
                f"{n_samples} samples given"
            )
    return [clip[:length].float() for clip, length in zip(audio, valid, strict=True)]


def package(name: str) -> ModuleType:
    """Import a package of the extra `peers`, or say how to get it.

    Raises:
        ImportError: it is not installed.
    """
    top = name.split(".")[0]
    try:
        importlib.import_module(top)
    except ModuleNotFoundError as error:
        if error.name != top:
            raise
        raise ImportError(
            f"this peer needs the package {top}; in the checkout: pip install '.[peers]'"
        ) from error
    return importlib.import_module(name)
