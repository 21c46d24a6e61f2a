"""All 20 folders of HEAR with synthetic sound: true durations, classes, folds and label structure, fewer
clips.

What `eval_recipes/data/hear_tasks.csv` does not say is assumed: FSD50K's clips last 0.3 to 30 s, log-
uniformly up to the true mean; a task of three splits has 8, 1 and 1 tenths of its clips in them;
MAESTRO has ten notes a second, DCASE one event in two seconds.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from eval_recipes.task_table import HearTask, hear_tasks

RATE_HZ = 16_000
SHORTEST_S, LONGEST_S = 0.3, 30.0
EVENTS_PER_S = {"maestro": 10.0, "dcase2016_task2": 0.5}
SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}


def lay_out(out: Path, scale: float) -> dict[str, float]:
    """Write the folders with `scale` of the true number of clips, at least two a split.

    Returns:
        For each folder how many times more audio the true task has.
    """
    return {task.folder: _write_task(out / task.folder, task, scale) for task in hear_tasks()}


def _clips_of_splits(task: HearTask, scale: float) -> dict[str, int]:
    if task.folds:
        each = max(2, math.ceil(task.clips * scale / task.folds))
        return {f"fold{fold:02d}": each for fold in range(task.folds)}
    return {split: max(2, math.ceil(task.clips * scale * share)) for split, share in SHARES.items()}


def _write_task(folder: Path, task: HearTask, scale: float) -> float:
    rng = np.random.default_rng(len(task.folder))
    labels = [str(21 + index) for index in range(task.classes)]  # as pitches are named
    splits, written_s = _clips_of_splits(task, scale), 0.0
    for split, count in splits.items():
        audio = folder / str(RATE_HZ) / split
        audio.mkdir(parents=True)
        listed: dict[str, list[Any]] = {}
        for index in range(count):
            seconds = task.seconds or _ragged(rng, task.hours * 3600 / task.clips)
            name = f"{split}_{index:05d}.wav"
            label = labels[index % len(labels)]
            soundfile.write(audio / name, _sound(rng, seconds, int(label)), RATE_HZ, subtype="PCM_16")
            listed[name] = _labels(rng, task, label, labels, seconds)
            written_s += seconds
        (folder / f"{split}.json").write_text(json.dumps(listed))
    rows = [f"{index},{label}" for index, label in enumerate(labels)]
    (folder / "labelvocabulary.csv").write_text("\n".join(["idx,label", *rows]) + "\n")
    metadata = {
        "task_name": task.name,
        "version": task.version,
        "mode": task.mode,
        "embedding_type": task.embedding,
        "prediction_type": task.prediction,
        "split_mode": task.split_mode,
        "nfolds": task.folds,
        "sample_duration": task.seconds,
        "evaluation": [task.metric],
        "splits": list(splits),
    }
    (folder / "task_metadata.json").write_text(json.dumps(metadata))
    return task.hours * 3600 / written_s


def _ragged(rng: np.random.Generator, mean_s: float) -> float:
    """A length between the shortest and the longest, long and short ones mixed to have this mean."""
    low, high = math.log(SHORTEST_S), math.log(LONGEST_S)
    mean_of_log_uniform = (LONGEST_S - SHORTEST_S) / (high - low)
    share_of_short = (LONGEST_S - mean_s) / (LONGEST_S - mean_of_log_uniform)
    return math.exp(rng.uniform(low, high)) if rng.random() < share_of_short else LONGEST_S


def _sound(rng: np.random.Generator, seconds: float, pitch: int) -> np.ndarray:
    """A tone of that pitch in noise."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tone = np.sin(2 * np.pi * 440 * 2 ** (((pitch - 69) % 60 - 30) / 12) * time_s)
    return 0.1 * tone + 0.03 * rng.standard_normal(len(time_s))


def _labels(
    rng: np.random.Generator, task: HearTask, label: str, labels: list[str], seconds: float
) -> list[Any]:
    if task.embedding == "event":
        starts_ms = np.sort(rng.uniform(0, 1000 * (seconds - 1), int(seconds * EVENTS_PER_S[task.name])))
        return [
            {"label": str(rng.choice(labels)), "start": float(ms), "end": float(ms + rng.uniform(100, 900))}
            for ms in starts_ms
        ]
    if task.prediction == "multilabel":
        return sorted({label, *map(str, rng.choice(labels, 2))})
    return [label]
