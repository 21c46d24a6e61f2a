"""Bytes of an audio file -> consecutive crops of its waveform."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from hear_dasheng.audio import MAX_PEAK
from whole_audio import rate_fault

BLOCK_VALUES = 1 << 22
"""Most samples, over all channels, that are decoded at once."""


class UnusableAudio(Exception):
    """An audio file, or what is left of it, cannot be used.

    Attributes:
        reason: what such files are counted under.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class _OnwardOnly(soundfile.SoundFile):
    """soundfile seeks after each read where it can, which makes mp3 and ogg decoders lose their thread."""

    def seekable(self) -> bool:
        return False


def decode_crops(
    encoded: bytes, chunk_samples: int, sample_rate_hz: int
) -> Iterator[Float[np.ndarray, " chunk_samples"]]:
    """Decode a wav, flac, ogg or mp3 file to mono crops, one after another.

    Channels are averaged, other rates converted with soxr at its highest quality, so the samples
    are those of `hear_dasheng.audio.read_audio`. What is left after the last whole crop is
    dropped, unless it is all there is; then zeros fill the crop (as in the published trainer).
    Little more than a crop is decoded at a time: hours of audio need no more memory than seconds.

    Args:
        encoded: the whole file.
        chunk_samples: samples of a crop.
        sample_rate_hz: of the crops.

    Yields:
        float32 crops in [-1, 1].

    Raises:
        UnusableAudio: for the reason "empty" (no samples), "undecodable", "not finite" or "not scaled"
            (far outside [-1, 1]); the crops before the fault have been given.
    """
    if not encoded:
        raise UnusableAudio("empty", "it holds no bytes")
    n_crops = 0
    try:
        with _OnwardOnly(io.BytesIO(encoded)) as audio:
            if fault := rate_fault(audio.samplerate):
                raise UnusableAudio("undecodable", fault)
            blocks = _mono_blocks(audio, chunk_samples, sample_rate_hz)
            if audio.samplerate != sample_rate_hz:
                blocks = _resampled(blocks, audio.samplerate, sample_rate_hz)
            # soxr rounds, so this may be one too many; at the same rate it is exact
            expected_samples = math.ceil(audio.frames * sample_rate_hz / audio.samplerate)
            for crop in _consecutive(blocks, chunk_samples, max(1, expected_samples // chunk_samples)):
                if not audio.subtype.startswith("PCM"):  # whole numbers cannot be wrong
                    _check_values(crop)
                n_crops += 1
                yield crop
    # soxr raises the last two
    except (soundfile.SoundFileError, MemoryError, RuntimeError, ValueError) as error:
        detail = getattr(error, "error_string", None) or str(error) or type(error).__name__
        raise UnusableAudio("undecodable", f"{detail.rstrip('.')}, after {n_crops} crops") from error
    if not n_crops:
        raise UnusableAudio("empty", "it holds no samples")


def _mono_blocks(
    audio: soundfile.SoundFile, chunk_samples: int, sample_rate_hz: int
) -> Iterator[Float[np.ndarray, " frames"]]:
    """The file at its own rate, in blocks that make about a crop each."""
    wanted = math.ceil(chunk_samples * audio.samplerate / sample_rate_hz)
    n_frames = max(1, min(wanted, BLOCK_VALUES // audio.channels))
    length = n_frames
    while length == n_frames:
        block = audio.read(n_frames, dtype="float32", always_2d=True)
        length = len(block)
        yield _mixed_down(block)


def _mixed_down(block: Float[np.ndarray, "frames channels"]) -> Float[np.ndarray, " frames"]:
    mono = block[:, 0]
    if block.shape[1] > 1:
        mono = mono.copy()
        for channel in range(1, block.shape[1]):  # thirty times faster than mean(axis=1)
            mono += block[:, channel]
        mono /= block.shape[1]
    return mono


def _resampled(
    blocks: Iterator[Float[np.ndarray, " frames"]], from_hz: int, to_hz: int
) -> Iterator[Float[np.ndarray, " samples"]]:
    stream = soxr.ResampleStream(from_hz, to_hz, num_channels=1, dtype="float32", quality="VHQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _consecutive(
    blocks: Iterator[Float[np.ndarray, " samples"]], chunk_samples: int, n_crops: int
) -> Iterator[Float[np.ndarray, " chunk_samples"]]:
    """At most `n_crops` whole crops, or what there is, filled up with zeros."""
    rest = np.empty(0, np.float32)
    given = 0
    for block in blocks:
        rest = np.concatenate([rest, block]) if len(rest) else block
        while len(rest) >= chunk_samples:
            # A copy, because crops outlive their file in a shuffle buffer.
            yield rest if len(rest) == chunk_samples else rest[:chunk_samples].copy()
            given += 1
            if given == n_crops:
                return
            rest = rest[chunk_samples:]
    if len(rest) and not given:
        yield np.pad(rest, (0, chunk_samples - len(rest)))


def _check_values(crop: Float[np.ndarray, " samples"]) -> None:
    low, high = crop.min(), crop.max()  # both hand NaN on
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UnusableAudio("not finite", "it holds NaN or infinite values")
    if max(-low, high) > MAX_PEAK:
        raise UnusableAudio("not scaled", f"it reaches {max(-low, high):g}; audio lies in [-1, 1]")
