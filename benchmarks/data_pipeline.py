"""Shards to batches of 32 x 10 s: audio-seconds per second, against the plainest webdataset pipeline."""

from __future__ import annotations

import argparse
import io
import statistics
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import measure
import numpy as np
import soundfile
import torch
import webdataset
from torch.utils.data import DataLoader

from pretrain.reading.sources import parse_sources
from pretrain.shards import CropBatches

RATE_HZ = 16_000
CHUNK_SAMPLES = 10 * RATE_HZ
BATCH_SIZE = 32


def speech_like(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Noise with falling spectrum and syllables, which FLAC packs about as well as speech."""
    noise = rng.standard_normal(round(seconds * RATE_HZ))
    low = np.convolve(noise, np.hanning(24), "same")
    syllables = np.sin(np.pi * 4 * np.arange(len(low)) / RATE_HZ) ** 2
    return (0.05 * low * (0.02 + syllables) / low.std()).astype(np.float32)


def write_shards(folder: Path, n_shards: int, n_files: int, seconds: tuple[float, float]) -> str:
    """Shards of FLAC files between two lengths; all shards hold the same audio."""
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(n_files):
        buffer = io.BytesIO()
        soundfile.write(buffer, speech_like(rng.uniform(*seconds), rng), RATE_HZ, format="FLAC")
        encoded.append(buffer.getvalue())
    for shard in range(n_shards):
        with tarfile.open(folder / f"{shard:03}.tar", "w") as archive:
            for number, data in enumerate(encoded):
                info = tarfile.TarInfo(f"{shard:03}_{number:05}.flac")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return f"{folder}/{{000..{n_shards - 1:03}}}.tar"


def plain(shards: str, n_workers: int) -> DataLoader:
    """No shuffling, no care for faults."""

    def crops(samples) -> Iterator[torch.Tensor]:
        for sample in samples:
            audio, _ = soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")
            for start in range(0, len(audio) - CHUNK_SAMPLES + 1, CHUNK_SAMPLES):
                yield (torch.from_numpy(audio[start : start + CHUNK_SAMPLES]),)

    dataset = webdataset.WebDataset(shards, shardshuffle=False).compose(crops).batched(BATCH_SIZE)
    return DataLoader(dataset, batch_size=None, num_workers=n_workers)


def ours(shards: str, n_workers: int) -> CropBatches:
    return CropBatches(
        parse_sources([shards]),
        batch_size=BATCH_SIZE,
        chunk_samples=CHUNK_SAMPLES,
        sample_rate_hz=RATE_HZ,
        shuffle_crops=512,
        resampled=False,
        seed=0,
        n_workers=n_workers,
    )


def read_all(pipeline: Callable, shards: str, n_workers: int) -> None:
    for _ in pipeline(shards, n_workers):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--files", type=int, default=200, help="in each shard")
    parser.add_argument("--seconds", type=float, nargs=2, default=(10, 30), help="shortest and longest file")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure.use_cores(2)
        shards = write_shards(Path(folder), args.shards, args.files, args.seconds)
        for n_workers in (0, 2):
            cores = max(1, n_workers)
            measure.use_cores(cores)
            print(f"{measure.machine()}, {n_workers} workers")
            audio_s = [len(batch.keys) * CHUNK_SAMPLES / RATE_HZ for batch in ours(shards, n_workers)]
            seconds = measure.alternate(
                {
                    "webdataset + soundfile": partial(read_all, plain, shards, n_workers),
                    "ours, shuffling 512": partial(read_all, ours, shards, n_workers),
                },
                args.rounds,
            )
            measure.report(seconds, "webdataset + soundfile")
            for name, values in seconds.items():
                rate = sum(audio_s) / statistics.median(values) / cores
                print(f"{name:<34} {rate:6.0f} audio-seconds per second per core")


if __name__ == "__main__":
    main()
