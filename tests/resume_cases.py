"""Runs that are killed in the middle of something, and what they have written."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import torch

from pretrain.train import train
from pretrain.training import state as training_state
from pretrain.training.config import PretrainConfig, RunConfig
from pretrain.training.optimizer_step import OptimizerStep
from pretrain.training.read_config import read_config
from pretrain.training.run_folder import PARTIAL
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

    step, save = OptimizerStep.__call__, TrainingState.save

    def killing_step(self, iteration, batches, clips):
        if moment == "step" and iteration == at:
            die()
        return step(self, iteration, batches, clips)

    def killing_save(self, progress, own):
        if progress.iteration >= at and moment == "write":  # weights are written, what follows is not
            torch.save = die
        if progress.iteration >= at and moment == "remove":  # the new state is there, and the one before
            training_state.shutil.rmtree = lambda path, **options: str(path).endswith(PARTIAL) or die()
        return save(self, progress, own)

    OptimizerStep.__call__, TrainingState.save = killing_step, killing_save
    train(read_config(config, ["--run_dir", str(run)], kind), config, resume=True)


TIMES = ("validation_s",)


def lines_of(run_dir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
