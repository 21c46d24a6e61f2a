"""Different files in a batch of 256 crops: the published loader's shuffles, against ours. No audio is read.

Both are the real shuffling code on numbers that stand for crops: webdataset's shuffle, put together as in the
published `create_dataloader`, and our `shuffled`, with the turns and pieces of `CropBatches`.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from itertools import count, islice
from statistics import fmean

import numpy as np
from webdataset.filters import shuffle as webdataset_shuffle

from pretrain.reading.shuffle_buffer import shuffled
from pretrain.shards import crops_of_piece

INITIAL = 100
"""webdataset's default: a shuffle gives its first item when it has so many."""

Crops = Iterator[tuple[int, int]]


def crops_of(files: Iterator[int], crops_per_file: int) -> Crops:
    return ((file, crop) for file in files for crop in range(crops_per_file))


def published_worker(worker: int, n_workers: int, crops_per_file: int, capacity: int) -> Crops:
    """Files shuffled, cut into crops, crops shuffled."""
    generator = random.Random(worker)
    files = webdataset_shuffle(capacity, initial=capacity // 4, rng=generator)(count(worker, n_workers))
    return iter(webdataset_shuffle(capacity, initial=INITIAL, rng=generator)(crops_of(files, crops_per_file)))


def published(n_workers: int, crops_per_file: int, capacity: int, batch_size: int) -> Crops:
    """Batches of one worker after the other, taken apart and shuffled once more."""
    workers = [published_worker(worker, n_workers, crops_per_file, capacity) for worker in range(n_workers)]
    arriving = in_turns(workers, batch_size)
    return iter(webdataset_shuffle(capacity, initial=INITIAL, rng=random.Random(-1))(arriving))


def our_worker(worker: int, n_workers: int, crops_per_file: int, capacity: int) -> Crops:
    generator = np.random.default_rng(worker)
    files = shuffled(count(worker, n_workers), [], capacity, generator)
    return shuffled(crops_of(files, crops_per_file), [], capacity, generator)


def one_worker_at_a_time(n_workers: int, crops_per_file: int, capacity: int, batch_size: int) -> Crops:
    """Each batch from one worker, not mixed with others."""
    workers = [our_worker(worker, n_workers, crops_per_file, capacity) for worker in range(n_workers)]
    return in_turns(workers, batch_size)


def ours(n_workers: int, crops_per_file: int, capacity: int, batch_size: int) -> Crops:
    """A piece of a batch of one worker after the other, and shuffled once more."""
    workers = [our_worker(worker, n_workers, crops_per_file, capacity) for worker in range(n_workers)]
    arriving = in_turns(workers, crops_of_piece(batch_size, n_workers, is_shuffled=True))
    return shuffled(arriving, [], capacity, np.random.default_rng(n_workers))


def in_turns(workers: list[Crops], n_crops: int) -> Crops:
    """Yield so many crops of each worker, over and over."""
    while True:
        for worker in workers:
            yield from islice(worker, n_crops)


def mean_files(crops: Crops, batch_size: int, n_batches: int) -> float:
    """Return the mean number of files in a batch, once all buffers are full."""
    batches = (list(islice(crops, batch_size)) for _ in count())
    batches = islice(batches, n_batches, 2 * n_batches)
    return fmean(len({file for file, _ in batch}) for batch in batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crops", type=int, nargs="+", default=[18, 60], help="in each file")
    parser.add_argument("--workers", type=int, nargs="+", default=[16, 4, 1])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--capacity", type=int, default=512, help="of each buffer")
    parser.add_argument(
        "--batches", type=int, default=100, help="as many are made first, to fill the buffers"
    )
    args = parser.parse_args()
    loaders: dict[str, Callable[..., Crops]] = {
        "published": published,
        "one worker at a time": one_worker_at_a_time,
        "ours": ours,
    }
    print("| crops a file | workers | " + " | ".join(loaders) + " |")
    print("|---|---|" + "---|" * len(loaders))
    for crops_per_file in args.crops:
        for n_workers in args.workers:
            files = [
                mean_files(
                    loader(n_workers, crops_per_file, args.capacity, args.batch), args.batch, args.batches
                )
                for loader in loaders.values()
            ]
            print(f"| {crops_per_file} | {n_workers} | " + " | ".join(f"{mean:.0f}" for mean in files) + " |")


if __name__ == "__main__":
    main()
