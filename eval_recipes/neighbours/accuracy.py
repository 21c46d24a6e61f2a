"""Predicted classes -> accuracy, per class, with the confusion matrix and an interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

NORMAL_95 = 1.959963984540054
"""The normal distribution's 97.5 % point."""


@dataclass(frozen=True)
class Accuracy:
    """What came of some queries.

    Attributes:
        confusion: how many of each true class (row) were taken for each class (column).
    """

    confusion: Int[np.ndarray, "classes classes"]

    @property
    def n_clips(self) -> int:
        """How many queries there were."""
        return int(self.confusion.sum())

    @property
    def n_right(self) -> int:
        """How many were classified rightly."""
        return int(self.confusion.trace())

    @property
    def accuracy(self) -> float:
        """Their part of all."""
        return self.n_right / self.n_clips

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy, as if clips were drawn independently.

        Clips of one recording or speaker are alike, so the truth is wider.
        """
        return wilson(self.n_right, self.n_clips)

    @property
    def chance(self) -> float:
        """The accuracy of always naming the class that most of the queries are of."""
        return float(self.confusion.sum(1).max() / self.n_clips)

    def by_class(self) -> list[float | None]:
        """The part of each true class that was found; None for a class without queries."""
        counts = self.confusion.sum(1)
        return [
            float(right / count) if count else None
            for right, count in zip(self.confusion.diagonal(), counts, strict=True)
        ]

    @property
    def balanced(self) -> float:
        """The mean over the classes that have queries."""
        return statistics.fmean(found for found in self.by_class() if found is not None)


def accuracy_of(true: np.ndarray, predicted: np.ndarray, n_classes: int) -> Accuracy:
    """Count (true, predicted) pairs of class numbers.

    >>> accuracy_of(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).confusion.tolist()
    [[1, 1], [0, 1]]
    """
    confusion = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(confusion, (true, predicted), 1)
    return Accuracy(confusion)


def together(folds: Sequence[Accuracy]) -> Accuracy:
    """All folds' queries as one."""
    return Accuracy(np.sum([fold.confusion for fold in folds], axis=0))


def mean_and_spread(folds: Sequence[Accuracy]) -> tuple[float, float | None]:
    """The mean of the folds' accuracies, and their sample standard deviation (None for one fold)."""
    accuracies = [fold.accuracy for fold in folds]
    return statistics.fmean(accuracies), statistics.stdev(accuracies) if len(folds) > 1 else None


def wilson(n_right: int, n: int, z: float = NORMAL_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927).

    >>> [round(end, 4) for end in wilson(81, 263)]
    [0.2553, 0.3662]
    """
    if not 0 <= n_right <= n or n == 0:
        raise ValueError(f"{n_right} of {n} is no proportion")
    share, square = n_right / n, z * z / n
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / n + square / (4 * n))
    return middle - half if n_right else 0.0, middle + half if n_right < n else 1.0
