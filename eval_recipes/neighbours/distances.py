"""Scores by float32 products, with a bound on their error, and distances in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from eval_recipes.scoring.products import Products

ROUNDING = 2.0**-24
"""Largest relative error of one float32 operation."""

SAFE_NORMS = (1e-12, 1e12)
"""Between these, products of float32 neither vanish nor overflow."""

VECTOR_BYTES = 8 << 20
"""Of vectors that are measured together, in float64."""


class Geometry:
    """Queries and references under a metric.

    The score of a reference y for a query x ranks as the distance does: the cosine, or x.y - |y|²/2.

    Args:
        references: float32 or float64.
        queries: the same.
        metric: `cosine` or `euclidean`.
        device: where scores are computed.

    Raises:
        ValueError: a number is not finite.
    """

    def __init__(
        self,
        references: Float[np.ndarray, "references features"],
        queries: Float[np.ndarray, "queries features"],
        metric: str,
        device: torch.device,
    ) -> None:
        self.references, self.queries, self.metric, self.device = references, queries, metric, device
        is_same = queries is references
        self._norms = norms(references, "references")
        self._query_norms = self._norms if is_same else norms(queries, "queries")
        every = self._norms if is_same else np.concatenate([self._norms, self._query_norms])
        self._unit = 1.0 if _is_safe(every) else 1 / float(every.max())
        self._products = Products("fp32", device)
        self._query_scales = self._scales_of(self._query_norms)
        self._factors, self._scales, self._offsets = references, None, None
        if not _is_safe(every):
            self._factors = _scaled(references, self._scales_of(self._norms))
        elif metric == "cosine":
            self._scales = self._on_device(_inverse(self._norms))
        if metric == "euclidean":
            self._offsets = self._on_device(-((self._norms * self._unit) ** 2) / 2)

    def _scales_of(self, of_norms: np.ndarray) -> np.ndarray:
        """Factors of vectors: to length 1 for the cosine, else the same for all."""
        return _inverse(of_norms) if self.metric == "cosine" else np.full(len(of_norms), self._unit)

    def _on_device(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device, torch.float32)

    def factor(self, numbers: Int[np.ndarray, " queries"], n_references: int) -> Tensor:
        """Queries as `scores` wants them, for about so many references at a time."""
        queries = _scaled(self.queries[numbers], self._query_scales[numbers])
        return self._products.packed(torch.from_numpy(queries).to(self.device), n_references)

    def scores(self, factor: Tensor, columns: slice) -> Float[Tensor, "references queries"]:
        """float32 scores of some references and the queries of a `factor`."""
        block = _tensor(self._factors[columns]).to(self.device, torch.float32)
        scores = self._products.forward(block, factor)
        if self._scales is not None:
            scores *= self._scales[columns, None]
        if self._offsets is not None:
            scores += self._offsets[columns, None]
        return scores

    def bounds(self, numbers: Int[np.ndarray, " queries"]) -> Float[np.ndarray, " queries"]:
        """How much a score can differ from the true one, for each query."""
        operations = self.references.shape[1] + 8
        relative = 1.01 * operations * ROUNDING
        if self.metric == "cosine":
            return np.full(len(numbers), relative)
        longest = float(self._norms.max()) * self._unit
        return relative * (self._query_norms[numbers] * self._unit * longest + longest**2)

    def exact(
        self, numbers: Int[np.ndarray, " queries"], places: Int[np.ndarray, "queries candidates"]
    ) -> Float[np.ndarray, "queries candidates"]:
        """Distances in float64; equal vectors are equally far, wherever they stand.

        Args:
            numbers: of the queries.
            places: for each of them, numbers of references.
        """
        distances = np.empty(places.shape)
        for rows, columns in _tiles(*places.shape, 8 * self.references.shape[1]):
            queries, chosen = numbers[rows], places[rows, columns]
            x = torch.from_numpy(self.queries[queries].astype(np.float64))[:, None]
            y = torch.from_numpy(self.references[chosen.ravel()]).reshape(*chosen.shape, -1)
            if self.metric == "cosine":
                inverse = _inverse(self._query_norms[queries])[:, None] * _inverse(self._norms[chosen])
                distances[rows, columns] = (1 - (x * y).sum(2).numpy() * inverse).clip(0, 2)
            else:
                distances[rows, columns] = np.sqrt((x - y).square_().sum(2).numpy())
        return distances


def norms(vectors: np.ndarray, name: str) -> Float[np.ndarray, " vectors"]:
    """Euclidean norms in float64.

    Raises:
        ValueError: a number is not finite.
    """
    found = np.empty(len(vectors))
    step = _rows_of(VECTOR_BYTES, 8 * vectors.shape[1])
    for start in range(0, len(vectors), step):
        block = _tensor(vectors[start : start + step])
        found[start : start + step] = torch.linalg.vector_norm(block, dim=1, dtype=torch.float64).numpy()
    if not np.isfinite(found).all():
        raise ValueError(
            f"{name}: the vector at {int(np.argmin(np.isfinite(found)))} has no finite length; "
            "its numbers are not finite, or too large"
        )
    return found


def _inverse(values: np.ndarray) -> np.ndarray:
    """1 / values, and 0 for 0."""
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)


def _is_safe(lengths: np.ndarray) -> bool:
    low, high = SAFE_NORMS
    return bool(np.all((lengths == 0) | ((lengths >= low) & (lengths <= high))))


def _scaled(vectors: np.ndarray, factors: np.ndarray) -> np.ndarray:
    return (np.asarray(vectors, np.float64) * factors[:, None]).astype(np.float32)


def _tensor(vectors: np.ndarray) -> Tensor:
    """The same as a tensor; what cannot be written to is copied, as torch demands."""
    return torch.from_numpy(vectors if vectors.flags.writeable else vectors.copy())


def _rows_of(n_bytes: int, row_bytes: int) -> int:
    return max(1, n_bytes // max(1, row_bytes))


def _tiles(n_rows: int, n_columns: int, cell_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Tiles of a table of cells that together take `VECTOR_BYTES` each, or are one cell."""
    columns = max(1, min(n_columns, _rows_of(VECTOR_BYTES, cell_bytes)))
    rows = _rows_of(VECTOR_BYTES, cell_bytes * columns)
    for row in range(0, n_rows, rows):
        for column in range(0, n_columns, columns):
            yield slice(row, min(row + rows, n_rows)), slice(column, min(column + columns, n_columns))
