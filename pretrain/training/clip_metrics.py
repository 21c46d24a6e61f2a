"""Logits and targets of clips -> what validation says of a classifier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from pretrain.shards import NoUsableAudio


def of_whole_clips(
    keys: Sequence[str],
    logits: Float[np.ndarray, "crops classes"],
    targets: Float[np.ndarray, "crops classes"],
) -> tuple[Float[np.ndarray, "clips classes"], Float[np.ndarray, "clips classes"]]:
    """The mean logits of each clip's crops, and the clip's targets, in the order of their names.

    Args:
        keys: of the crops, as batches name them: clip#number.
        logits: of the crops.
        targets: of the crops, alike for all of a clip.
    """
    clips = [key.rpartition("#")[0] for key in keys]
    _, first, clip_of_crop = np.unique(clips, return_index=True, return_inverse=True)
    order = np.lexsort([keys, clip_of_crop])  # so that rounding depends on no process's share
    sums = np.zeros((len(first), logits.shape[1]))
    np.add.at(sums, clip_of_crop[order], logits[order].astype(np.float64))
    return sums / np.bincount(clip_of_crop)[:, None], targets[first]


def mean_average_precision(
    logits: Float[np.ndarray, "clips classes"], targets: Float[np.ndarray, "clips classes"]
) -> tuple[float, int]:
    """The mean over classes of scikit-learn's average precision, and how many classes are left out.

    A class without a positive clip has no average precision; it is left out and counted.

    Raises:
        NoUsableAudio: no class has a positive clip.
    """
    from sklearn.metrics import average_precision_score

    occurring: Int[np.ndarray, " occurring"] = np.flatnonzero(targets.any(axis=0))
    if not len(occurring):
        raise NoUsableAudio("no clip of cv_data has any of the classes; choose other validation shards")
    precisions = [average_precision_score(targets[:, c], logits[:, c]) for c in occurring]
    return float(np.mean(precisions)), targets.shape[1] - len(occurring)


def accuracy(
    logits: Float[np.ndarray, "clips classes"], targets: Float[np.ndarray, "clips classes"]
) -> float:
    """Part of the clips whose highest logit is their class's.

    >>> accuracy(np.array([[2.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    0.5
    """
    return float(np.mean(logits.argmax(axis=1) == targets.argmax(axis=1)))
