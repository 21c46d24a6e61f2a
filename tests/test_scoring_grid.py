"""Grid points, folds, early stopping and aggregation are heareval's."""

import random

import numpy as np
import pytest
import torch
from heareval_oracle import heareval_module
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import ParameterGrid

from eval_recipes import synthetic_embeddings as synthetic
from eval_recipes.scoring.batches import batches, trainable
from eval_recipes.scoring.grid import GRIDS, OFFICIAL_SEED, GridPoint, combinations, draw
from eval_recipes.scoring.protocol import aggregate
from eval_recipes.scoring.task_data import TaskData
from eval_recipes.scoring.training import Validation, train
from eval_recipes.task_checks import TaskProblem

NAME = {"task_name": "a task"}


def by_name(value):
    """heareval's classes and functions as a score file here names them."""
    return getattr(value, "__name__", value)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ["a task", "dcase2016_task2"])
def test_the_same_points_in_the_same_order(grid, name):
    kit = heareval_module("predictions.task_predictions")
    theirs = {"default": kit.PARAM_GRID, "fast": kit.FAST_PARAM_GRID, "faster": kit.FASTER_PARAM_GRID}[grid]
    everything = list(ParameterGrid({**theirs, **kit.TASK_SPECIFIC_PARAM_GRID.get(name, {})}))
    state = random.getstate()
    random.seed(42)  # as heareval has it
    random.shuffle(everything)
    random.setstate(state)
    drawn = draw(grid, {"task_name": name}, 8, OFFICIAL_SEED)
    expected = [{key: by_name(value) for key, value in point.items()} for point in everything[:8]]
    assert [point.hparams() for point in drawn] == expected


@given(
    st.dictionaries(st.text("abc", min_size=1), st.lists(st.integers(), min_size=1, max_size=3), max_size=3)
)
def test_combinations_are_scikit_learns(grid):
    assert combinations(grid) == list(ParameterGrid(grid))


def test_metadata_may_change_the_grid_but_not_ask_for_what_is_not_there():
    params = {"task_specific_param_grid": {"max_epochs": [7], "dropout": [0.0]}}
    points = draw("default", {**NAME, "evaluation_params": params}, 100, 0)
    assert {(point.max_epochs, point.dropout) for point in points} == {(7, 0.0)}
    params = {"task_specific_param_grid": {"norm_after_activation": [True]}}
    with pytest.raises(TaskProblem, match="norm_after_activation = True"):
        draw("default", {**NAME, "evaluation_params": params}, 8, 0)


def test_folds_are_hearevals(tmp_path):
    kit = heareval_module("predictions.task_predictions")
    task = TaskData(synthetic.multiclass(tmp_path / "task", clips=50, folds=5))
    theirs = kit.get_splits_from_metadata(task.metadata)
    ours = [{"train": list(f.train), "valid": list(f.valid), "test": list(f.test)} for f in task.folds]
    assert [{key: sorted(value) for key, value in fold.items()} for fold in theirs] == ours


def test_aggregation_is_hearevals():
    kit = heareval_module("predictions.task_predictions")
    folds = [{"a": 0.1, "b": float("nan")}, {"a": 0.4, "b": 1.0}, {"a": 0.2, "b": 3.0}]
    theirs = kit.aggregate_test_results(dict(enumerate(folds)))
    assert aggregate(folds) == pytest.approx(theirs, nan_ok=True)


def test_batches_cross_splits_in_order_and_are_views_elsewhere(tmp_path):
    task = TaskData(synthetic.multiclass(tmp_path / "task", clips=30, folds=3))
    splits = task.splits(("fold00", "fold01", "fold02"))
    cut = batches(splits, 8, torch.device("cpu"))
    assert [len(batch.x) for batch in cut] == [8, 8, 8, 6]
    torch.testing.assert_close(torch.cat([b.x for b in cut]), torch.cat([s.embeddings for s in splits]))
    torch.testing.assert_close(torch.cat([b.targets for b in cut]), torch.cat([s.targets for s in splits]))
    assert cut[0].x.data_ptr() == splits[0].embeddings.data_ptr()


def test_a_last_batch_of_one_row_is_left_out_with_a_warning(tmp_path, caplog):
    task = TaskData(synthetic.multiclass(tmp_path / "task", clips=27, folds=3))
    cut = batches(task.splits(("fold00",)), 4, torch.device("cpu"))
    assert [len(batch.x) for batch in trainable(cut)] == [4, 4]
    assert "one row" in caplog.text
    with pytest.raises(ValueError, match="one training row"):
        trainable(batches(task.splits(("fold00",)), 1, torch.device("cpu"))[:1])


class Counting:
    """A probe whose state is the number of its steps."""

    def __init__(self):
        self.parameters, self.gradient, self.steps = torch.zeros(1), torch.zeros(1), 0

    def compute_gradient(self, x, targets):
        self.steps += 1

    def state(self):
        return self.steps

    def load(self, state):
        self.steps = state


def trained_on(scores: list[float], *, maximize: bool = True, **changes):
    """What a training makes of a given sequence of validation scores."""
    given_scores = iter(scores)
    point = GridPoint(8, 3, 0.0, 8, 1, "xavier_uniform_", 1e-3, 500, 2)
    point = GridPoint(**{**point.__dict__, **changes})
    probe, one = Counting(), synthetic_batch()
    return train(point, probe, [one], lambda _: Validation(next(given_scores)), maximize=maximize)


def synthetic_batch():
    from eval_recipes.scoring.batches import Batch

    return Batch(torch.zeros(2, 1), torch.zeros(2, 1))


@pytest.mark.parametrize(
    ("scores", "maximize", "validations", "best"),
    [
        ([0.1, 0.3, 0.2, 0.2], True, 4, 1),  # two without a better one
        ([0.1, 0.3, 0.3, 0.3], True, 4, 1),  # an equal one is no better
        ([0.1, 0.1 + 1e-10, 0.1, 0.1], True, 3, 0),  # equal in single precision
        ([0.3, 0.1, 0.2, 0.1], False, 4, 1),
        ([np.nan, 0.5], True, 1, 0),
        ([0.5, np.nan], True, 2, 0),
        ([0.5, np.inf], True, 2, 1),  # d-prime of perfect labels: the best there is, and the end
        ([0.1, 0.2, 0.15, 0.3, 0.1, 0.1], True, 6, 3),
    ],
)
def test_when_a_training_stops_and_what_it_keeps(scores, maximize, validations, best):
    result = trained_on(scores, maximize=maximize)
    assert result.validations == validations
    assert result.epoch == 3 * best + 2
    assert result.epochs == 3 * validations
    assert result.probe.steps == 3 * (best + 1)


def test_a_training_ends_with_its_last_epoch():
    result = trained_on([0.1 * n for n in range(10)], max_epochs=10)
    assert (result.epochs, result.validations, result.epoch) == (10, 3, 8)


def test_settings_without_a_validation_are_refused():
    with pytest.raises(ValueError, match="max_epochs 2 ends before the first validation"):
        trained_on([], max_epochs=2)
