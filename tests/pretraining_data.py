"""Small shards of synthesised sound, and a config that trains on them in seconds."""

import io
import tarfile
from pathlib import Path

import numpy as np
import soundfile
import yaml

SMALL_MODEL = {"embed_dim": 48, "depth": 2, "num_heads": 2, "group_masking": True}


def sound(seconds: float, seed: int, rate_hz: int = 16_000) -> np.ndarray:
    """A gliding tone in noise; every seed is another one."""
    generator = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    pitch_hz = generator.uniform(100, 2000) * 2 ** (generator.uniform(-1, 1) * time_s)
    tone = np.sin(2 * np.pi * np.cumsum(pitch_hz) / rate_hz)
    return 0.3 * tone + 0.03 * generator.standard_normal(len(tone))


def write_shard(path: Path, seconds: list[float], first_seed: int) -> Path:
    """A tar of FLAC files of these lengths, as `find | tar` would make it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for index, length in enumerate(seconds):
            buffer = io.BytesIO()
            soundfile.write(buffer, sound(length, first_seed + index), 16_000, format="FLAC")
            member = tarfile.TarInfo(f"clip_{first_seed + index:04d}.flac")
            member.size = buffer.getbuffer().nbytes
            buffer.seek(0)
            archive.addfile(member, buffer)
    return path


def write_shards(folder: Path, n_shards: int = 3) -> None:
    """Training shards `train_0.tar`, ... and a validation shard `valid.tar` in a folder."""
    for index in range(n_shards):
        write_shard(folder / f"train_{index}.tar", [1.0, 2.5, 0.7, 1.2, 3.1], 100 * index)
    write_shard(folder / "valid.tar", [1.0, 1.0, 2.0], 9_000)


def settings(shards: Path, n_shards: int = 3, **changes) -> dict:
    """A config's values: 3 epochs of 6 iterations, seconds in all."""
    values = {
        "train_data": [f"{shards}/train_{{0..{n_shards - 1}}}.tar"],
        "cv_data": [f"{shards}/valid.tar"],
        "model": "dasheng_tiny",
        "model_args": SMALL_MODEL,
        "chunk_length": 1.0,
        "batch_size": 3,
        "crop_shuffle": 4,
        "num_workers": 0,
        "optimizer": "AdamW",
        "epochs": 3,
        "epoch_length": 6,
        "warmup_iters": 4,
        "log_every": 2,
        "picture_clips": 0,
        "trackers": [],
    }
    return values | changes


def write_config(path: Path, values: dict) -> Path:
    """Write a config file."""
    path.write_text(yaml.safe_dump(values))
    return path
