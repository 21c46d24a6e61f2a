"""What must hold before and after heareval works on a task, with the file that breaks it named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from eval_recipes.task_lists import TaskProblem as TaskProblem
from eval_recipes.task_lists import read_metadata, read_split

NAMED = 3
"""Offending files named in a message."""


def check_task_audio(task_dir: Path, rate_hz: int) -> dict[str, dict[str, int]]:
    """Look at the headers of all audio that a task's splits list.

    Returns:
        For each split its clips' lengths in samples.

    Raises:
        TaskProblem: a split list or file is missing, cannot be read, has another
            sample rate, more channels than one, no samples, or a length unlike
            the others' in a task of fixed length.
    """
    metadata = read_metadata(task_dir)
    problems: list[str] = []
    lengths: dict[int, str] = {}
    found: dict[str, dict[str, int]] = {}
    for split in metadata["splits"]:
        clips = read_split(task_dir, split)
        folder = task_dir / str(rate_hz) / split
        if not folder.is_dir():
            rates = ", ".join(sorted(entry.name for entry in task_dir.iterdir() if entry.name.isdigit()))
            raise TaskProblem(
                f"{folder} is missing and the model wants {rate_hz} Hz (there is: {rates or 'no audio'}); "
                f"run `hear-dasheng tasks import SOURCE --rate {rate_hz}`"
            )
        found[split] = {}
        for name in tqdm(clips, desc=f"  checking {split}", leave=False, disable=None):
            problem, frames = _look_at(folder / name, rate_hz)
            if problem:
                problems.append(f"{folder / name} {problem}")
            else:
                lengths.setdefault(frames, f"{split}/{name}")
                found[split][name] = frames
    if metadata.get("sample_duration") is not None and len(lengths) > 1:
        listed = "; ".join(f"{name} has {frames}" for frames, name in list(lengths.items())[:NAMED])
        problems.append(f"clips of a task of fixed length have different numbers of samples: {listed}")
    if problems:
        more = f" (and {len(problems) - NAMED} more)" if len(problems) > NAMED else ""
        raise TaskProblem("; ".join(problems[:NAMED]) + more)
    return found


def _look_at(path: Path, rate_hz: int) -> tuple[str, int]:
    if not path.is_file():
        return "is missing", 0
    try:
        info = soundfile.info(path)
    except soundfile.SoundFileError as error:
        return f"cannot be decoded ({error})", 0
    if info.samplerate != rate_hz:
        return f"has a sample rate of {info.samplerate} Hz instead of {rate_hz}", 0
    if info.channels != 1:
        return f"has {info.channels} channels instead of 1", 0
    if info.frames == 0:
        return "holds no samples", 0
    return "", info.frames


def check_embeddings(task_dir: Path) -> None:
    """Look for values that are not finite in a task's embeddings; heareval does not.

    Raises:
        TaskProblem: naming the first clip that has them.
    """
    metadata = read_metadata(task_dir)
    for split in metadata["splits"]:
        dimensions = task_dir / f"{split}.embedding-dimensions.json"
        if not dimensions.is_file():
            raise TaskProblem(f"{dimensions} is missing: the task is only half embedded; embed it again")
        shape = tuple(json.loads(dimensions.read_text()))
        values = np.memmap(task_dir / f"{split}.embeddings.npy", np.float32, "r", shape=shape)
        step = max(1, (1 << 24) // shape[1])
        if all(np.isfinite(values[row : row + step]).all() for row in range(0, shape[0], step)):
            continue
        for clip in read_split(task_dir, split):
            file = task_dir / split / f"{clip}.embedding.npy"
            if not np.isfinite(np.load(file)).all():
                raise TaskProblem(f"{file} holds values that are not finite; look at that clip and the model")
        raise TaskProblem(f"{task_dir / split}.embeddings.npy holds values that are not finite")
