"""Shards made for tests, and short ways to read them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
import torch

from pretrain.reading.sources import parse_sources
from pretrain.shards import Batch, CropBatches

RATE_HZ = 16_000
CHUNK = 160
"""Samples of a crop: 10 ms, which keeps tests quick."""


def noise(n_samples: int, seed: int = 0, channels: int = 1) -> np.ndarray:
    """Float noise that a 16-bit file holds exactly, (samples, channels)."""
    values = np.random.default_rng(seed).integers(-8000, 8000, (n_samples, channels))
    return (values / 32768).astype(np.float32)


def encoded(samples: np.ndarray, kind: str = "flac", rate_hz: int = RATE_HZ, **options) -> bytes:
    """An audio file's bytes."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=kind.upper(), **options)
    return buffer.getvalue()


def clip(n_crops: float, seed: int = 0, kind: str = "flac") -> bytes:
    """A file of so many crops."""
    return encoded(noise(round(n_crops * CHUNK), seed), kind)


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    """A tar of these files, in this order."""
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_shards(folder: Path, crops_of_files: Sequence[Sequence[float]]) -> str:
    """A shard for each inner sequence, a file for each number; returns their pattern."""
    folder.mkdir(exist_ok=True)
    for shard, crops in enumerate(crops_of_files):
        files = [(f"{number}.flac", clip(n, 100 * shard + number)) for number, n in enumerate(crops)]
        write_tar(folder / f"{shard}.tar", files)
    return f"{folder}/{{0..{len(crops_of_files) - 1}}}.tar" if len(crops_of_files) > 1 else f"{folder}/0.tar"


def all_keys(crops_of_files: Sequence[Sequence[float]]) -> list[str]:
    """The keys that a pass over `write_shards`'s shards gives, in order."""
    return [
        f"{shard}.tar/{number}.flac#{crop}"
        for shard, crops in enumerate(crops_of_files)
        for number, n in enumerate(crops)
        for crop in range(max(1, int(n)))
    ]


def crop_batches(data, **options) -> CropBatches:
    """A reader of small crops: one unshuffled pass, unless told otherwise."""
    settings = {
        "batch_size": 4,
        "chunk_samples": CHUNK,
        "shuffle_crops": 0,
        "resampled": False,
        "seed": 0,
    } | options
    return CropBatches(parse_sources(data), **settings)


def keys_of(batches: Iterable[Batch], n: int | None = None) -> list[str]:
    """The keys of the first n batches, or of all."""
    return [key for batch in islice(batches, n) for key in batch.keys]


def is_same(one: Sequence[Batch], other: Sequence[Batch]) -> bool:
    """Whether these are the same batches, to the last bit."""
    return len(one) == len(other) and all(
        a.keys == b.keys and torch.equal(a.waveforms, b.waveforms) and a.skipped == b.skipped
        for a, b in zip(one, other, strict=True)
    )
