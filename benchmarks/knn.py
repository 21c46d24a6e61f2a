"""Nearest neighbours at VoxCeleb1's size: `neighbours.search` against scikit-learn's brute force and faiss.

Each contestant is a process of its own, in turns: it maps the embeddings from disk, answers a small
question once (imports, threads), then answers the whole one. Seconds are of the answer, from arrays on
disk to indices and distances; memory is the most that was resident, mapped embeddings (`file`) and all
else (`anonymous`) apart, sampled every 20 ms. All search the cosine: faiss as inner products of
normalised copies, which it is given the time to make. A process bound to few cores keeps these.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from measure import machine, use_cores

CONTESTANTS = ("ours", "scikit-learn", "faiss")
K = 10
STEP = 10_000


def make(folder: Path, n: int, n_queries: int, width: int, spread: float) -> None:
    """Vectors around one mean; a small spread brings all cosines near 1, as an encoder's are."""
    chance = np.random.default_rng(0)
    mean = chance.standard_normal(width, dtype=np.float32)
    for name, rows in (("references", n), ("queries", n_queries)):
        file = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (rows, width))
        for start in range(0, rows, STEP):
            some = file[start : start + STEP]
            some[:] = mean + spread * chance.standard_normal(some.shape, dtype=np.float32)
        file.flush()


def ours(references: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from eval_recipes.neighbours.search import nearest

    found = nearest(references, queries, K)
    return found.indices, found.distances


def scikit_learn(references: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=K, metric="cosine", algorithm="brute", n_jobs=-1)
    distances, indices = search.fit(references).kneighbors(queries)
    return indices, distances


def faiss(references: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import faiss as library

    references, queries = np.array(references), np.array(queries)
    library.normalize_L2(references)
    library.normalize_L2(queries)
    cosines, indices = library.knn(queries, references, K, metric=library.METRIC_INNER_PRODUCT)
    return indices, 1 - cosines


class Resident(threading.Thread):
    """The most resident memory of this process, in MiB, by kind."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = {"RssAnon": 0.0, "RssFile": 0.0}

    def run(self) -> None:
        """Look every 20 ms."""
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in self.most:
                    self.most[name] = max(self.most[name], int(value.split()[0]) / 1024)
            time.sleep(0.02)


def mapped(folder: Path, mode: str) -> list[np.ndarray]:
    return [np.load(folder / f"{part}.npy", mmap_mode=mode) for part in ("references", "queries")]


def bind(cores: int) -> None:
    if len(os.sched_getaffinity(0)) > cores:
        use_cores(cores)
    torch.set_num_threads(cores)


def contest(name: str, folder: Path, cores: int) -> None:
    """One answer of one contestant, printed as JSON."""
    bind(cores)
    work = {"ours": ours, "scikit-learn": scikit_learn, "faiss": faiss}[name]
    references, queries = (
        np.load(folder / f"{part}.npy", mmap_mode="c") for part in ("references", "queries")
    )
    work(np.array(references[:2000]), np.array(queries[:50]))
    resident = Resident()
    resident.start()
    start, started = time.perf_counter(), time.process_time()
    indices, distances = work(references, queries)
    spent = {"seconds": time.perf_counter() - start, "processor_s": time.process_time() - started}
    np.savez(folder / f"{name}.npz", indices=indices, distances=distances)
    print(json.dumps({**spent, **resident.most}))


def agreement(folder: Path, names: list[str]) -> None:
    """How far the answers are the same, and how wrong they are against float64."""
    answers = {name: np.load(folder / f"{name}.npz") for name in names}
    references, queries = (
        np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("references", "queries")
    )
    checked = np.linspace(0, len(queries) - 1, 20).astype(int)
    x = queries[checked].astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosines = []
    for start in range(0, len(references), STEP):
        y = references[start : start + STEP].astype(np.float64)
        cosines.append(x @ (y / np.linalg.norm(y, axis=1, keepdims=True)).T)
    true = np.argsort(-np.hstack(cosines), axis=1, kind="stable")[:, :K]
    for name, answer in answers.items():
        right = (answer["indices"][checked] == true).all(1).sum()
        print(f"{name:<14} {right} of {len(checked)} queries as sorted in float64")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--references", type=int, default=150_000)
    parser.add_argument("--queries", type=int, default=8251)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--spread", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS))
    parser.add_argument("--contest", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contest:
        contest(options.contest[0], Path(options.contest[1]), options.cores)
        return
    bind(options.cores)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.references, options.queries, options.width, options.spread)
        runs: dict[str, list[dict]] = {name: [] for name in options.contestants}
        for _ in range(options.rounds):
            for name in options.contestants:
                command = [sys.executable, __file__, "--contest", name, folder, "--cores", str(options.cores)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                runs[name].append(json.loads(done.stdout.splitlines()[-1]))
                print(name, runs[name][-1], flush=True)
        for name, its in runs.items():
            seconds = sorted(run["seconds"] for run in its)
            middle, low, high = seconds[len(seconds) // 2], seconds[0], seconds[-1]
            anonymous, file = (max(run[kind] for run in its) for kind in ("RssAnon", "RssFile"))
            processor = sorted(run["processor_s"] for run in its)[len(its) // 2]
            print(f"{name:<14} median {middle:7.2f} s ({low:.2f} to {high:.2f})", end="  ")
            print(f"processor {processor:7.2f} s", end="  ")
            print(f"anonymous {anonymous:6.0f} MiB  file {file:6.0f} MiB")
        agreement(Path(folder), options.contestants)


if __name__ == "__main__":
    main()
