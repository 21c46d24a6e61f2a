"""The command `hear-dasheng pretrain`, alias `python -m pretrain.train`.

On several processes: `accelerate launch -m pretrain.train CONFIG.yaml`.
"""

from __future__ import annotations

import dataclasses
import logging
import signal
from collections.abc import Sequence
from pathlib import Path

import click
import yaml
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list

from hear_dasheng.checkpoint_files import CheckpointError
from pretrain.reading.skip_log import NoUsableAudio
from pretrain.training.build import join_processes, new_accelerator
from pretrain.training.class_list import agreed_labels
from pretrain.training.classification import Classification
from pretrain.training.config import PretrainConfig, RunConfig
from pretrain.training.finetune_config import FinetuneConfig
from pretrain.training.journal import start_logging, stop_logging
from pretrain.training.masked_modelling import MaskedModelling
from pretrain.training.objective import Objective
from pretrain.training.optimizer_step import NonFiniteLoss
from pretrain.training.processes import Processes, StopRequest
from pretrain.training.read_config import ConfigError, parse_yaml, read_config
from pretrain.training.run_folder import RunFolderError, choose_run_dir, remove_partial_files, written_whole
from pretrain.training.trainer import Trainer

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
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
    is_main = join_processes().is_main_process
    run_dir = _agreed_run_dir(config, config_path, resume, is_main)
    start_logging(run_dir / config.logfile if is_main else None)
    try:
        accelerator = new_accelerator(config, run_dir)
        with StopRequest().listening() as stop:
            if is_main:
                _keep_config(config, run_dir)
            processes = Processes.of_this_run()
            trainer = Trainer(objective_of(config, run_dir, processes), run_dir, accelerator, processes)
            if config.trackers:
                settings = {key: str(value) for key, value in dataclasses.asdict(config).items()}
                accelerator.init_trackers(TRACKED_PROJECT, settings)
            is_complete = trainer.run(resume, stop)
        accelerator.end_training()
        return None if is_complete else stop.signal or signal.SIGTERM
    finally:
        AcceleratorState._reset_state(
            reset_partial_state=True
        )  # else the next run would have this one's precision
        stop_logging()


def objective_of(config: RunConfig, run_dir: Path, processes: Processes) -> Objective:
    """What a config asks to train; all processes must call this."""
    if isinstance(config, FinetuneConfig):
        return Classification(config, agreed_labels(config, run_dir, processes))
    return MaskedModelling(config)


def _agreed_run_dir(config: RunConfig, config_path: str | Path, resume: bool, is_main: bool) -> Path:
    """The folder that the first process chooses and prepares, on all of them."""
    choice: list[str] = ["", ""]
    if is_main:
        try:
            run_dir = choose_run_dir(config, config_path, resume)
            run_dir.mkdir(parents=True, exist_ok=True)
            remove_partial_files(run_dir)
            choice[0] = str(run_dir)
        except (RunFolderError, OSError) as error:
            choice[1] = str(error)
    path, error = broadcast_object_list(choice)
    if error:
        raise RunFolderError(error)
    return Path(path)


def _keep_config(config: RunConfig, run_dir: Path) -> None:
    """Write the config into the run's folder; log what has changed in it."""
    values = dataclasses.asdict(config) | {"run_dir": str(run_dir)}
    values["score_function"] = list(config.score_function) if config.score_function else None
    path = run_dir / CONFIG_FILE
    before = parse_yaml(path.read_text()) if path.exists() else values
    if changed := [key for key, value in values.items() if before.get(key) != value]:
        logger.warning("Changed since the run began: %s", ", ".join(changed))
    with written_whole(path) as partial:
        partial.write_text(yaml.safe_dump(values, sort_keys=False))


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--resume", is_flag=True, help="Go on where the run was stopped; begin if there is none.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def pretrain(config: Path, resume: bool, options: tuple[str, ...]) -> None:
    """Pretrain a Dasheng encoder as the YAML file CONFIG says.

    Any of its keys can be overridden: --batch_size 8 --optimizer_args.lr 1e-4. Keys and
    their meanings are listed in pretrain/training/config.py, examples are in pretrain/configs/.

    Ctrl-C or SIGTERM saves the state and ends with exit code 128 + the signal's number.
    """
    run(PretrainConfig, config, resume, options)


def run(kind: type[RunConfig], config: Path, resume: bool, options: Sequence[str]) -> None:
    """Read a config and train, as a command does."""
    expected = (ConfigError, RunFolderError, NoUsableAudio, NonFiniteLoss, CheckpointError, FileNotFoundError)
    try:
        received = train(read_config(config, options, kind), config, resume)
    except expected as error:
        raise click.ClickException(str(error)) from error
    if received is not None:
        raise SystemExit(128 + received)


if __name__ == "__main__":
    pretrain(prog_name="python -m pretrain.train")
