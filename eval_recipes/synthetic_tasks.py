"""Three small HEAR tasks from synthesised sound, laid out as the real ones are, and sound to pretrain on.

They cover what heareval does: a scene task with one label and folds, a scene task
with several labels, an event task. Sounds differ in their course over tenths of seconds: at any
instant a hill may be a valley, and a throb a flutter, so that there is something for an encoder to learn.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE_HZ = 16_000
FADE_S = 0.01
Rng = np.random.Generator


def _time(seconds: float) -> np.ndarray:
    return np.arange(int(seconds * RATE_HZ)) / RATE_HZ


def _sweep(start_hz: float, end_hz: float, seconds: float) -> np.ndarray:
    frequency_hz = np.geomspace(start_hz, end_hz, int(seconds * RATE_HZ))
    phase = 2 * np.pi * np.cumsum(frequency_hz) / RATE_HZ
    return np.sin(phase) + 0.3 * np.sin(2 * phase)


def _noise(rng: Rng, seconds: float) -> np.ndarray:
    """Noise in a random band, so that its colour tells nothing."""
    spectrum = np.fft.rfft(rng.standard_normal(int(seconds * RATE_HZ)))
    frequency_hz = np.linspace(0, RATE_HZ / 2, len(spectrum))
    centre_hz = rng.uniform(800, 4000)
    return np.fft.irfft(
        spectrum * np.exp(-(np.log2((frequency_hz + 1) / centre_hz) ** 2)), int(seconds * RATE_HZ)
    )


def _rise(rng: Rng, seconds: float) -> np.ndarray:
    start_hz = rng.uniform(200, 1200)
    return _sweep(start_hz, start_hz * rng.uniform(2, 4), seconds)


def _fall(rng: Rng, seconds: float) -> np.ndarray:
    return _rise(rng, seconds)[::-1]


def _tone(rng: Rng, seconds: float) -> np.ndarray:
    frequency_hz = rng.uniform(200, 2500)
    return _sweep(frequency_hz, frequency_hz, seconds)


def _warble(rng: Rng, seconds: float) -> np.ndarray:
    vibrato = 0.06 * np.sin(2 * np.pi * rng.uniform(5, 8) * _time(seconds))
    phase = 2 * np.pi * np.cumsum(rng.uniform(300, 1500) * (1 + vibrato)) / RATE_HZ
    return np.sin(phase) + 0.3 * np.sin(2 * phase)


def _there_and_back(there: Callable[[Rng, float], np.ndarray], rng: Rng, seconds: float) -> np.ndarray:
    half = there(rng, seconds / 2 + 1 / RATE_HZ)  # a sample more, for odd lengths
    return np.concatenate([half, half[::-1]])[: int(seconds * RATE_HZ)]


def _hill(rng: Rng, seconds: float) -> np.ndarray:
    return _there_and_back(_rise, rng, seconds)


def _valley(rng: Rng, seconds: float) -> np.ndarray:
    return _there_and_back(_fall, rng, seconds)


def _pulsed(rng: Rng, seconds: float, rate_hz: float) -> np.ndarray:
    phase = rng.uniform(0, 2 * np.pi)
    return _noise(rng, seconds) * (1 + np.sin(2 * np.pi * rate_hz * _time(seconds) + phase))


def _throb(rng: Rng, seconds: float) -> np.ndarray:
    return _pulsed(rng, seconds, rng.uniform(3.5, 5))


def _flutter(rng: Rng, seconds: float) -> np.ndarray:
    return _pulsed(rng, seconds, rng.uniform(9, 12))


SOUNDS: dict[str, Callable[[Rng, float], np.ndarray]] = {
    "rise": _rise,
    "fall": _fall,
    "hill": _hill,
    "valley": _valley,
    "throb": _throb,
    "flutter": _flutter,
}
"""The tasks' classes."""

OTHER_SOUNDS: dict[str, Callable[[Rng, float], np.ndarray]] = {
    "tone": _tone,
    "warble": _warble,
    "hiss": _noise,
}
"""Of no task; what goes on for long teaches a model soonest to look around."""


def _sound(name: str, rng: Rng, seconds: float) -> np.ndarray:
    """A sound of a class at unit level, faded at both ends."""
    samples = (SOUNDS | OTHER_SOUNDS)[name](rng, seconds)
    ramp = np.minimum(1, _time(seconds) / FADE_S)
    samples = samples * ramp * ramp[::-1]
    return samples / np.sqrt(np.mean(samples**2))


def _mix(rng: Rng, seconds: float, placed: list[tuple[str, float, float]]) -> np.ndarray:
    """Background noise with sounds (class, start in s, duration in s) over it."""
    mixed = rng.uniform(0.1, 0.4) * rng.standard_normal(int(seconds * RATE_HZ))
    for name, start_s, duration_s in placed:
        sound = _sound(name, rng, duration_s) * rng.uniform(0.6, 1.4)
        first = int(start_s * RATE_HZ)
        mixed[first : first + len(sound)] += sound[: len(mixed) - first]
    return 0.3 * mixed / np.abs(mixed).max()


