"""An audio file -> blocks of 16 kHz mono, so that a long file needs no more memory than a short one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from hear_dasheng.audio import MAX_PEAK, check_is_file, check_rate, mixed_to_mono, too_short
from hear_dasheng.mel import SAMPLE_RATE_HZ
from whole_audio import openable

BLOCK_S = 30


def audio_blocks(path: str | Path) -> Iterator[Float[np.ndarray, " _"]]:
    """Decode an audio file block by block; together the blocks are what `read_audio` gives.

    Yields:
        float32 in [-1, 1], none empty; of about `BLOCK_S` seconds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be decoded, states an impossible sample rate, holds no samples (or too few to be
            resampled), or what is no audio.
    """
    import soundfile
    import soxr

    check_is_file(path)
    seconds, n_read, n_given = 0.0, 0, 0
    try:
        with soundfile.SoundFile(openable(path)) as file:
            rate_hz = file.samplerate
            check_rate(path, rate_hz)
            resampler = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality="VHQ")
            is_last = False
            while not is_last:
                samples = file.read(BLOCK_S * rate_hz, dtype="float32", always_2d=True)
                is_last = len(samples) < BLOCK_S * rate_hz
                mono = mixed_to_mono(samples)
                _check_block(mono, path, seconds)
                n_read += len(mono)
                seconds = n_read / rate_hz
                if rate_hz != SAMPLE_RATE_HZ:
                    mono = resampler.resample_chunk(mono, last=is_last)
                if len(mono):
                    n_given += len(mono)
                    yield mono
    except soundfile.SoundFileError as error:
        place = f" after {seconds:.0f} s" if seconds else ""
        reason = str(error).rstrip(".")
        raise ValueError(
            f"cannot decode {path}{place}: {reason}; is it an audio file, and complete?"
        ) from error
    if not n_given:
        raise ValueError(too_short(path, n_read, rate_hz))


def _check_block(mono: Float[np.ndarray, " _"], path: str | Path, start_s: float) -> None:
    """Refuse what a model cannot embed faithfully, as `check_audio` does of a tensor."""
    if not len(mono):
        return
    peak = max(-mono.min(), mono.max())
    if not np.isfinite(peak):
        raise ValueError(
            f"{path} holds samples that are not finite in the {BLOCK_S} s from {start_s:.0f} s on; "
            "repair or leave out that file"
        )
    if peak > MAX_PEAK:
        raise ValueError(
            f"{path} reaches {peak:g} but must lie in [-1, 1]; these look like integer samples stored as "
            "floats: divide 16-bit ones by 32768"
        )
