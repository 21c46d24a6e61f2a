"""Train as a config says; also `python -m pretrain.train`, an alias of `hear-dasheng pretrain`.

On several processes: `accelerate launch -m pretrain.train CONFIG.yaml`.
"""

from __future__ import annotations

import dataclasses
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

import click
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from hear_dasheng.checkpoint_files import CheckpointError
from pretrain.commands import pretrain
from pretrain.reading.skip_log import NoUsableAudio
from pretrain.training.build import join_processes, locate_start, must_use_cpu, new_accelerator
from pretrain.training.class_list import agreed_labels
from pretrain.training.classification import Classification
from pretrain.training.config import DEFAULT_TIMEOUT_MIN, RunConfig
from pretrain.training.finetune_config import FinetuneConfig
from pretrain.training.journal import start_logging, stop_logging, threads_warn
from pretrain.training.masked_modelling import MaskedModelling
from pretrain.training.objective import Objective
from pretrain.training.optimizer_step import NonFiniteLoss
from pretrain.training.processes import Processes, StopRequest, collective_failure, is_known_to_all
from pretrain.training.read_config import ConfigError, read_config, read_yaml
from pretrain.training.run_folder import (
    RunFolderError,
    choose_run_dir,
    held_folder,
    latest_state,
    written,
)
from pretrain.training.trainer import Trainer
from process_memory import keep_freed_memory

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
EXPECTED = (ConfigError, RunFolderError, NoUsableAudio, NonFiniteLoss, CheckpointError, FileNotFoundError)
"""Errors whose message is all that a user needs."""
TRACKED_PROJECT = "tensorboard"
"""What trackers call the run's project, and the folder of TensorBoard's files."""


def train(config: RunConfig, config_path: str | Path, resume: bool = False) -> signal.Signals | None:
    """Train as a config says; every process of a run calls this.

    Args:
        config: what to train, on what.
        config_path: the file it came from, which names the run's folder if `run_dir` does not.
        resume: go on where the run was stopped; begin it if there is none.

    Returns:
        The signal that stopped the run, its state saved; None if it is complete.

    Raises:
        ConfigError, RunFolderError, NoUsableAudio, NonFiniteLoss, CheckpointError: their messages
            say what is wrong and what to do.
    """
    join_processes(config.process_timeout_min)
    processes = Processes.of_this_run(config.process_timeout_min)
    is_main = processes.rank == 0
    chosen = processes.agreed(lambda: _checked_run_dir(config, config_path, resume) if is_main else None)
    run_dir = processes.gathered(chosen)[0]
    with ExitStack() as start:
        folder = held_folder(run_dir, config.logfile, resume) if is_main else nullcontext(lambda: None)
        begin = processes.agreed(lambda: start.enter_context(folder))
        try:
            processes.agreed(lambda: start_logging(run_dir / config.logfile if is_main else None))
            return _train_in(run_dir, config, resume, processes, begin)
        finally:
            AcceleratorState._reset_state(
                reset_partial_state=True
            )  # else the next run would have this one's precision
            stop_logging()


def _train_in(
    run_dir: Path, config: RunConfig, resume: bool, processes: Processes, begin: Callable[[], Any]
) -> signal.Signals | None:
    """Train in a folder; `begin` is called as soon as nothing can be wrong with the config any more."""
    accelerator = processes.agreed(lambda: new_accelerator(config, run_dir))
    with StopRequest().listening() as stop, threads_warn():
        objective = processes.agreed(lambda: objective_of(config, run_dir, processes))
        trainer = processes.agreed(lambda: Trainer(objective, run_dir, accelerator, processes))
        trainer.epoch_end.check_data()
        begin()
        processes.agreed(lambda: _keep_config(config, run_dir) if processes.rank == 0 else None)
        if config.trackers:
            _start_trackers(accelerator, config, run_dir)
        is_complete = trainer.run(resume, stop)
        with suppress(OSError):  # a tracker that could not write has been reported
            accelerator.end_training()
    return None if is_complete else stop.signal or signal.SIGTERM


