"""An audio file -> the bytes that a shard stores, untouched or transcoded to mono.

Everything here is decided by the bytes of one file, so workers need nothing else.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

from whole_audio import rate_fault, shortfall

FORMATS = ("flac", "wav", "ogg", "mp3")
MAX_TARGET_RATE_HZ = 192_000
"""libsndfile's Vorbis encoder crashes the process far above it (seen at 384 kHz)."""
MAX_PEAK = 100.0
"""A peak this high means integer samples stored as floats (as in `hear_dasheng.audio`,
which is not imported, so that workers start without torch)."""
UNKNOWN_FRAMES = 2**62
"""libsndfile states a length above it when the header states none."""
BLOCK_SAMPLES = 1 << 16
"""Decoded and encoded at once; libsndfile's Vorbis encoder overflows the stack when given minutes."""
SERIAL_NUMBER = struct.pack("<I", 1)
BIT_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class Target(NamedTuple):
    """What audio is transcoded to; both None means that bytes stay untouched.

    Attributes:
        rate_hz: sample rate; None keeps the file's own.
        format: one of `FORMATS`; None means FLAC if a rate is given.
    """

    rate_hz: int | None = None
    format: str | None = None

    @property
    def suffix(self) -> str | None:
        """The written files' ending; None for untouched ones, which keep theirs."""
        return self.format or (FORMATS[0] if self.rate_hz else None)


UNTOUCHED = Target()


class Job(NamedTuple):
    """One file to read: its name in the list, and the folder that the list stands in."""

    filename: str
    list_folder: Path
    target: Target = UNTOUCHED


@dataclass(frozen=True)
class Audio:
    """What a shard stores of one file: encoded bytes, the name's ending, and its length."""

    content: bytes
    suffix: str
    seconds: float


class Unusable(ValueError):
    """A file that cannot go into a shard; the text is the reason, without the path."""


def audio_for_shard(job: Job) -> Audio | str:
    """What a shard stores of a file, or the reason why it can store nothing.

    Untouched files are checked no further than this: soundfile opens their header, it states a possible
    sample rate and at least one frame, and a WAV is as long as it promises. Transcoded files
    are decoded to the end; damage that the decoder does not report passes (an MP3 cut
    short is merely shorter).
    """
    try:
        content = _content(locate(job.filename, job.list_folder))
        if lacking := shortfall(content):
            raise Unusable(f"cut short: {lacking}")
        return _transcoded(content, job.target) if job.target.suffix else _checked(content, job.filename)
    except Unusable as problem:
        return " ".join(str(problem).split())
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error))  # without the buffer's address
        return " ".join(f"not readable as audio: {reason}".split())
    except MemoryError:
        return "too long: decoded, it does not fit in memory"


def locate(filename: str, list_folder: Path) -> Path:
    """A relative name is taken from the current folder (as published), else from the list's."""
    # Not Path.exists, which raises for names that are too long or lie behind locked folders.
    return Path(filename) if os.path.exists(filename) else list_folder / filename


def check_target(target: Target) -> None:
    """Try to encode, so that an impossible target is known before the first file.

    Raises:
        ValueError: no encoder for this format at this rate.
    """
    try:
        if target.rate_hz:
            encode(np.zeros(1, np.float32), target.rate_hz, target.suffix)
    except (Unusable, soundfile.SoundFileError) as error:
        reason = getattr(error, "error_string", str(error))
        raise ValueError(
            f"cannot write {target.suffix} at {target.rate_hz} Hz ({reason}); "
            "choose another --rate or --format"
        ) from error


