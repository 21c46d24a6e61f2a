"""Where a run's files are, and how they are written.

run_dir/
    config.json, preprocessor_config.json, model.safetensors   the run's encoder: load_model(run_dir)
    best/epoch_0003/  best/epoch_0003.pt                       the best encoders, in both layouts
    averaged/  averaged.pt                                     their average, at the end
    ema/  ema.pt                                               the moving average, if asked for
    states/iteration_00045000/                                 everything that --resume needs
    config.yaml, metrics.jsonl, train.log, pictures/, tensorboard/
    .run.lock                                                  held by the process that trains here
    classes.json                                               of fine-tuning, in the order of the outputs

A fine-tuned classifier is an encoder with a head: its folders load as either, and of AudioSet's classes
alone there is a .pt beside them.
"""

from __future__ import annotations

import os
import secrets
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from hear_dasheng.files.atomic import PARTIAL, atomic_path, remove, remove_partials
from hear_dasheng.files.lock import Locked, locked
from hear_dasheng.files.write_errors import system_error
from pretrain.training.config import RunConfig

STATES = "states"
STATE_PREFIX = "iteration_"
LOCK_FILE = ".run.lock"
BEST = "best"
PICTURES = "pictures"
CLASSES_FILE = "classes.json"


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
        RunFolderError: the folder holds a run already and `resume` is not given, or its name is impossible.
    """
    try:
        return _chosen(config, config_path, resume)
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise RunFolderError(f"cannot use the run folder {error.filename}: {error.strerror}") from error


def _chosen(config: RunConfig, config_path: str | Path, resume: bool) -> Path:
    if config.run_dir is not None:
        run_dir = Path(config.run_dir)
        if not resume:
            _check_holds_no_run(run_dir)
        return run_dir
    family = family_folder(config, config_path)
    if resume:
        resumable = [path for path in family.glob("*") if latest_state(path) is not None]
        if resumable:
            return max(resumable, key=lambda path: latest_state(path).stat().st_mtime)
    return family / f"{datetime.now():%Y-%m-%d_%H-%M}_{uuid.uuid4().hex[:12]}"


def _check_holds_no_run(run_dir: Path) -> None:
    if latest_state(run_dir) is not None:
        raise RunFolderError(
            f"{run_dir} holds a run already: continue it with --resume, or choose another run_dir"
        )


def latest_state(run_dir: Path) -> Path | None:
    """Return the newest complete state of a run, None if there is none."""
    states = sorted(run_dir.glob(f"{STATES}/{STATE_PREFIX}*"))
    return states[-1] if states else None


@contextmanager
def state_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name for a training state, which becomes `path`.

    At every moment there is a complete state: one that is already at `path` stays until the new one is
    complete beside it, under a name that sorts behind `path`, so that `latest_state` finds that one.
    """
    newer = path.with_name(f"{path.name}.1")
    with atomic_path(newer if path.exists() else path) as partial:
        yield partial
    if newer.exists():
        _give_final_name(newer)


def _give_final_name(newer: Path) -> None:
    path = newer.with_suffix("")
    remove_state(path)
    os.replace(newer, path)


def remove_state(path: Path) -> None:
    """Remove a state, if it is there; one that is half removed never bears a state's name."""
    if path.exists():
        discarded = path.with_name(f".{secrets.token_hex(8)}{PARTIAL}")
        os.replace(path, discarded)
        remove(discarded)


def clean_up(run_dir: Path) -> None:
    """Remove what killed runs left half written; the caller must hold the folder's lock."""
    remove_partials(run_dir, is_recursive=False)  # a folder below may be that of another run
    for name in (STATES, BEST, PICTURES):
        remove_partials(run_dir / name)
    for left in run_dir.glob(f"{STATES}/.{STATE_PREFIX}*{PARTIAL}"):  # as earlier versions named them
        remove(left)
    for newer in run_dir.glob(f"{STATES}/{STATE_PREFIX}*.1"):
        _give_final_name(newer)


@contextmanager
def held_folder(run_dir: Path, logfile: str, resume: bool) -> Iterator[Callable[[], None]]:
    """Make a run's folder and lock it; if the start fails, remove what it has written, and nothing else.

    Args:
        run_dir: the folder.
        logfile: the log's name in it.
        resume: whether the folder may hold a run.

    Yields:
        A function to call when training begins: from then on everything stays.

    Raises:
        RunFolderError: another run holds the folder, it holds a run, or it cannot be made.
    """
    lock_file, own = run_dir / LOCK_FILE, [run_dir / name for name in (logfile, CLASSES_FILE)]
    with ExitStack() as stack:
        try:
            made = [path for path in own[0].parents if not path.exists()]  # the innermost comes first
            new_lock = [] if lock_file.exists() else [lock_file]
            stack.enter_context(locked(lock_file))
            # Not before: until then another run may have written them. The lock file goes last.
            new = [path for path in own if not path.exists()] + new_lock
            begin = stack.enter_context(_removed_unless_begun(new, made))
            clean_up(run_dir)
        except Locked as error:
            raise RunFolderError(
                f"another run is writing to {run_dir}: wait until it ends, stop it, or choose another run_dir"
            ) from error
        except OSError as error:
            reason = error.strerror or error
            raise RunFolderError(
                f"cannot write to the run folder {run_dir}: {reason}; choose another"
            ) from error
        if not resume:
            _check_holds_no_run(run_dir)
        yield begin


@contextmanager
def _removed_unless_begun(files: list[Path], folders: list[Path]) -> Iterator[Callable[[], None]]:
    """Remove files, and folders that are then empty, if the block fails before the yielded call."""
    has_begun = False

    def begin() -> None:
        nonlocal has_begun
        has_begun = True

    try:
        yield begin
    except BaseException:
        if not has_begun:
            for path in files:
                with suppress(OSError):  # a name that is too long was never written
                    path.unlink(missing_ok=True)
            with suppress(OSError):  # others have written there meanwhile
                for path in folders:
                    path.rmdir()
        raise


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a temporary name for a run's file or folder that becomes `path`; see `atomic_path`.

    Raises:
        RunFolderError: the disk is full or refuses; what is at `path` stays.
    """
    try:
        with atomic_path(path) as partial:
            yield partial
    except Exception as error:
        cause = system_error(error)
        if cause is None:
            raise
        raise RunFolderError(
            f"could not write {path}: {cause.strerror}. Make room, then continue with --resume"
        ) from error
