"""The files of one task: what belongs to it, and its clips at another rate."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile
import soxr

from eval_recipes.task_lists import METADATA, VOCABULARY, read_metadata, read_split, read_splits
from whole_audio import rate_fault

WAV_HEADER_BYTES = 44
MOST_SAMPLES = 1 << 29
"""Most samples of a clip, over all channels, before and after resampling: 2 GiB in float32."""
FAINT_PEAK = 16 / 32768
FAINT_CLIPS = 20
"""Clips of each split that are looked at."""


class UnusableClip(ValueError):
    """A clip whose sample rate or length is out of bounds."""


def resample(content: bytes, rate_hz: int) -> bytes:
    """Convert a sound file to another rate, mono wav, keeping its sample format.

    Raises:
        soundfile.SoundFileError: the content cannot be decoded.
        UnusableClip: its rate or its length is out of bounds.
    """
    with soundfile.SoundFile(io.BytesIO(content)) as source:
        _require_bounded(source, rate_hz)
        if source.samplerate == rate_hz and source.channels == 1 and source.format == "WAV":
            return content
        samples = source.read(dtype="float32", always_2d=True).mean(axis=1, dtype=np.float32)
        subtype = source.subtype if source.subtype in soundfile.available_subtypes("WAV") else "PCM_16"
        converted = soxr.resample(samples, source.samplerate, rate_hz, quality="VHQ")
    written = io.BytesIO()
    soundfile.write(written, converted, rate_hz, subtype=subtype, format="WAV")
    return written.getvalue()


def _require_bounded(source: soundfile.SoundFile, rate_hz: int) -> None:
    if fault := rate_fault(source.samplerate):
        raise UnusableClip(fault)
    samples = source.frames * max(source.channels, rate_hz / source.samplerate)
    if samples > MOST_SAMPLES:
        raise UnusableClip(
            f"it has {samples:.3g} samples by its header; at most {MOST_SAMPLES:.3g} are decoded"
        )


def lists_of(folder: Path) -> list[str]:
    """Return the names of the files that say what a task is: metadata, vocabulary, one list a split.

    Raises:
        BrokenTask: the metadata are damaged, or their splits are not names.
    """
    return [METADATA, VOCABULARY, *(f"{split}.json" for split in read_metadata(folder)["splits"])]


def missing_files(folder: Path, rate_hz: int) -> list[str]:
    """Return what a task folder lacks: metadata, vocabulary, split lists, clips on the lists.

    Args:
        folder: of the task.
        rate_hz: of the clips that are looked for.

    Raises:
        BrokenTask: a list that is there is damaged, or names something outside its folder.
    """
    if not (folder / METADATA).is_file():
        return [METADATA]
    lacking = [name for name in lists_of(folder) if not (folder / name).is_file()]
    for split in read_metadata(folder)["splits"]:
        if f"{split}.json" not in lacking:
            audio = folder / str(rate_hz) / split
            clips = read_split(folder, split)
            lacking += [f"{rate_hz}/{split}/{clip}" for clip in clips if not _is_clip(audio / clip)]
    return lacking


def count_clips(folder: Path) -> int:
    """Return how many clips a task's split lists name."""
    return sum(map(len, read_splits(folder).values()))


def faintness(folder: Path, rate_hz: int) -> str:
    """A warning if a task's audio hardly moves, as in HEAR's small archive of spoken digits; else nothing.

    Looks at the first clips of each split; reads no more of them than it needs to find a loud one.
    """
    peak = 0.0
    for split, clips in read_splits(folder).items():
        audio = folder / str(rate_hz) / split
        for name in list(clips)[:FAINT_CLIPS]:
            samples, _ = soundfile.read(audio / name, dtype="float32")
            peak = max(peak, float(np.abs(samples).max(initial=0.0)))
            if peak >= FAINT_PEAK:
                return ""
    return (
        f"its loudest sample, in {FAINT_CLIPS} clips of each split, is {peak * 32768:.0f} of 32768: hardly "
        "more than rounding noise is left of the sound, and scores say little about a model"
    )


def _is_clip(path: Path) -> bool:
    return path.is_file() and path.stat().st_size >= WAV_HEADER_BYTES
