"""Runs that are killed in the middle of something, and what they have written."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import torch

from hear_dasheng.files import atomic
from pretrain.train import train
from pretrain.training import epoch_end, run_folder
from pretrain.training.config import PretrainConfig, RunConfig
from pretrain.training.epoch_end import EpochEnd
from pretrain.training.journal import Journal
from pretrain.training.optimizer_step import OptimizerStep
from pretrain.training.read_config import read_config
from pretrain.training.state import TrainingState

PROCESSES = multiprocessing.get_context("forkserver")
"""Each child is forked from one process that has imported what takes long."""
PROCESSES.set_forkserver_preload(["pretrain.train", "safetensors.torch", "accelerate"])


def run_until_killed(
    moment: str, at: int, config: Path, run: Path, kind: type[RunConfig] = PretrainConfig
) -> None:
    """Resume a run in a process of its own that is killed for real, in the middle of what `moment` says."""
    threads = torch.get_num_threads()  # sums in another number of parts would differ in the last bit
    process = PROCESSES.Process(target=_run_and_die, args=(moment, at, config, run, kind, threads))
    process.start()
    process.join(100)
    assert process.exitcode == -signal.SIGKILL


def _run_and_die(moment: str, at: int, config: Path, run: Path, kind: type[RunConfig], threads: int) -> None:
    torch.set_num_threads(threads)
    # As a run from the command line has it: a fork server of its own would keep its workers alive.
    multiprocessing.set_start_method("fork", force=True)

    def die(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    def dying(owner, name: str, is_after: bool = False) -> None:
        """Make a function the last one that is called, or begun."""
        original = getattr(owner, name)
        setattr(owner, name, lambda *args, **kwargs: die(original(*args, **kwargs) if is_after else None))

    step, save, look_back = OptimizerStep.__call__, TrainingState.save, EpochEnd.__call__

    def killing_step(self, iteration, batches, clips):
        if moment == "step" and iteration == at:
            die()
        return step(self, iteration, batches, clips)

    def killing_save(self, progress, own):
        if progress.iteration >= at and moment == "write":  # weights are written, what follows is not
            torch.save = die
        if progress.iteration >= at and moment == "replaced":  # the new state is there, under whatever name
            dying(atomic, "_replace", is_after=True)
        if progress.iteration >= at and moment == "remove":  # the new state is there, and the one before
            dying(run_folder, "remove")
        return save(self, progress, own)

    def killing_epoch_end(self, model, ema, progress, journal):
        if progress.iteration >= at:
            for name, (owner, function, is_after) in IN_EPOCH_END.items():
                if moment == name:
                    dying(owner, function, is_after)
            if moment == "epoch end":
                die()
        return look_back(self, model, ema, progress, journal)

    OptimizerStep.__call__, TrainingState.save = killing_step, killing_save
    EpochEnd.__call__ = killing_epoch_end
    train(read_config(config, ["--run_dir", str(run)], kind), config, resume=True)


IN_EPOCH_END = {
    "validated": (epoch_end, "validate", True),
    "kept": (EpochEnd, "_keep_if_among_the_best", True),
    "keeping": (atomic.os, "replace", False),
    "told": (Journal, "write", True),
    "drawn": (EpochEnd, "_draw", True),
    "progress": (TrainingState, "save_progress", False),
    "done": (TrainingState, "save_progress", True),
}
"""Moments of an epoch's end: what is called there, and whether it is done when the run is killed."""


TIMES = ("validation_s",)


def lines_of(run_dir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