def _content(path: Path) -> bytes:
    try:
        # Opening a FIFO would wait for a writer for ever.
        is_regular = stat.S_ISREG(path.stat().st_mode)
        content = path.read_bytes() if is_regular else b""
    except FileNotFoundError as error:
        raise Unusable("no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise Unusable(f"cannot be read: {getattr(error, 'strerror', error)}") from error
    if not content:
        raise Unusable("empty: 0 bytes" if is_regular else "not a regular file")
    return content


class _OnwardOnly(soundfile.SoundFile):
    """soundfile seeks after each read where it can, which shifts MP3s and fails in cut FLACs."""

    def seekable(self) -> bool:
        return False


def _mono_blocks(sound: soundfile.SoundFile) -> Iterator[Float32[np.ndarray, " frames"]]:
    """The file's channels averaged, a block at a time until there is no more."""
    n_frames = max(1, BLOCK_SAMPLES // sound.channels)
    while len(block := sound.read(n_frames, dtype="float32", always_2d=True)):
        mono = block[:, 0].copy()
        for channel in range(1, sound.channels):  # many times faster than mean(axis=1)
            mono += block[:, channel]
        yield mono / sound.channels


def _checked(content: bytes, filename: str) -> Audio:
    with _OnwardOnly(io.BytesIO(content)) as sound:
        if fault := rate_fault(sound.samplerate):
            raise Unusable(fault)
        n_frames = sound.frames
        if n_frames > UNKNOWN_FRAMES:
            n_frames = sum(map(len, _mono_blocks(sound)))
        if not n_frames:
            raise Unusable("holds no samples")
        suffix = Path(filename).suffix[1:]
        # "json" is the labels' place; other characters would not survive the way through webdataset.
        if not re.fullmatch("[A-Za-z0-9]+", suffix) or suffix.lower() == "json":
            suffix = sound.format.lower()
        return Audio(content, suffix, n_frames / sound.samplerate)


def _transcoded(content: bytes, target: Target) -> Audio:
    with _OnwardOnly(io.BytesIO(content)) as sound:
        source_rate_hz = sound.samplerate
        if fault := rate_fault(source_rate_hz):
            raise Unusable(fault)
        samples = np.concatenate([np.empty(0, np.float32), *_mono_blocks(sound)])
    peak = np.abs(samples).max(initial=0)
    if not np.isfinite(peak):
        raise Unusable("holds samples that are not finite")
    if peak > MAX_PEAK:
        raise Unusable(f"not scaled to [-1, 1]: its peak is {peak:g}")
    rate_hz = target.rate_hz or source_rate_hz
    if rate_hz != source_rate_hz:
        samples = soxr.resample(samples, source_rate_hz, rate_hz, quality="VHQ")
    if not len(samples):
        raise Unusable("holds no samples")
    return Audio(encode(samples, rate_hz, target.suffix), target.suffix, len(samples) / rate_hz)


def encode(samples: Float32[np.ndarray, " samples"], rate_hz: int, file_format: str) -> bytes:
    """Encode mono samples, 16-bit where the format stores integers, clipped to [-1, 1].

    The same samples give the same bytes.

    Raises:
        Unusable: the rate is above `MAX_TARGET_RATE_HZ`.
        soundfile.SoundFileError: the format does not allow this rate.
    """
    if rate_hz > MAX_TARGET_RATE_HZ:
        raise Unusable(f"cannot be written at {rate_hz} Hz; give a --rate up to {MAX_TARGET_RATE_HZ}")
    clipped = np.clip(samples, -1, 1)
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate_hz, channels=1, format=file_format.upper()) as sound:
        for start in range(0, len(clipped), BLOCK_SAMPLES):
            sound.write(clipped[start : start + BLOCK_SAMPLES])
    encoded = buffer.getvalue()
    return with_fixed_serial(encoded) if file_format == "ogg" else encoded


def with_fixed_serial(ogg: bytes) -> bytes:
    """Give an Ogg stream one serial number, which libsndfile draws by chance.

    Pages: "OggS", ..., serial (4 bytes from 14), ..., checksum (4 from 22), number of
    segments (26), their lengths, the segments (RFC 3533). The checksum is a CRC-32
    with zlib's polynomial, but most significant bit first and without inversions.
    """
    pages, start = bytearray(ogg), 0
    while start < len(pages):
        body = start + 27 + pages[start + 26]
        end = body + sum(pages[start + 27 : body])
        pages[start + 14 : start + 18] = SERIAL_NUMBER
        pages[start + 22 : start + 26] = bytes(4)
        mirrored = zlib.crc32(pages[start:end].translate(BIT_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
        pages[start + 22 : start + 26] = struct.pack(">I", mirrored).translate(BIT_REVERSED)
        start = end
    return bytes(pages)