def _start_trackers(accelerator: Accelerator, config: RunConfig, run_dir: Path) -> None:
    """Start the config's trackers; without them, if they cannot write."""
    settings = {key: str(value) for key, value in dataclasses.asdict(config).items()}
    try:
        accelerator.init_trackers(TRACKED_PROJECT, settings)
    except OSError as error:
        accelerator.trackers = []
        logger.warning("The trackers %s cannot write to %s: %s", config.trackers, run_dir, error)


def objective_of(config: RunConfig, run_dir: Path, processes: Processes) -> Objective:
    """What a config asks to train; all processes must call this."""
    if isinstance(config, FinetuneConfig):
        return Classification(config, agreed_labels(config, run_dir, processes))
    return MaskedModelling(config)


def _checked_run_dir(config: RunConfig, config_path: str | Path, resume: bool) -> Path:
    """The folder of a run that can start as far as can be told at once; nothing is written."""
    run_dir = choose_run_dir(config, config_path, resume)
    if config.init_from is not None:
        locate_start(config.init_from)
    return run_dir


def _keep_config(config: RunConfig, run_dir: Path) -> None:
    """Write the config into the run's folder; log what has changed in it."""
    values = dataclasses.asdict(config) | {"run_dir": str(run_dir)}
    values["score_function"] = list(config.score_function) if config.score_function else None
    path = run_dir / CONFIG_FILE
    has_begun = path.exists() and latest_state(run_dir) is not None
    before = (_kept_values(path) if has_begun else None) or values
    if changed := _changes(before, values):
        logger.warning("Changed since the run began: %s", ", ".join(changed))
    with written(path) as partial:
        partial.write_text(yaml.safe_dump(values, sort_keys=False))


def _kept_values(path: Path) -> Mapping[str, Any] | None:
    """Read the config that a run began with; None, with a warning, if the file is damaged."""
    try:
        values = read_yaml(path)
    except ConfigError as error:
        logger.warning("What has changed since the run began is unknown: %s", error)
        return None
    return values if isinstance(values, Mapping) else None


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Each key whose value is another, with both; of nested ones only what differs.

    >>> _changes({"seed": 1, "optimizer_args": {"lr": 0.1}}, {"seed": 1, "optimizer_args": {"lr": 0.2}})
    ['optimizer_args.lr 0.1 -> 0.2']
    """
    changes = []
    for key in [*after, *(key for key in before if key not in after)]:
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changes += [f"{key}.{change}" for change in _changes(old, new)]
        elif old != new:
            changes.append(f"{key} {old} -> {new}")
    return changes


def run(kind: type[RunConfig], config: Path, resume: bool, options: Sequence[str]) -> None:
    """Read a config and train, as a command does; of several processes the first tells what is wrong."""
    if must_use_cpu():
        keep_freed_memory()
    values, failure, timeout_min = None, None, DEFAULT_TIMEOUT_MIN
    try:
        values = read_config(config, options, kind)
        timeout_min = values.process_timeout_min
    except ConfigError as error:  # raised below, on all processes
        failure = error
    join_processes(timeout_min)
    processes = Processes.of_this_run(timeout_min)
    try:
        processes.raise_first(failure)
        received = train(values, config, resume)
    except EXPECTED as error:
        told = click.ClickException(str(error))
        if not is_known_to_all(error):
            raise told from error
        if processes.rank == 0:
            told.show()
        processes.part()  # together: a launcher ends the others as soon as one has ended
        raise SystemExit(told.exit_code) from error
    except Exception as error:
        if is_known_to_all(error):
            processes.part()
            if error.__cause__ is None:  # the process that has met it shows the traceback
                raise SystemExit(1) from None
        elif processes.count > 1 and (reason := collective_failure(error)) is not None:
            raise click.ClickException(reason) from error
        raise
    if received is not None:
        raise SystemExit(128 + received)


if __name__ == "__main__":
    pretrain(prog_name="python -m pretrain.train")
