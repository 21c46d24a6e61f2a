"""Nearest neighbours: scikit-learn's answers, exact under ties and near ties, in bounded memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from torch.utils._python_dispatch import TorchDispatchMode

from eval_recipes.neighbours import distances, search
from eval_recipes.neighbours.accuracy import accuracy_of, mean_and_spread, together, wilson
from eval_recipes.neighbours.choices import METRICS
from eval_recipes.neighbours.search import Neighbours, block_shape, nearest
from eval_recipes.neighbours.vote import vote

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL_BLOCKS = 4 * 16 * 100
"""16 queries and 100 references, where these are the most."""


@pytest.fixture
def few_columns(monkeypatch):
    monkeypatch.setattr(search, "MAX_COLUMNS", 100)


def embeddings(n: int, width: int, seed: int = 0, spread: float = 1.0) -> np.ndarray:
    """Vectors around one mean, as those of an encoder are; a small spread makes all cosines near 1."""
    chance = np.random.default_rng(seed)
    return (chance.standard_normal(width) + spread * chance.standard_normal((n, width))).astype(np.float32)


def plainly(references, queries, k, metric):
    """All distances in float64, sorted by distance and then by place."""
    y, x = references.astype(np.float64), (references if queries is None else queries).astype(np.float64)
    if metric == "cosine":
        unit = [v / np.where((n := np.linalg.norm(v, axis=1, keepdims=True)) > 0, n, 1) for v in (x, y)]
        found = 1 - unit[0] @ unit[1].T
    else:
        found = np.sqrt(((x[:, None] - y) ** 2).sum(2))
    if queries is None:
        np.fill_diagonal(found, np.inf)
    order = np.argsort(found, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(found, order, 1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4])
def test_neighbours_are_scikit_learns(metric, spread, few_columns):
    """With a spread of 1e-4 cosines differ by 1e-8, which float32 products cannot tell apart."""
    references, queries = embeddings(700, 48, spread=spread), embeddings(90, 48, 1, spread)
    queries += references[:1] - queries.mean(0)
    peer = NearestNeighbors(n_neighbors=10, metric=metric, algorithm="brute")
    expected = peer.fit(references.astype(np.float64)).kneighbors(queries.astype(np.float64))
    for block_bytes in (SMALL_BLOCKS, 1 << 20):
        found = nearest(references, queries, 10, metric, block_bytes=block_bytes)
        np.testing.assert_array_equal(found.indices, expected[1])
        np.testing.assert_allclose(found.distances, expected[0], rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize("metric", METRICS)
def test_a_clip_is_left_out_of_its_own_search(metric, few_columns):
    references = embeddings(300, 16)
    peer = NearestNeighbors(n_neighbors=5, metric=metric, algorithm="brute").fit(
        references.astype(np.float64)
    )
    found = nearest(references, None, 5, metric, block_bytes=SMALL_BLOCKS)
    np.testing.assert_array_equal(found.indices, peer.kneighbors(return_distance=False))
    assert not (found.indices == np.arange(300)[:, None]).any()


@pytest.mark.parametrize("metric", METRICS)
def test_of_equal_references_the_first_is_nearer(metric, few_columns):
    chance = np.random.default_rng(0)
    distinct = embeddings(40, 24)
    copies = chance.integers(0, 40, 2000)
    references, queries = distinct[copies], embeddings(30, 24, 1)
    found = nearest(references, queries, 25, metric, block_bytes=SMALL_BLOCKS)
    by_distance = plainly(distinct, queries, 40, metric)[0]
    for row, order in enumerate(by_distance):
        expected = np.concatenate([np.flatnonzero(copies == place) for place in order])[:25]
        np.testing.assert_array_equal(found.indices[row], expected)


def test_all_references_alike(few_columns):
    same = np.ones((500, 8), np.float32)
    np.testing.assert_array_equal(nearest(same, same[:3], 7).indices, np.tile(np.arange(7), (3, 1)))
    alone = nearest(same, None, 3).indices
    assert alone[0].tolist() == [1, 2, 3]
    assert alone[400].tolist() == [0, 1, 2]


def test_a_silent_clip_has_cosine_0_with_all():
    references = np.array([[0, 0], [1, 0], [-1, 0]], np.float32)
    found = nearest(references, np.array([[0, 0], [2, 0]], np.float32), 3)
    assert found.indices.tolist() == [[0, 1, 2], [1, 0, 2]]
    assert found.distances.tolist() == [[1, 1, 1], [0, 1, 2]]


@pytest.mark.parametrize("size", [1e-18, 1.0, 1e18])
@pytest.mark.parametrize("metric", METRICS)
def test_vectors_of_any_size(metric, size):
    references, queries = embeddings(200, 12) * np.float32(size), embeddings(20, 12, 1) * np.float32(size)
    found = nearest(references, queries, 5, metric)
    np.testing.assert_array_equal(found.indices, plainly(references, queries, 5, metric)[0])


def test_many_references():
    references, queries = embeddings(60_000, 6), embeddings(40, 6, 1)
    found = nearest(references, queries, 10, "euclidean")
    for row, query in enumerate(queries.astype(np.float64)):
        order = np.argsort(((references.astype(np.float64) - query) ** 2).sum(1), kind="stable")[:10]
        np.testing.assert_array_equal(found.indices[row], order)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_on_a_grid_full_of_ties(data):
    """Small integers make exact ties, at k too: distances are then equal, and so are Euclidean neighbours."""
    width, k = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8))
    numbers = st.integers(-2, 2).map(np.float32)
    references = data.draw(arrays(np.float32, (data.draw(st.integers(k + 1, 60)), width), elements=numbers))
    queries = data.draw(arrays(np.float32, (data.draw(st.integers(1, 9)), width), elements=numbers))
    metric = data.draw(st.sampled_from(METRICS))
    for its_queries in (queries, None):
        found = nearest(
            references, its_queries, k, metric, block_bytes=data.draw(st.sampled_from([100, 4000]))
        )
        order, expected = plainly(references, its_queries, k, metric)
        np.testing.assert_allclose(found.distances, expected, atol=1e-12)
        if metric == "euclidean":
            np.testing.assert_array_equal(found.indices, order)
        own = np.arange(len(found.indices))[:, None] if its_queries is None else -1
        assert not (found.indices == own).any()
        assert all(len(set(row)) == k for row in found.indices.tolist())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 15), st.sampled_from(METRICS), st.integers(2, 9))
def test_the_classifier_is_scikit_learns(seed, k, metric, n_classes):
    references, queries = embeddings(200, 9, seed), embeddings(50, 9, seed + 1)
    labels = np.random.default_rng(seed).integers(0, n_classes, 200)
    peer = KNeighborsClassifier(n_neighbors=k, metric=metric, algorithm="brute")
    expected = peer.fit(references.astype(np.float64), labels).predict(queries.astype(np.float64))
    predicted = vote(nearest(references, queries, k, metric), labels, n_classes)
    np.testing.assert_array_equal(predicted, expected)


@pytest.mark.parametrize("metric", METRICS)
def test_softmax_votes_are_scikit_learns_with_these_weights(metric):
    references, queries = embeddings(400, 9), embeddings(200, 9, 1)
    labels = np.random.default_rng(2).integers(0, 5, 400)

    def weights(found):
        return np.exp((1 - found if metric == "cosine" else -(found**2) / 2) / 0.07)

    peer = KNeighborsClassifier(n_neighbors=12, metric=metric, algorithm="brute", weights=weights)
    expected = peer.fit(references.astype(np.float64), labels).predict(queries.astype(np.float64))
    near = nearest(references, queries, 12, metric)
    predicted = vote(near, labels, 5, "softmax", 0.07, metric)
    np.testing.assert_array_equal(predicted, expected)
    assert (predicted != vote(near, labels, 5)).any()


def test_a_tied_vote_goes_to_the_first_class_as_in_scikit_learn():
    references = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
    labels, queries = np.array([1, 1, 0, 0]), np.array([[1.0, 0.9]], np.float32)
    peer = KNeighborsClassifier(n_neighbors=4, metric="cosine").fit(references, labels)
    predicted = vote(nearest(references, queries, 4), labels, 2)
    assert predicted.tolist() == peer.predict(queries).tolist() == [0]


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that any operation of torch returns."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if (
                isinstance(tensor, torch.Tensor)
                and "view" not in str(func)
                and func.overloadpacket is not torch.ops.aten.t
            ):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


@pytest.mark.parametrize("references_are_alike", [False, True])
def test_no_tensor_is_larger_than_the_block(references_are_alike, monkeypatch):
    """Also where every reference is within the bound of the k-th, and all are measured in float64."""
    monkeypatch.setattr(distances, "VECTOR_BYTES", 1 << 17)
    references = np.ones((3000, 16), np.float32) if references_are_alike else embeddings(3000, 16)
    with LargestTensor() as seen:
        nearest(references, references[:40], 10, block_bytes=1 << 18)
    assert 1 << 15 < seen.bytes <= 1 << 18


@settings(max_examples=200)
@given(st.integers(1, 10**7), st.integers(1, 10**7), st.integers(4, 2**32))
def test_a_block_fits_its_bytes(n_queries, n_references, block_bytes):
    rows, columns = block_shape(n_queries, n_references, block_bytes)
    assert 1 <= rows <= n_queries
    assert 1 <= columns <= n_references
    assert 4 * rows * columns <= block_bytes


def test_references_may_lie_on_disk(tmp_path):
    references = embeddings(500, 8)
    np.save(tmp_path / "e.npy", references)
    mapped = np.load(tmp_path / "e.npy", mmap_mode="r")
    np.testing.assert_array_equal(nearest(mapped, None, 4).indices, nearest(references, None, 4).indices)


def test_what_cannot_be_searched_is_refused():
    fine = embeddings(5, 3)
    with pytest.raises(ValueError, match="k is 6; there are 5 clips"):
        nearest(fine, fine, 6)
    with pytest.raises(ValueError, match="k is 5; there are 4 clips"):
        nearest(fine, None, 5)
    with pytest.raises(ValueError, match="'l1'; it can be cosine or euclidean"):
        nearest(fine, fine, 1, "l1")
    with pytest.raises(ValueError, match="queries have 2 features, references 3"):
        nearest(fine, fine[:, :2], 1)
    with pytest.raises(ValueError, match="not int64"):
        nearest(np.ones((3, 3), np.int64), None, 1)
    broken = fine.copy()
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match="references: the vector at 2 has no finite length"):
        nearest(broken, fine, 1)
    near = Neighbours(np.zeros((1, 1), np.int64), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="'distance'; they can be uniform or softmax"):
        vote(near, np.zeros(1, np.int64), 1, "distance")
    with pytest.raises(ValueError, match=r"the temperature is 0.0"):
        vote(near, np.zeros(1, np.int64), 1, "softmax", 0.0)


def test_accuracies():
    first = accuracy_of(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]), 3)
    second = accuracy_of(np.array([0, 1]), np.array([1, 0]), 3)
    assert first.accuracy == 0.75
    assert first.by_class() == [1.0, 0.5, None]
    assert first.balanced == 0.75
    assert mean_and_spread([first, second]) == (0.375, pytest.approx(0.75 / 2**0.5))
    assert together([first, second]).confusion.tolist() == [[2, 1, 0], [2, 1, 0], [0, 0, 0]]
    assert mean_and_spread([first])[1] is None


@given(st.integers(1, 500), st.data())
def test_wilsons_interval_solves_its_equation(n, data):
    n_right = data.draw(st.integers(0, n))
    low, high = wilson(n_right, n)
    assert 0 <= low <= n_right / n <= high <= 1
    for end in (low, high):
        assert (n_right / n - end) ** 2 == pytest.approx(1.959963984540054**2 * end * (1 - end) / n, abs=1e-9)
