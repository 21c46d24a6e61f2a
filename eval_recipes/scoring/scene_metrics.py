"""Metrics of clips: predicted and true label rows -> numbers, as heareval.score defines them.

A metric that is undefined on a split (a class without positives, say) is NaN, except that
scikit-learn counts such a class as an average precision of zero.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

CHROMA = 12
"""Pitch classes in an octave."""

Rows = Float[ndarray, "clips labels"]


def top1_accuracy(predictions: Rows, targets: Rows) -> float:
    """Share of clips whose likeliest label is the true one; of equally likely ones the first counts."""
    return float(np.mean(predictions.argmax(1) == targets.argmax(1)))


def chroma_accuracy(predictions: Rows, targets: Rows) -> float:
    """The same for pitches, where octaves do not matter."""
    return float(np.mean(predictions.argmax(1) % CHROMA == targets.argmax(1) % CHROMA))


def mean_average_precision(predictions: Rows, targets: Rows) -> float:
    """Area under each label's precision-recall steps, averaged over labels."""
    found, position, is_group_end = _true_positives_by_rank(predictions, targets)
    positives = found[-1]
    precision = found / position
    before = np.zeros_like(found)
    before[1:] = np.maximum.accumulate(np.where(is_group_end, found, 0), axis=0)[:-1]
    steps = np.where(is_group_end, (found - before) * precision, 0).sum(0)
    return float(np.mean(np.divide(steps, positives, out=np.zeros_like(steps), where=positives > 0)))


def areas_under_roc(predictions: Rows, targets: Rows) -> Float[ndarray, " labels"]:
    """Area under each label's receiver operating characteristic; NaN without positives or negatives."""
    found, position, is_group_end = _true_positives_by_rank(predictions, targets)
    positives, negatives = found[-1], len(found) - found[-1]
    false = position - found
    true_before, false_before = np.zeros_like(found), np.zeros_like(found)
    true_before[1:] = np.maximum.accumulate(np.where(is_group_end, found, 0), axis=0)[:-1]
    false_before[1:] = np.maximum.accumulate(np.where(is_group_end, false, 0), axis=0)[:-1]
    trapezia = np.where(is_group_end, (false - false_before) * (found + true_before) / 2, 0).sum(0)
    defined = (positives > 0) & (negatives > 0)
    return np.divide(trapezia, positives * negatives, out=np.full_like(trapezia, np.nan), where=defined)


def mean_area_under_roc(predictions: Rows, targets: Rows) -> float:
    """Their mean over labels."""
    return float(np.mean(areas_under_roc(predictions, targets)))


def d_prime(predictions: Rows, targets: Rows) -> float:
    """Distance of two normal distributions with each label's area, averaged.

    Infinite if a label is perfect, and NaN if another is perfectly wrong.
    """
    areas = torch.from_numpy(areas_under_roc(predictions, targets))
    with np.errstate(invalid="ignore"):  # the sum of both infinities
        return float(np.mean(torch.special.ndtri(areas).numpy() * np.sqrt(2.0)))


def _true_positives_by_rank(
    predictions: Rows, targets: Rows
) -> tuple[Float[ndarray, "clips labels"], Float[ndarray, "clips 1"], ndarray]:
    """Go down each label's ranking: positives so far, clips so far, is it the last of equal values."""
    order = np.argsort(-predictions, axis=0, kind="stable")
    ranked = np.take_along_axis(predictions, order, axis=0)
    found = np.cumsum(np.take_along_axis(targets, order, axis=0) > 0, axis=0, dtype=np.float64)
    is_group_end = np.ones(ranked.shape, dtype=bool)
    is_group_end[:-1] = ranked[1:] != ranked[:-1]
    return found, np.arange(1.0, len(ranked) + 1)[:, None], is_group_end


SCENE_METRICS: dict[str, Callable[[Rows, Rows], float]] = {
    "top1_acc": top1_accuracy,
    "pitch_acc": top1_accuracy,
    "chroma_acc": chroma_accuracy,
    "mAP": mean_average_precision,
    "d_prime": d_prime,
    "aucroc": mean_area_under_roc,
}
"""By heareval's names; more is better in all of them."""
