"""Embeddings and a data set's parts -> an accuracy for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from eval_recipes.datasets.clips import ALL, TRAIN, ClipList, DatasetProblem, some
from eval_recipes.neighbours.accuracy import Accuracy, accuracy_of
from eval_recipes.neighbours.choices import Choices
from eval_recipes.neighbours.search import nearest
from eval_recipes.neighbours.vote import vote


def references_of(dataset: ClipList) -> dict[str, list[str]]:
    """Labels that each part's clips are compared with, by part: all (its own included), or other parts'."""
    asked = [part for part in dataset.parts if part != TRAIN]
    return {
        part: [clip.label for clip in dataset.clips if part == ALL or clip.part != part] for part in asked
    }


def check_k(dataset: ClipList, k: int) -> None:
    """Look before anything is embedded whether there are k clips to find neighbours among.

    Raises:
        DatasetProblem: there are fewer.
    """
    for part, labels in references_of(dataset).items():
        available = len(labels) - (part == ALL)
        if k > available:
            among = f" for the clips of {part}" if part != ALL else ""
            raise DatasetProblem(
                f"k is {k}; there {'is 1 clip' if available == 1 else f'are {available} clips'} to find "
                f"neighbours among{among}, so {'1' if available == 1 else f'1 to {available}'}"
            )


def outvoted(dataset: ClipList, k: int) -> str:
    """Which classes have no clip to be found, or fewer than k, so that others' clips must vote too.

    Empty if there are no such classes.

    >>> from pathlib import Path
    >>> from eval_recipes.datasets.clips import Clip
    >>> clips = [Clip(f"{n}.wav", "cat" if n < 2 else "dog", ALL) for n in range(9)]
    >>> outvoted(ClipList("mine", Path(), tuple(clips)), 4)
    'k is 4, but 1 of 2 classes has fewer clips to find (fewest: cat, 1); --k 1 would leave none out'
    """
    fewest: dict[str, int] = {}
    for part, labels in references_of(dataset).items():
        counts = Counter(labels)
        for label in {clip.label for clip in dataset.clips if clip.part == part}:
            count = counts[label] - (part == ALL)
            fewest[label] = min(count, fewest.get(label, count))
    absent = sorted(label for label, count in fewest.items() if not count)
    scarce = [label for label, count in fewest.items() if 0 < count < k]
    told = []
    if absent:
        are = "is" if len(absent) == 1 else "are"
        told.append(f"{_part_of(absent, dataset)} no clips to find and {are} never found: {some(absent)}")
    if scarce:
        label = min(scarce, key=lambda label: (fewest[label], label))
        those = "of these " if absent else ""
        told.append(
            f"{_part_of(scarce, dataset)} fewer clips to find (fewest: {label}, {fewest[label]}); "
            f"--k {fewest[label]} would leave none {those}out"
        )
    return f"k is {k}, but {'; '.join(told)}" if told else ""


def _part_of(labels: Sequence[str], dataset: ClipList) -> str:
    return f"{len(labels)} of {len(dataset.classes)} classes {'has' if len(labels) == 1 else 'have'}"


def classify(
    dataset: ClipList,
    embeddings: Float[np.ndarray, "clips features"],
    choices: Choices,
    *,
    device: str = "cpu",
    progress: bool = False,
) -> dict[str, Accuracy]:
    """Classify the test split, each fold by the others, or each clip by all others.

    Args:
        dataset: the clips.
        embeddings: of its clips, in their order.
        choices: k, weights, metric.
        device: of the search.
        progress: show bars.

    Returns:
        Accuracies: of `test`, of each fold by its name, or of `all`.

    Raises:
        ValueError: k exceeds the references that there are, or an embedding is not finite.
    """
    classes = dataset.classes
    numbers = {label: number for number, label in enumerate(classes)}
    labels = np.array([numbers[clip.label] for clip in dataset.clips])
    parts = np.array([clip.part for clip in dataset.clips])
    asked = {ALL: "all"} if dataset.parts == [ALL] else {part: part for part in dataset.parts}
    asked.pop(TRAIN, None)
    found = {}
    for part, shown in asked.items():
        is_query = parts == part
        references, queries = _chosen(embeddings, ~is_query), _chosen(embeddings, is_query)
        reference_labels = labels[~is_query]
        if part == ALL:
            references, queries, reference_labels = embeddings, None, labels
        near = nearest(references, queries, choices.k, choices.metric, device=device, progress=progress)
        voted = vote(
            near, reference_labels, len(classes), choices.weights, choices.temperature, choices.metric
        )
        found[shown] = accuracy_of(labels[is_query], voted, len(classes))
    if not found:
        raise DatasetProblem(f"{dataset.name} has no part to ask for, only {', '.join(dataset.parts)}")
    return found


def _chosen(vectors: np.ndarray, is_chosen: np.ndarray) -> np.ndarray:
    """Some rows; a stretch of neighbouring ones (as clips sorted by part are) without a copy."""
    places = np.flatnonzero(is_chosen)
    if len(places) and places[-1] - places[0] + 1 == len(places):
        return vectors[places[0] : places[-1] + 1]
    return vectors[places]
