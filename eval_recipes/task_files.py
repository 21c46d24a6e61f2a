"""The files of one task: what belongs to it, and its clips at another rate."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from eval_recipes.archives import ImportProblem

WAV_HEADER_BYTES = 44
FAINT_PEAK = 16 / 32768
FAINT_CLIPS = 20
"""Clips of each split that are looked at."""


def resample(content: bytes, rate_hz: int) -> bytes:
    """Convert a sound file to another rate, mono wav, keeping its sample format.

    Raises:
        soundfile.SoundFileError: the content cannot be decoded.
    """
    with soundfile.SoundFile(io.BytesIO(content)) as source:
        if source.samplerate == rate_hz and source.channels == 1 and source.format == "WAV":
            return content
        samples = source.read(dtype="float32", always_2d=True).mean(axis=1, dtype=np.float32)
        subtype = source.subtype if source.subtype in soundfile.available_subtypes("WAV") else "PCM_16"
        converted = soxr.resample(samples, source.samplerate, rate_hz, quality="VHQ")
    written = io.BytesIO()
    soundfile.write(written, converted, rate_hz, subtype=subtype, format="WAV")
    return written.getvalue()


def read_json(path: Path) -> Any:
    """A JSON file of a task.

    Raises:
        ImportProblem: it is none.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ImportProblem(f"{path} is no JSON file ({error}); delete it or fetch the task again") from error


def lists_of(folder: Path) -> list[str]:
    """Names of the files that say what a task is: metadata, vocabulary, one list a split.

    Raises:
        ImportProblem: the metadata name no splits.
    """
    metadata = read_json(folder / "task_metadata.json")
    splits = metadata.get("splits") if isinstance(metadata, dict) else None
    if not splits:
        raise ImportProblem(f"{folder / 'task_metadata.json'} names no splits; fetch the task again")
    return ["task_metadata.json", "labelvocabulary.csv", *(f"{split}.json" for split in splits)]


def missing_files(folder: Path, rate_hz: int) -> list[str]:
    """What a task folder lacks: metadata, vocabulary, split lists, clips on the lists.

    Args:
        folder: of the task.
        rate_hz: of the clips that are looked for.
    """
    if not (folder / "task_metadata.json").is_file():
        return ["task_metadata.json"]
    names = lists_of(folder)
    lacking = [name for name in names if not (folder / name).is_file()]
    for name in names[2:]:
        if name not in lacking:
            split = name.removesuffix(".json")
            audio = folder / str(rate_hz) / split
            lacking += [
                f"{rate_hz}/{split}/{clip}" for clip in read_json(folder / name) if not _is_clip(audio / clip)
            ]
    return lacking


def count_clips(folder: Path) -> int:
    """How many clips a task's split lists name."""
    return sum(len(read_json(folder / name)) for name in lists_of(folder)[2:])


def faintness(folder: Path, rate_hz: int) -> str:
    """A warning if a task's audio hardly moves, as in HEAR's small archive of spoken digits; else nothing.

    Looks at the first clips of each split; reads no more of them than it needs to find a loud one.
    """
    peak = 0.0
    for split_list in lists_of(folder)[2:]:
        audio = folder / str(rate_hz) / Path(split_list).stem
        for name in list(read_json(folder / split_list))[:FAINT_CLIPS]:
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
