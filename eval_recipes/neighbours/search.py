"""Exact nearest neighbours in blocks: float32 products find candidates, float64 decides.

A float32 product is wrong by no more than a bound that its length tells (Higham, Accuracy and
Stability of Numerical Algorithms, section 3.1). Whatever could, within twice that bound, be among
the nearest is measured again in float64, so the answer does not depend on the order in which a
library adds, on the blocks, or on the device. Memory is the embeddings' own (which may be mapped from
disk), `block_bytes` of scores and about as much of candidates, twice `distances.VECTOR_BYTES`, and, where
they lie on another device, in float64 or in memory that cannot be written to, a copy of `MAX_COLUMNS`
embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from eval_recipes.neighbours.candidates import Candidates
from eval_recipes.neighbours.choices import METRICS
from eval_recipes.neighbours.distances import Geometry
from hear_dasheng.compute.precision import fp32_arithmetic

SPARE = 32
"""Candidates kept beyond k; where more than these are within the bound, all of those are found again."""

BLOCK_BYTES, MAX_COLUMNS = 8 << 20, 1 << 12
"""Scores that stay in a processor's cache until the best are picked."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest references of each query, nearest first; of equally near ones the first in order.

    Attributes:
        indices: of references.
        distances: 1 - cosine, or Euclidean.
    """

    indices: Int[np.ndarray, "queries k"]
    distances: Float[np.ndarray, "queries k"]


def nearest(
    references: Float[np.ndarray, "references features"],
    queries: Float[np.ndarray, "queries features"] | None,
    k: int,
    metric: str = "cosine",
    *,
    device: str = "cpu",
    block_bytes: int = BLOCK_BYTES,
    progress: bool = False,
) -> Neighbours:
    """Find the k nearest references of every query.

    As scikit-learn's `NearestNeighbors(algorithm="brute")` in float64, but for exact ties, which it
    leaves open: here the reference that comes first counts as nearer. A vector of zeros has the cosine 0
    with all others, as there.

    Args:
        references: float32 or float64, in memory or mapped from disk.
        queries: of the same width; None to leave each reference out of its own search.
        k: how many, up to the number of references (less one without queries).
        metric: `cosine` or `euclidean`.
        device: where products are computed, as torch names it.
        block_bytes: of one block of scores.
        progress: show a bar.

    Raises:
        ValueError: shapes do not fit, k is out of range, the metric is unknown, a number is not finite.
    """
    _check(references, queries, k, metric)
    geometry = Geometry(references, references if queries is None else queries, metric, torch.device(device))
    search = _Search(geometry, k, leaves_one_out=queries is None)
    n_queries = len(geometry.queries)
    indices, distances = np.empty((n_queries, k), np.int64), np.empty((n_queries, k))
    is_silent = None if progress else True  # None: where the output is no terminal
    rows, columns = block_shape(n_queries, len(references), block_bytes)
    with (
        torch.inference_mode(),
        fp32_arithmetic(),
        tqdm(total=n_queries, unit=" clips", desc="neighbours", disable=is_silent, leave=False) as bar,
    ):
        for start in range(0, n_queries, rows):
            block = np.arange(start, min(start + rows, n_queries))
            indices[block], distances[block] = search.block(block, columns)
            bar.update(len(block))
    return Neighbours(indices, distances)


def block_shape(n_queries: int, n_references: int, block_bytes: int) -> tuple[int, int]:
    """Rows and columns of a block of float32 scores that takes `block_bytes` at most (or is one score).

    >>> block_shape(8251, 150_000, 8 << 20)
    (512, 4096)
    """
    columns = max(1, min(n_references, MAX_COLUMNS, block_bytes // 4))
    return max(1, min(n_queries, block_bytes // (4 * columns))), columns


@dataclass
class _Search:
    geometry: Geometry
    k: int
    leaves_one_out: bool

    def block(self, queries: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices and distances of the nearest, for some queries (their numbers)."""
        values, places = self._candidates(queries, columns)
        kth = values[:, self.k - 1].double()
        thresholds = kth - 2 * torch.from_numpy(self.geometry.bounds(queries)).to(kth.device)
        needed = (values.double() >= thresholds[:, None]).sum(1)
        is_cut_off = (needed == values.shape[1]) & (values.shape[1] < self._n_others)
        width = int(torch.where(is_cut_off, self.k, needed).max())
        places = places[:, :width].cpu().numpy()
        indices, distances = first_of(self.k, places, self.geometry.exact(queries, places))
        again, step = is_cut_off.nonzero().flatten().cpu().numpy(), max(1, len(queries) // 8)
        for start in range(0, len(again), step):
            some = again[start : start + step]
            found = self._among_all(queries[some], columns, thresholds[some])
            indices[some], distances[some] = found
        return indices, distances

    @property
    def _n_others(self) -> int:
        return len(self.geometry.references) - self.leaves_one_out

    def _candidates(self, queries: np.ndarray, columns: int) -> tuple[Tensor, Tensor]:
        """The best scores and their references, best first."""
        candidates = Candidates(min(self.k + SPARE, self._n_others))
        for first, scores in self._scores(queries, columns):
            candidates.add(scores, first)
        return candidates.best()

    def _scores(self, queries: np.ndarray, columns: int) -> Iterator[tuple[int, Tensor]]:
        """Scores (some references, queries) with the first reference's number; one's own is the worst."""
        factor = self.geometry.factor(queries, columns)
        for first in range(0, len(self.geometry.references), columns):
            scores = self.geometry.scores(factor, slice(first, first + columns))
            if self.leaves_one_out:
                own = queries - first
                here = np.flatnonzero((own >= 0) & (own < len(scores)))
                scores[own[here], here] = -torch.inf
            yield first, scores

    def _among_all(
        self, queries: np.ndarray, columns: int, thresholds: Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest among all references whose scores reach the thresholds, however many."""
        best = [(np.empty((1, 0), np.int64), np.empty((1, 0))) for _ in queries]
        for first, scores in self._scores(queries, columns):
            is_near = (scores.double() >= thresholds).cpu().numpy()
            for row in range(len(queries)):
                places = np.flatnonzero(is_near[:, row])[None] + first
                distances = self.geometry.exact(queries[row : row + 1], places)
                joined = np.hstack([best[row][0], places]), np.hstack([best[row][1], distances])
                best[row] = first_of(self.k, *joined)
        return np.vstack([places for places, _ in best]), np.vstack([distances for _, distances in best])


def first_of(k: int, places: np.ndarray, distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the k at the smallest distances, of equal distances the first places."""
    order = np.lexsort((places, distances), axis=1)[:, :k]
    return np.take_along_axis(places, order, 1), np.take_along_axis(distances, order, 1)


def _check(references: np.ndarray, queries: np.ndarray | None, k: int, metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"the metric is {metric!r}; it can be {' or '.join(METRICS)}")
    for name, array in (("references", references), ("queries", queries)):
        if array is not None and (array.ndim != 2 or array.dtype not in (np.float32, np.float64)):
            raise ValueError(
                f"{name} must be float32 or float64 (clips, features), not {array.dtype} {array.shape}"
            )
    if queries is not None and queries.shape[1] != references.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} features, references {references.shape[1]}")
    available = len(references) - (queries is None)
    if not 1 <= k <= available:
        raise ValueError(
            f"k is {k}; there are {available} clips to find neighbours among, so 1 to {available}"
        )
