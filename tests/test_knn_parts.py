"""A data set's parts as scikit-learn classifies them; chance, and a k that is too large."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score
from sklearn.model_selection import LeaveOneOut, PredefinedSplit, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from eval_recipes.datasets.clips import Clip, ClipList, DatasetProblem
from eval_recipes.neighbours.accuracy import together
from eval_recipes.neighbours.classify import Choices, check_k, classify, outvoted

pytestmark = pytest.mark.usefixtures("one_thread")


def made_up(parts: list[str], seed: int = 0) -> tuple[ClipList, np.ndarray]:
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, 4, len(parts))
    clips = [Clip(f"{n:04}.wav", f"class {labels[n]}", part) for n, part in enumerate(parts)]
    order = sorted(range(len(parts)), key=lambda n: (parts[n], n))
    means = chance.standard_normal((4, 12))
    vectors = (means[labels] + 1.5 * chance.standard_normal((len(parts), 12))).astype(np.float32)
    return ClipList("made up", Path("."), tuple(clips[n] for n in order)), vectors[order]


def test_parts_are_classified_as_scikit_learn_does():
    peer = KNeighborsClassifier(n_neighbors=10, metric="cosine", algorithm="brute")
    folds = [str(n % 3 + 1) for n in range(150)]
    dataset, vectors = made_up(folds)
    x, y = vectors.astype(np.float64), np.array([clip.label for clip in dataset.clips])
    split = PredefinedSplit([int(clip.part) for clip in dataset.clips])
    predicted = cross_val_predict(peer, x, y, cv=split)
    found = classify(dataset, vectors, Choices())
    for fold, its in found.items():
        is_in = np.array([clip.part == fold for clip in dataset.clips])
        assert its.accuracy == accuracy_score(y[is_in], predicted[is_in])
    assert sorted(found) == ["1", "2", "3"]

    dataset, vectors = made_up([""] * 80)
    x, y = vectors.astype(np.float64), np.array([clip.label for clip in dataset.clips])
    predicted = cross_val_predict(peer, x, y, cv=LeaveOneOut())
    assert classify(dataset, vectors, Choices())["all"].accuracy == accuracy_score(y, predicted)

    dataset, vectors = made_up(["train"] * 60 + ["test"] * 40)
    x, y = vectors.astype(np.float64), np.array([clip.label for clip in dataset.clips])
    is_test = np.array([clip.part == "test" for clip in dataset.clips])
    predicted = peer.fit(x[~is_test], y[~is_test]).predict(x[is_test])
    found = classify(dataset, vectors, Choices())
    assert list(found) == ["test"]
    assert found["test"].accuracy == accuracy_score(y[is_test], predicted)
    assert found["test"].confusion.sum() == 40


def of_counts(**parts: dict[str, int]) -> ClipList:
    """Clips by part and class; the part `all` is in no split."""
    clips = [
        Clip(f"{part}-{label}-{n}.wav", label, "" if part == "all" else part.removeprefix("fold"))
        for part, counts in parts.items()
        for label, count in counts.items()
        for n in range(count)
    ]
    return ClipList("counted", Path("."), tuple(clips))


def test_chance_is_the_most_frequent_class_of_those_asked_for():
    dataset, vectors = made_up(["train"] * 60 + ["test"] * 40)
    found = classify(dataset, vectors, Choices(k=3))["test"]
    y = [clip.label for clip in dataset.clips if clip.part == "test"]
    constant = DummyClassifier(strategy="most_frequent").fit(np.zeros((40, 1)), y)
    assert found.chance == constant.score(np.zeros((40, 1)), y)
    assert together([found, found]).chance == found.chance


@pytest.mark.parametrize(
    ("dataset", "most", "among"),
    [
        (of_counts(all={"cat": 3, "dog": 3}), 5, ""),
        (of_counts(train={"cat": 3, "dog": 1}, test={"cat": 9, "dog": 9}), 4, " for the clips of test"),
        (of_counts(fold1={"cat": 5, "dog": 2}, fold2={"cat": 1, "dog": 1}), 2, " for the clips of 1"),
    ],
)
def test_a_k_beyond_all_clips_is_refused(dataset, most, among):
    check_k(dataset, most)
    said = f"^k is {most + 1}; there are {most} clips to find neighbours among{among}, so 1 to {most}$"
    with pytest.raises(DatasetProblem, match=said):
        check_k(dataset, most + 1)


@pytest.mark.parametrize(
    ("dataset", "k", "said"),
    [
        (of_counts(all={"cat": 6, "dog": 6}), 5, ""),
        (of_counts(all={"cat": 6, "dog": 6}), 6, "2 of 2 classes have fewer clips to find (fewest: cat, 5)"),
        (of_counts(train={"cat": 9, "dog": 2}, test={"cat": 1, "dog": 9}), 3, "(fewest: dog, 2); --k 2"),
        (
            of_counts(fold1={"cat": 9, "dog": 2}, fold2={"cat": 9}),
            1,
            "1 of 2 classes has no clips to find and is never found: dog",
        ),
        (
            of_counts(
                train={"ant": 9, "bee": 2, "cow": 1}, test={"ant": 1, "bee": 1, "cow": 1, "dog": 1, "elk": 1}
            ),
            3,
            "k is 3, but 2 of 5 classes have no clips to find and are never found: dog, elk; "
            "2 of 5 classes have fewer clips to find (fewest: cow, 1); --k 1 would leave none of these out",
        ),
        (
            of_counts(all={str(label): 1 for label in range(12)}),
            1,
            "12 of 12 classes have no clips to find and are never found: 0, 1, 10, 11, 2, 3, 4, 5, 6, 7 "
            "and 2 more",
        ),
    ],
)
def test_classes_with_fewer_clips_than_k_are_told(dataset, k, said):
    found = outvoted(dataset, k)
    assert said in found
    assert bool(found) == bool(said)
