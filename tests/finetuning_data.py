"""Small labelled shards, as wavlist_to_tar makes them, and a config that fine-tunes on them in seconds."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from click.testing import CliRunner

from pretrain.training.finetune_config import FinetuneConfig
from pretrain.training.read_config import config_of
from pretrain.wavlist_to_tar import main

SMALL_MODEL = {"embed_dim": 48, "depth": 2, "num_heads": 2}
RATE_HZ = 16_000
PITCHES_HZ = {"low": 200, "middle": 800, "high": 3_000}
"""Classes that anyone can tell apart: a tone of the class's pitch in noise."""

EVERYTHING = {
    "mixup": 0.5,
    "time_mask": 8,
    "frequency_mask": 8,
    "time_shift": 0.5,
    "layer_decay": 0.75,
    "balanced": True,
}
"""Every augmentation, and both kinds of uneven rates."""


def tone(labels: Sequence[str], seed: int, seconds: float = 0.5) -> np.ndarray:
    """A tone for each label, give or take a fifth of its pitch, in noise."""
    generator = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    sound = 0.02 * generator.standard_normal(len(time_s))
    for label in labels:
        pitch_hz = PITCHES_HZ[label] * generator.uniform(0.8, 1.25)
        sound += 0.2 * np.sin(2 * np.pi * (pitch_hz * time_s + generator.random()))
    return sound


def pack(
    folder: Path,
    name: str,
    labels: Sequence[str],
    seconds: float | Sequence[float] = 0.5,
    column: str = "label",
    clips_per_shard: int = 20,
    **options: str,
) -> str:
    """Shards of a clip for each entry of `labels` ("low;high" has two); returns their pattern."""
    (folder / name).mkdir(parents=True)
    lengths = [seconds] * len(labels) if isinstance(seconds, float) else seconds
    rows = []
    for index, (label, length) in enumerate(zip(labels, lengths, strict=True)):
        path = folder / name / f"{name}_{index:04d}.wav"
        known = [part for part in label.split(";") if part in PITCHES_HZ]
        soundfile.write(path, tone(known, len(name) * 10_000 + index, length), RATE_HZ)
        rows.append((path, label))
    with (folder / f"{name}.tsv").open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerows([("filename", column), *rows])
    arguments = [str(folder / f"{name}.tsv"), str(folder / "shards"), "-s", str(clips_per_shard), "-n", "0"]
    result = CliRunner().invoke(main, [*arguments, *(word for pair in options.items() for word in pair)])
    assert result.exit_code == 0, result.output
    return f"{folder}/shards/{name}_*.tar"


def labels_of(counts: dict[str, int]) -> list[str]:
    """Each label so many times."""
    return [label for label, count in counts.items() for _ in range(count)]


def write_unequal_classes(folder: Path) -> tuple[str, str]:
    """Training shards with three classes of unequal size, and validation shards of clips of many lengths."""
    train_data = pack(folder, "train", labels_of({"low": 48, "middle": 24, "high": 12}))
    lengths = [0.5, 0.7, 1.1, 0.3, 0.5, 1.6]
    return train_data, pack(folder, "valid", list(PITCHES_HZ) * 6, seconds=lengths * 3, clips_per_shard=5)


def settings(train_data: str, cv_data: str, **changes) -> dict:
    """A config's values: 3 epochs of 6 iterations from an untrained small model."""
    values = {
        "train_data": [train_data],
        "cv_data": [cv_data],
        "task": "single",
        "model": "dasheng_tiny",
        "model_args": SMALL_MODEL,
        "chunk_length": 0.5,
        "batch_size": 6,
        "crop_shuffle": 8,
        "num_workers": 0,
        "resampled": True,
        "epochs": 3,
        "epoch_length": 6,
        "warmup_iters": 4,
        "log_every": 2,
        "trackers": [],
    }
    return values | changes


def finetune_config(train_data: str, cv_data: str, **changes) -> FinetuneConfig:
    """The same as a checked config."""
    return config_of(settings(train_data, cv_data, **changes), kind=FinetuneConfig)
