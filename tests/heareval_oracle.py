"""heareval's own training and test of one grid point, started from given weights, watched from outside."""

import functools
import importlib
import json
import logging
import warnings
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from eval_recipes.scoring.grid import GridPoint
from eval_recipes.scoring.probe import Probe

POINT = GridPoint(
    batch_size=1024,
    check_val_every_n_epoch=3,
    dropout=0.0,
    hidden_dim=40,
    hidden_layers=2,
    initialization="xavier_uniform_",
    lr=1e-3,
    max_epochs=48,
    patience=4,
)
"""A small probe, without what is random."""


@functools.cache
def heareval_module(name: str):
    """A module of heareval, whose requirements warn when they are imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"heareval.{name}")


def hearevals_metric(name: str, label_to_idx: dict[str, int]):
    """A metric of heareval's by name."""
    return heareval_module("score").available_scores[name](label_to_idx=label_to_idx)


def conf_of(point: GridPoint) -> dict:
    """A grid point in heareval's terms."""
    return {
        **point.hparams(),
        "hidden_norm": torch.nn.BatchNorm1d,
        "embedding_norm": torch.nn.Identity,
        "initialization": getattr(torch.nn.init, point.initialization),
        "optim": torch.optim.Adam,
    }


def copy_weights(probe: Probe, theirs: torch.nn.Module) -> None:
    """Give heareval's predictor the weights of ours."""
    with torch.no_grad():
        linears = [module for module in theirs.hidden.modules() if isinstance(module, torch.nn.Linear)]
        for layer, linear in zip(probe.hidden, linears, strict=True):
            linear.weight.copy_(layer.weight)
            linear.bias.copy_(layer.bias)
        theirs.projection.weight.copy_(probe.weight)
        theirs.projection.bias.copy_(probe.bias)


@contextmanager
def watched(kit, probe: Probe):
    """heareval's module `task_predictions` with our weights in its predictors and its losses noted."""
    losses: list[float] = []
    predictor, step = kit.FullyConnectedPrediction, kit.AbstractPredictionModel.training_step

    class WithOurWeights(predictor):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            copy_weights(probe, self)

    def noting(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        losses.append(loss.item())
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kit, "FullyConnectedPrediction", WithOurWeights)
        patch.setattr(kit.AbstractPredictionModel, "training_step", noting)
        patch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        patch.setattr(kit, "NUM_WORKERS", 0)
        yield losses


def train_and_test(folder: Path, point: GridPoint, probe: Probe) -> SimpleNamespace:
    """heareval's result of one grid point on the first fold, from `probe`'s weights.

    The working directory gets its logs.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    kit = heareval_module("predictions.task_predictions")
    metadata = json.loads((folder / "task_metadata.json").read_text())
    vocabulary, nlabels = kit.label_vocab_nlabels(folder)
    label_to_idx = kit.label_vocab_as_dict(vocabulary, key="label", value="idx")
    split = kit.get_splits_from_metadata(metadata)[0]
    shared = {"embedding_path": folder, "metadata": metadata, "data_splits": split, "in_memory": True}
    shared |= {"label_to_idx": label_to_idx, "nlabels": nlabels}
    with watched(kit, probe) as losses:
        trained = kit.task_predictions_train(
            embedding_size=probe.hidden[0].weight.shape[1] if probe.hidden else probe.weight.shape[1],
            scores=[hearevals_metric(name, label_to_idx) for name in metadata["evaluation"]],
            conf=conf_of(point),
            use_scoring_for_early_stopping=metadata.get("use_scoring_for_early_stopping", True),
            gpus=None,
            deterministic=True,
            **shared,
        )
        tested = kit.task_predictions_test(grid_point=trained, **shared)
    return SimpleNamespace(
        losses=losses,
        epoch=trained.epoch,
        validation_score=trained.validation_score,
        postprocessing=trained.postprocessing,
        scores=tested,
    )
