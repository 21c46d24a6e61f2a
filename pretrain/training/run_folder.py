"""Where a run's files are, and how they are written.

run_dir/
    config.json, preprocessor_config.json, model.safetensors   the run's encoder: load_model(run_dir)
    best/epoch_0003/  best/epoch_0003.pt                       the best encoders, in both layouts
    averaged/  averaged.pt                                     their average, at the end
    ema/  ema.pt                                               the moving average, if asked for
    states/iteration_00045000/                                 everything that --resume needs
    config.yaml, metrics.jsonl, train.log, pictures/, tensorboard/
    classes.json                                               of fine-tuning, in the order of the outputs

A fine-tuned classifier is an encoder with a head: its folders load as either, and of AudioSet's classes
alone there is a .pt beside them.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from pretrain.training.config import RunConfig

STATES = "states"
STATE_PREFIX = "iteration_"
PARTIAL = ".partial"


class RunFolderError(RuntimeError):
    """A run that cannot start here, or cannot write; the message says what to do."""


def family_folder(config: RunConfig, config_path: str | Path) -> Path:
    """Where runs of one config file and model lie side by side, as published."""
    return Path(config.outputpath) / Path(config_path).stem / (config.model or "from_checkpoint")


def choose_run_dir(config: RunConfig, config_path: str | Path, resume: bool) -> Path:
    """The folder of this run.

    Without `run_dir` it is a new one in the family's folder, or with `resume`
    the newest there that holds a state.

    Raises:
        RunFolderError: the folder holds a run already and `resume` is not given.
    """
    if config.run_dir is not None:
        run_dir = Path(config.run_dir)
        if not resume and latest_state(run_dir) is not None:
            raise RunFolderError(
                f"{run_dir} holds a run already: continue it with --resume, or choose another run_dir"
            )
        return run_dir
    family = family_folder(config, config_path)
    if resume:
        resumable = [path for path in family.glob("*") if latest_state(path) is not None]
        if resumable:
            return max(resumable, key=lambda path: latest_state(path).stat().st_mtime)
    return family / f"{datetime.now():%Y-%m-%d_%H-%M}_{uuid.uuid4().hex[:12]}"


def latest_state(run_dir: Path) -> Path | None:
    """The newest complete state of a run, None if there is none."""
    states = sorted(run_dir.glob(f"{STATES}/{STATE_PREFIX}*"))
    return states[-1] if states else None


@contextmanager
def left_as_it_was(run_dir: Path) -> Iterator[Callable[[], None]]:
    """Make a run's folder; if the start fails, remove what it has written.

    Yields:
        To be called when training begins: from then on everything stays.

    Raises:
        RunFolderError: the folder cannot be made.
    """
    made = [path for path in (run_dir, *run_dir.parents) if not path.exists()]
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        before = set(run_dir.iterdir())
    except OSError as error:
        raise RunFolderError(f"cannot write to the run folder {run_dir}: {error}; choose another") from error
    has_begun = False

    def begin() -> None:
        nonlocal has_begun
        has_begun = True

    try:
        yield begin
    except BaseException:
        if not has_begun:
            for path in set(run_dir.iterdir()) - before:
                _remove(path)
            with suppress(OSError):  # others may have begun runs beside this one
                for path in made:
                    path.rmdir()
        raise


def remove_partial_files(run_dir: Path) -> None:
    """Clear away what a killed process was in the middle of writing."""
    for path in [*run_dir.glob(f"*{PARTIAL}"), *run_dir.glob(f"*/*{PARTIAL}")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` once the block is done.

    A file or folder that was there before is replaced, and stays if the block fails.

    Raises:
        RunFolderError: the disk is full or refuses; what was half written is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{PARTIAL}")
    _remove(partial)
    try:
        yield partial
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(partial, path)
    except Exception as error:
        _remove(partial)
        raise RunFolderError(f"could not write {path}: {error}") from error


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
