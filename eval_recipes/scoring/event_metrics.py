"""Metrics of events: found and true events -> numbers, as sed_eval 0.2.1 defines them.

Where nothing was found precision and F-measure are NaN, as they are there; heareval stops
a training at its first such validation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy import ndarray

from eval_recipes.scoring.events import Events

Scores = tuple[tuple[str, float], ...]
"""Names and values; the first is the metric itself."""

ROUNDING_S = 1e-6
"""By how much a search for candidates is wider than the collar, which is then tested exactly."""


def onset_f_measure(
    found: Events, true: Events, *, collar_s: float, of_length: float | None = None
) -> Scores:
    """F-measure, precision and recall of events matched one to one.

    Args:
        found: by the probe.
        true: of the same files.
        collar_s: how far the onsets of a pair may lie apart.
        of_length: also the offsets must agree, to the collar or this share of the true length.
    """
    matched = _pairs(*_candidates(found, true, collar_s, of_length), len(true), len(found))
    precision = matched / len(found) if len(found) else np.nan
    recall = matched / len(true) if len(true) else np.nan
    both_zero = precision == 0 and recall == 0
    f_measure = 0.0 if both_zero else 2 * precision * recall / (precision + recall)
    return (("f_measure", f_measure), ("precision", precision), ("recall", recall))


def _candidates(
    found: Events, true: Events, collar_s: float, of_length: float | None
) -> tuple[ndarray, ndarray]:
    """Pairs (true, found) of one file and label that agree in time."""
    # One number orders file, label and time, as long as labels and files are kept far enough apart.
    latest_s = max((events.end_s.max(initial=0.0) for events in (found, true)), default=0.0)
    earliest_s = min((events.start_s.min(initial=0.0) for events in (found, true)), default=0.0)
    labels = 2 + max(events.label.max(initial=0) for events in (found, true))
    apart_s = latest_s - earliest_s + 4 * collar_s + 1.0
    near = collar_s + ROUNDING_S

    def key(events: Events) -> ndarray:
        return (events.file * labels + events.label + 1) * apart_s + (events.start_s - earliest_s)

    order = np.argsort(key(found), kind="stable")
    sorted_key, true_key = key(found)[order], key(true)
    first = np.searchsorted(sorted_key, true_key - near, "left")
    count = np.searchsorted(sorted_key, true_key + near, "right") - first
    t = np.repeat(np.arange(len(true)), count)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    f = order[np.repeat(first, count) + within]
    fits = np.abs(true.start_s[t] - found.start_s[f]) <= collar_s
    fits &= (true.file[t] == found.file[f]) & (true.label[t] == found.label[f])
    if of_length is not None:
        allowed_s = np.maximum(collar_s, of_length * (true.end_s - true.start_s))
        fits &= np.abs(true.end_s[t] - found.end_s[f]) <= allowed_s[t]
    return t[fits], f[fits]


def _pairs(true: ndarray, found: ndarray, n_true: int, n_found: int) -> int:
    """Size of the largest one-to-one matching among candidate pairs."""
    if not len(true):
        return 0
    # Most pairs have no rival; only the rest is a matching problem.
    is_alone = (np.bincount(true, minlength=n_true)[true] == 1) & (
        np.bincount(found, minlength=n_found)[found] == 1
    )
    rivals = ~is_alone
    if not rivals.any():
        return len(true)
    from scipy.sparse import csr_matrix  # a third of a second to import, needed by few tasks
    from scipy.sparse.csgraph import maximum_bipartite_matching

    _, row = np.unique(true[rivals], return_inverse=True)
    _, column = np.unique(found[rivals], return_inverse=True)
    graph = csr_matrix((np.ones(len(row), dtype=bool), (row, column)))
    return int(is_alone.sum() + (maximum_bipartite_matching(graph, perm_type="column") >= 0).sum())


def segment_error_rate(found: Events, true: Events, *, segment_s: float) -> Scores:
    """Substitutions, deletions and insertions in segments of fixed length, per true activity.

    As in sed_eval, anything found where nothing is true is an error rate of the order of 1e16.

    Raises:
        ValueError: a true event has a label that the vocabulary has not.
    """
    if (true.label < 0).any():
        raise ValueError("a true event has a label that is not in labelvocabulary.csv")
    labels = 1 + max(events.label.max(initial=0) for events in (found, true))
    segments = 1 + max(int(np.ceil(events.end_s / segment_s).max(initial=0)) for events in (found, true))
    true_active, found_active = (_active(events, labels, segments, segment_s) for events in (true, found))
    both = np.intersect1d(true_active, found_active, assume_unique=True)
    cell = np.unique(np.concatenate([true_active, found_active]) // labels)

    def per_segment(active: ndarray) -> ndarray:
        return np.bincount(np.searchsorted(cell, active // labels), minlength=len(cell))

    n_true, n_found = per_segment(true_active), per_segment(found_active)
    substitutions = (np.minimum(n_true, n_found) - per_segment(both)).sum()
    errors = substitutions + np.abs(n_true - n_found).sum()
    return (("error_rate", float(errors / (n_true.sum() + np.spacing(1)))),)


def _active(events: Events, labels: int, segments: int, segment_s: float) -> ndarray:
    """The (file, segment, label) cells in which something sounds, as sorted single numbers."""
    first = np.floor(events.start_s / segment_s).astype(int)
    count = np.maximum(np.ceil(events.end_s / segment_s).astype(int) - first, 0)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    segment = np.repeat(events.file * segments + first, count) + within
    return np.unique(segment * labels + np.repeat(events.label, count))


EVENT_METRICS: dict[str, Callable[[Events, Events], Scores]] = {
    "event_onset_200ms_fms": partial(onset_f_measure, collar_s=0.2),
    "event_onset_50ms_fms": partial(onset_f_measure, collar_s=0.05),
    "event_onset_offset_50ms_20perc_fms": partial(onset_f_measure, collar_s=0.05, of_length=0.2),
    "segment_1s_er": partial(segment_error_rate, segment_s=1.0),
}
"""By heareval's names."""

MINIMIZED = frozenset({"segment_1s_er"})
"""Of all metrics those where less is better."""
