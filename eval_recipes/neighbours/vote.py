"""Labels of neighbours -> one label."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from eval_recipes.neighbours.choices import TEMPERATURE, WEIGHTS
from eval_recipes.neighbours.search import Neighbours

VOTE_BYTES = 64 << 20


def vote(
    neighbours: Neighbours,
    labels: Int[np.ndarray, " references"],
    n_classes: int,
    weights: str = "uniform",
    temperature: float = TEMPERATURE,
    metric: str = "cosine",
) -> Int[np.ndarray, " queries"]:
    """The class with most weight among each query's neighbours; of equal ones the first.

    With uniform weights this is scikit-learn's `KNeighborsClassifier`. With `softmax` a neighbour weighs
    exp(similarity / temperature), the similarity being the cosine, or -distance²/2 for Euclidean
    distances (which between vectors of length 1 is the cosine less 1).

    Args:
        neighbours: from `nearest`.
        labels: class numbers of the references.
        n_classes: how many classes there are.
        weights: `uniform` or `softmax`.
        temperature: of the softmax.
        metric: what the distances are.

    Raises:
        ValueError: the weights are unknown, or the temperature is not above 0.

    >>> near = Neighbours(np.array([[0, 1, 2]]), np.array([[0.0, 0.5, 0.5]]))
    >>> vote(near, np.array([1, 0, 0]), 2).item(), vote(near, np.array([1, 0, 0]), 2, "softmax").item()
    (0, 1)
    """
    if weights not in WEIGHTS:
        raise ValueError(f"the weights are {weights!r}; they can be {' or '.join(WEIGHTS)}")
    if not temperature > 0:
        raise ValueError(f"the temperature is {temperature}; it must be above 0")
    step = max(1, VOTE_BYTES // (8 * n_classes))
    winners = np.empty(len(neighbours.indices), np.int64)
    for start in range(0, len(winners), step):
        block = slice(start, start + step)
        weight = _weights(neighbours.distances[block], weights, temperature, metric)
        totals = np.zeros((len(weight), n_classes))
        rows = np.arange(len(weight))[:, None]
        np.add.at(totals, (rows, labels[neighbours.indices[block]]), weight)
        winners[block] = totals.argmax(1)
    return winners


def _weights(
    distances: np.ndarray, weights: str, temperature: float, metric: str
) -> Float[np.ndarray, "queries k"]:
    if weights == "uniform":
        return np.ones_like(distances)
    similarities = 1 - distances if metric == "cosine" else -(distances**2) / 2
    return np.exp((similarities - similarities[:, :1]) / temperature)
