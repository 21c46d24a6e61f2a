"""Which probes are tried: heareval's grids, their order, and the random draw from them.

A grid point is one combination of the values below. heareval shuffles all of them
and tries the first eight; with its seed, 42, the same eight in the same order here.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, fields
from typing import Any

from eval_recipes.task_checks import TaskProblem

OFFICIAL_SEED = 42
"""heareval's; further runs count up from it."""

DEFAULT: dict[str, list[Any]] = {
    "batch_size": [1024],
    "check_val_every_n_epoch": [3],
    "dropout": [0.1],
    "embedding_norm": ["Identity"],
    "hidden_dim": [1024],
    "hidden_layers": [1, 2],
    "hidden_norm": ["BatchNorm1d"],
    "initialization": ["xavier_uniform_", "xavier_normal_"],
    "lr": [3.2e-3, 1e-3, 3.2e-4, 1e-4],
    "max_epochs": [500],
    "norm_after_activation": [False],
    "optim": ["Adam"],
    "patience": [20],
}
GRIDS: dict[str, dict[str, list[Any]]] = {
    "default": DEFAULT,
    "fast": DEFAULT | {"max_epochs": [10, 50], "check_val_every_n_epoch": [3, 10]},
    "faster": DEFAULT
    | {
        "hidden_layers": [0, 1],
        "hidden_dim": [64, 128],
        "patience": [1, 3],
        "max_epochs": [10],
        "check_val_every_n_epoch": [1],
    },
}
OF_ONE_TASK: dict[str, dict[str, list[Any]]] = {"dcase2016_task2": {"check_val_every_n_epoch": [10]}}
"""Exceptions by the metadata's task name; the metadata itself may hold more."""

FIXED = {
    "embedding_norm": "Identity",
    "hidden_norm": "BatchNorm1d",
    "norm_after_activation": False,
    "optim": "Adam",
}
"""What no grid varies, and the probe here does not offer in another form."""


@dataclass(frozen=True)
class GridPoint:
    """The settings of one training.

    Attributes:
        patience: validations without a better score before the training stops.
        check_val_every_n_epoch: epochs from one validation to the next.
        initialization: `xavier_uniform_` or `xavier_normal_`.
    """

    batch_size: int
    check_val_every_n_epoch: int
    dropout: float
    hidden_dim: int
    hidden_layers: int
    initialization: str
    lr: float
    max_epochs: int
    patience: int

    def hparams(self) -> dict[str, Any]:
        """All settings by name, the fixed ones included, for the score file."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return dict(sorted((own | FIXED).items()))


def combinations(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Every combination, in the order of scikit-learn's ParameterGrid.

    >>> combinations({"b": [1, 2], "a": [3]})
    [{'a': 3, 'b': 1}, {'a': 3, 'b': 2}]
    """
    names = sorted(grid)
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(grid[n] for n in names))]


def draw(grid: str, metadata: dict[str, Any], points: int, seed: int) -> list[GridPoint]:
    """The grid points that a run with this seed tries.

    Args:
        grid: `default`, `fast` or `faster`.
        metadata: a task's; its name and `evaluation_params` may change the grid.
        points: how many, at most.
        seed: of the shuffling.

    Raises:
        TaskProblem: the metadata ask for a setting that the probe does not have.
    """
    changes = OF_ONE_TASK.get(metadata["task_name"], {})
    own = metadata.get("evaluation_params", {}).get("task_specific_param_grid", {})
    everything = combinations(GRIDS[grid] | changes | own)
    random.Random(seed).shuffle(everything)
    return [_point(values) for values in everything[:points]]


def _point(values: dict[str, Any]) -> GridPoint:
    known = {field.name for field in fields(GridPoint)}
    free = {}
    for name, value in values.items():
        if name in known:
            free[name] = value
        elif name not in FIXED or value != FIXED[name]:
            raise TaskProblem(
                f"the task asks for {name} = {value!r}, which only `hear-dasheng heareval predictions` offers"
            )
    return GridPoint(**free)
