"""Metrics of clips equal heareval's and scikit-learn's on the same predictions."""

import warnings

import numpy as np
import pytest
from heareval_oracle import hearevals_metric
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from eval_recipes.scoring.scene_metrics import SCENE_METRICS


def hearevals(name: str, predictions: np.ndarray, targets: np.ndarray) -> float:
    metric = hearevals_metric(name, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of labels that do not occur
        return metric(predictions, targets)


def tables(levels: int):
    """Predictions (few levels make ties) and targets of the same shape."""

    def of_shape(shape):
        predicted = arrays(np.float32, shape, elements=st.integers(0, levels).map(lambda v: v / levels))
        return st.tuples(predicted, arrays(np.float32, shape, elements=st.sampled_from([0.0, 1.0])))

    return st.tuples(st.integers(2, 30), st.integers(2, 15)).flatmap(of_shape)


@pytest.mark.parametrize("name", SCENE_METRICS)
@settings(max_examples=60, deadline=None)
@given(table=st.one_of(tables(3), tables(1000)))
@example(table=(np.zeros((4, 3), np.float32), np.zeros((4, 3), np.float32)))
@example(table=(np.ones((4, 2), np.float32), np.ones((4, 2), np.float32)))
@example(table=(np.eye(5, dtype=np.float32), np.eye(5, dtype=np.float32)))
@example(table=(np.eye(2, dtype=np.float32)[:, :1].repeat(2, 1), np.eye(2, dtype=np.float32)))
def test_metrics_equal_hearevals(name, table):
    predictions, targets = table
    ours, theirs = SCENE_METRICS[name](predictions, targets), hearevals(name, predictions, targets)
    assert isinstance(ours, float)
    assert ours == pytest.approx(theirs, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", SCENE_METRICS)
def test_metrics_equal_hearevals_on_many_clips(name):
    rng = np.random.default_rng(0)
    targets = np.eye(40, dtype=np.float32)[rng.integers(40, size=2000)]
    predictions = (0.3 * targets + rng.random((2000, 40))).astype(np.float32)
    assert SCENE_METRICS[name](predictions, targets) == pytest.approx(
        hearevals(name, predictions, targets), abs=1e-9
    )


def test_known_answers():
    targets = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    predictions = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]], np.float32)
    assert SCENE_METRICS["top1_acc"](predictions, targets) == 0.5
    # positives of the first label at ranks 1 and 3, of the second at 1 and 3
    assert SCENE_METRICS["mAP"](predictions, targets) == pytest.approx((1 + 2 / 3) / 2)
    assert SCENE_METRICS["aucroc"](predictions, targets) == 0.75
    assert SCENE_METRICS["d_prime"](predictions, targets) == pytest.approx(0.6744897501960817 * 2**0.5)


def test_octaves_do_not_matter_for_chroma():
    predictions, targets = (
        np.eye(25, dtype=np.float32)[[0, 13, 24]],
        np.eye(25, dtype=np.float32)[[12, 1, 11]],
    )
    assert SCENE_METRICS["chroma_acc"](predictions, targets) == pytest.approx(2 / 3)