def unlabelled_audio(folder: Path, clips: int, seconds: float = 4.0, seed: int = 0) -> Path:
    """Clips to pretrain on: sounds of all kinds, close together, in noise from faint to strong.

    Returns:
        A table of the files, as `wavlist_to_tar` reads it.
    """
    rng, kinds = np.random.default_rng([seed, 4]), list(SOUNDS | OTHER_SOUNDS)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"clip_{index:05d}.wav" for index in range(clips)]
    for path in paths:
        noise_level = 10 ** rng.uniform(-2.5, -0.6)
        samples = noise_level * rng.standard_normal(int(seconds * RATE_HZ))
        start_s = 0.0
        while start_s < seconds - 0.1:
            sound_s = min(rng.uniform(0.4, 1.2), seconds - start_s)
            sound = _sound(str(rng.choice(kinds)), rng, sound_s) * rng.uniform(0.3, 1.5)
            first = int(start_s * RATE_HZ)
            samples[first : first + len(sound)] += sound[: len(samples) - first]
            start_s += sound_s * rng.uniform(0.3, 1.0)
        soundfile.write(path, 0.3 * samples / np.abs(samples).max(), RATE_HZ, subtype="PCM_16")
    table = folder.with_suffix(".tsv")
    table.write_text("\n".join(["filename", *map(str, paths)]) + "\n")
    return table


def _write_task(
    out: Path, name: str, metadata: dict[str, Any], splits: dict[str, dict[str, tuple]], labels: list[str]
) -> Path:
    folder = out / name
    for split, clips in splits.items():
        audio = folder / str(RATE_HZ) / split
        audio.mkdir(parents=True, exist_ok=True)
        for clip, (samples, _) in clips.items():
            soundfile.write(audio / clip, samples, RATE_HZ, subtype="PCM_16")
        listed = {clip: label for clip, (_, label) in clips.items()}
        (folder / f"{split}.json").write_text(json.dumps(listed, indent=1))
    rows = [f"{index},{label}" for index, label in enumerate(labels)]
    (folder / "labelvocabulary.csv").write_text("\n".join(["idx,label", *rows]) + "\n")
    full = {"version": "v1", "mode": "small", "splits": list(splits), **metadata}
    (folder / "task_metadata.json").write_text(json.dumps(full, indent=1))
    return folder


def scene_multiclass(out: Path, clips_per_fold: int = 48, folds: int = 3, seed: int = 0) -> Path:
    """Which of six sounds is it? One label a clip, folds, top-1 accuracy."""
    rng, seconds, labels = np.random.default_rng([seed, 1]), 1.5, list(SOUNDS)
    splits = {}
    for fold in range(folds):
        splits[f"fold{fold:02d}"] = {
            f"clip{fold}_{index:03d}.wav": (
                _mix(rng, seconds, [(labels[index % len(labels)], rng.uniform(0, 0.5), 1.0)]),
                [labels[index % len(labels)]],
            )
            for index in range(clips_per_fold)
        }
    metadata = {
        "task_name": "demo_which_sound",
        "embedding_type": "scene",
        "prediction_type": "multiclass",
        "split_mode": "new_split_kfold",
        "nfolds": folds,
        "sample_duration": seconds,
        "evaluation": ["top1_acc"],
    }
    return _write_task(out, "demo_which_sound-v1-small", metadata, splits, labels)


def scene_multilabel(out: Path, clips: tuple[int, int, int] = (144, 48, 144), seed: int = 0) -> Path:
    """Which sounds are in the mix? One or two labels a clip, mAP."""
    rng, seconds, labels = np.random.default_rng([seed, 2]), 2.0, list(SOUNDS)
    splits = {}
    for split, count in zip(("train", "valid", "test"), clips, strict=True):
        splits[split] = {}
        for index in range(count):
            present = sorted({labels[index % len(labels)], *rng.choice(labels, index % 2, replace=False)})
            placed = [(name, rng.uniform(0, 0.7), 1.2) for name in present]
            splits[split][f"{split}_{index:03d}.wav"] = (
                _mix(rng, seconds, placed),
                [str(name) for name in present],
            )
    metadata = {
        "task_name": "demo_sounds_in_mix",
        "embedding_type": "scene",
        "prediction_type": "multilabel",
        "split_mode": "trainvaltest",
        "sample_duration": seconds,
        "evaluation": ["mAP", "d_prime", "aucroc"],
    }
    return _write_task(out, "demo_sounds_in_mix-v1-small", metadata, splits, labels)


def event_detection(out: Path, clips: tuple[int, int, int] = (12, 5, 10), seed: int = 0) -> Path:
    """When does which sound happen? Labelled events in longer clips, onset F-measure."""
    rng, seconds, labels = np.random.default_rng([seed, 3]), 4.0, ["rise", "fall", "flutter"]
    splits = {}
    for split, count in zip(("train", "valid", "test"), clips, strict=True):
        splits[split] = {}
        for index in range(count):
            placed, start_s = [], rng.uniform(0.1, 0.6)
            while start_s < seconds - 1.0:
                placed.append((str(rng.choice(labels)), start_s, rng.uniform(0.4, 0.9)))
                start_s += placed[-1][2] + rng.uniform(0.3, 0.9)
            events = [
                {"label": name, "start": round(1000 * begin, 1), "end": round(1000 * (begin + length), 1)}
                for name, begin, length in placed
            ]
            splits[split][f"{split}_{index:03d}.wav"] = (_mix(rng, seconds, placed), events)
    metadata = {
        "task_name": "demo_events",
        "embedding_type": "event",
        "prediction_type": "multilabel",
        "split_mode": "trainvaltest",
        "sample_duration": seconds,
        "evaluation": ["event_onset_200ms_fms", "segment_1s_er"],
    }
    return _write_task(out, "demo_events-v1-small", metadata, splits, labels)
