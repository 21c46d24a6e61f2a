"""Which audio files cannot be used, and why: by their headers, which is quick, or by decoding them whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from whole_audio import openable, rate_fault, shortfall

LOOK_TOGETHER, FILES_AHEAD = 8, 4096

Look = Callable[[Path], str]
"""A file -> why it cannot be used; empty if it can."""


def header_fault(path: Path) -> str:
    """What is wrong with a file's header, or that it promises more than there is."""
    try:
        header = soundfile.info(openable(path))
        return (
            shortfall(path)
            or rate_fault(header.samplerate)
            or ("" if header.frames else "it holds no samples")
        )
    except (OSError, soundfile.SoundFileError) as error:
        return _reason(error)


def decoding_fault(path: Path, rate_hz: int | None = None) -> str:
    """Return what is wrong with a file, from its first sample to its last.

    Args:
        path: the file.
        rate_hz: sample rate at which something must be left of it; None: its own.
    """
    if fault := header_fault(path):
        return fault
    try:
        samples, found_hz = soundfile.read(openable(path), dtype="float32")
    except (OSError, soundfile.SoundFileError) as error:
        return _reason(error)
    if not len(samples):
        return "it holds no samples"
    if not np.isfinite(samples).all():
        return "it holds samples that are no finite numbers"
    # Only a clip shorter than two samples at the new rate can vanish.
    if (
        rate_hz
        and len(samples) * rate_hz < 2 * found_hz
        and not len(soxr.resample(samples, found_hz, rate_hz))
    ):
        return f"it has no sample left at {rate_hz} Hz"
    return ""


def _reason(error: Exception) -> str:
    """Without the path, which whoever lists files names anyway."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(getattr(error, "error_string", error)).rstrip(".")


def faults(files: Mapping[str, Path], look: Look = header_fault, *, what: str = "headers") -> dict[str, str]:
    """What is wrong with files, by their keys; those with nothing wrong are left out.

    Args:
        files: by any key.
        look: what is looked at.
        what: the name of the bar, which is shown where the output is a terminal.
    """
    found: dict[str, str] = {}
    keys = list(files)
    with (
        tqdm(total=len(keys), unit=" files", desc=what, disable=None, leave=False) as bar,
        ThreadPoolExecutor(LOOK_TOGETHER) as pool,
    ):
        for start in range(0, len(keys), FILES_AHEAD):
            some = keys[start : start + FILES_AHEAD]
            for key, fault in zip(some, pool.map(look, [files[key] for key in some]), strict=True):
                if fault:
                    found[key] = fault
                bar.update()
    return found
