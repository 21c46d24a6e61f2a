"""From the same weights, without dropout, a training here is heareval's training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from heareval_oracle import POINT, train_and_test

from eval_recipes import synthetic_embeddings as synthetic
from eval_recipes.scoring.grid import GridPoint
from eval_recipes.scoring.judge import maximizes
from eval_recipes.scoring.probe import Probe
from eval_recipes.scoring.protocol import FoldData
from eval_recipes.scoring.task_data import TaskData
from eval_recipes.scoring.training import train

CPU = torch.device("cpu")


def changed(**values) -> GridPoint:
    return replace(POINT, **values)


def probe_for(task: TaskData, point: GridPoint) -> Probe:
    return Probe(task.features, task.labels, task.is_multilabel, point, seed=1, device=CPU)


CASES = {
    "one label": (synthetic.multiclass, POINT, {}),
    "one label, three batches, one layer": (
        synthetic.multiclass,
        changed(batch_size=14, hidden_layers=1),
        {},
    ),
    "one label, no hidden layer, every epoch": (
        synthetic.multiclass,
        changed(hidden_layers=0, check_val_every_n_epoch=1, patience=1, initialization="xavier_normal_"),
        {},
    ),
    "several labels": (synthetic.multilabel, POINT, {}),
    "several labels, by loss": (synthetic.multilabel, POINT, {"use_scoring_for_early_stopping": False}),
    "events": (synthetic.events, changed(batch_size=256), {}),
    "events, few of them found": (synthetic.events, changed(batch_size=256, lr=1e-4, max_epochs=30), {}),
    "events, never found": (
        synthetic.events,
        changed(batch_size=256),
        {"evaluation_params": {"event_postprocessing_grid": {"min_duration": [60_000, 90_000]}}},
    ),
    "events, by error rate": (
        synthetic.events,
        POINT,
        {"evaluation": ["segment_1s_er", "event_onset_50ms_fms"]},
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "point", "metadata"), CASES.values(), ids=CASES.keys())
def test_losses_selection_and_scores_are_hearevals(tmp_path, monkeypatch, one_thread, make, point, metadata):
    monkeypatch.chdir(tmp_path)
    folder = make(tmp_path / "task", **metadata)
    task = TaskData(folder)
    theirs = train_and_test(folder.relative_to(tmp_path), point, probe_for(task, point))

    data = FoldData(task, task.folds[0], CPU)
    probe, losses = probe_for(task, point), []
    take = probe.compute_gradient

    def noting(x, targets):
        logits = take(x, targets)
        losses.append(probe.loss(logits, targets).item())
        return logits

    probe.compute_gradient = noting
    ours = train(point, probe, data.training(point.batch_size), data.valid.validate, maximize=maximizes(task))
    steps = min(100, len(losses), len(theirs.losses))
    np.testing.assert_allclose(losses[:steps], theirs.losses[:steps], rtol=0, atol=1e-4)
    assert (len(losses), ours.epoch) == (len(theirs.losses), theirs.epoch)
    two_items = 2 / len(task.split(task.folds[0].test[0]).targets)
    if np.isnan(ours.best.score):
        assert theirs.validation_score == -np.inf  # as Lightning files it
    else:
        assert ours.best.score == pytest.approx(theirs.validation_score, abs=two_items)
    assert ours.best.postprocessing == tuple(theirs.postprocessing)
    scores = data.tester().test(probe, ours.best.postprocessing)
    assert scores.keys() == theirs.scores.keys()
    for name, value in scores.items():
        tolerance = 1e-3 if name == "test_loss" else two_items
        assert value == pytest.approx(theirs.scores[name], abs=tolerance, nan_ok=True)
