"""The encoders that a run leaves behind: each a HEAR checkpoint and a published `.pt`."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from hear_dasheng.checkpoint_files import CONFIG_FILE, WEIGHTS_FILE
from hear_dasheng.encoder import Encoder
from hear_dasheng.export import write_checkpoint
from hear_dasheng.files.atomic import remove
from pretrain.training.run_folder import BEST, RunFolderError, written

logger = logging.getLogger(__name__)

Result = TypeVar("Result", bound=nn.Module)


def write_encoder(encoder: Encoder, path: Path) -> None:
    """Write `path` (a checkpoint folder) and `path`.pt (the published form), replacing older ones."""
    for target, layout in ((path, "huggingface"), (path.with_name(f"{path.name}.pt"), "published")):
        with written(target) as partial:
            write_checkpoint(encoder, partial, layout)


def publish(source: Path, run_dir: Path) -> None:
    """Make the encoder in the folder `source` the run's own: `load_model(run_dir)` gives it.

    The configuration is the same for all encoders of a run, so that the weights alone are exchanged, at once.
    """
    names = [path.name for path in source.iterdir() if path.name != WEIGHTS_FILE]
    for name in [CONFIG_FILE, *(n for n in names if n != CONFIG_FILE), WEIGHTS_FILE]:
        if (run_dir / name).exists() and (run_dir / name).samefile(source / name):
            continue  # a rename of one name of a file over another does nothing
        with written(run_dir / name) as partial:
            try:
                os.link(source / name, partial)
            except OSError:  # a file system without hard links
                shutil.copyfile(source / name, partial)


def is_among_best(best: list[list], score: float, name: str, n_saved: int, loss: float | None = None) -> bool:
    """Enter a score into the list of the best, highest first; True if it stays there.

    Of equal scores the one with the lower validation loss comes first, then the earlier one.
    The encoders that it pushes out are removed by `remove_others`, once the list is saved.

    Args:
        best: [score, name, validation loss] of each; changed in place.
        score: higher is better.
        name: in the alphabet's order if in time's.
        n_saved: how many stay.
        loss: at validation; None if there was none.
    """
    entered = [*(entry for entry in best if entry[1] != name), [score, name, loss]]
    best[:] = sorted(entered, key=_rank)[:n_saved]
    return any(entry[1] == name for entry in best)


def _rank(entry: list) -> tuple[float, float, str]:
    score, name, *losses = entry  # states of before there were losses have none
    loss = losses[0] if losses and losses[0] is not None else math.inf
    return -score, loss, name


def remove_others(best: list[list], run_dir: Path) -> None:
    """Remove the encoders that are not among the best."""
    kept = {entry[1] for entry in best}
    for path in (run_dir / BEST).glob("*"):
        name = path.name.removesuffix(".pt")
        if name not in kept and re.fullmatch(r"epoch_\d+", name):
            remove(path)


def average(folders: list[Path], load: Callable[[Path], Result]) -> Result:
    """The mean of the weights that `load` reads from folders; counters are the first one's.

    Source: the published trainer's final step (which adds the counters up).

    Raises:
        RunFolderError: there are none.
    """
    if not folders:
        raise RunFolderError("there is no encoder to average")
    results = [load(folder) for folder in folders]
    states = [result.state_dict() for result in results]
    mean = {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }
    results[0].load_state_dict(mean)
    return results[0]
