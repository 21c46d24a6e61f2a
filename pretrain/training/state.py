"""Everything that `--resume` needs, written so that a kill at any moment loses nothing.

A state is a folder: Accelerate's own files (weights, optimizer, scaler, random number
generators of each process), `progress.json`, the moving average, and each process's position in the data.
It is written under a temporary name and renamed when every process is done; only then are older
states removed.

At the end of an epoch the state comes first and says that the rest (validation, pictures, probe, the weights
that are kept) is due; when that is done, `progress.json` alone is replaced.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import load as load_with_numpy
from torch import nn

from hear_dasheng.files.write_errors import system_error
from pretrain.training.processes import Processes
from pretrain.training.run_folder import (
    STATE_PREFIX,
    STATES,
    RunFolderError,
    latest_state,
    remove_state,
    state_path,
    written,
)
from pretrain.training.sharding import save_state

logger = logging.getLogger(__name__)

PROGRESS_FILE = "progress.json"
EMA_FILE = "ema.pt"


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        iteration: optimizer steps done.
        epoch: epochs done.
        epoch_start: iterations that were done when the current epoch began.
        is_epoch_end_due: the validation after `epoch` epochs, and what goes with it, is still to be done.
        data_pass: how often the data were gone through (never, if they are resampled).
        audio_s: seconds of audio trained on, over all processes.
        trained_s: seconds that the run has taken, over all its sessions.
        best: the kept encoders as [score, name, validation loss], best first.
        skipped: members and shards left out so far, by reason.
    """

    iteration: int = 0
    epoch: int = 0
    epoch_start: int = 0
    is_epoch_end_due: bool = False
    data_pass: int = 0
    audio_s: float = 0.0
    trained_s: float = 0.0
    best: list[list[Any]] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)


class TrainingState:
    """Saves and loads the states of one run."""

    def __init__(
        self, run_dir: Path, accelerator: Accelerator, processes: Processes, ema: nn.Module | None
    ) -> None:
        self.run_dir = run_dir
        self.accelerator, self.processes = accelerator, processes
        self.ema = ema

    def save(self, progress: Progress, own: Any) -> None:
        """Write the state after `progress.iteration` optimizer steps; all processes must call this.

        Args:
            progress: how far the run has come.
            own: what this process alone knows, its position in the data above all.

        Raises:
            RunFolderError: it could not be written, on whatever process. The state before it is intact.
        """
        path = self._path(progress)
        is_main = self.accelerator.is_main_process
        with ExitStack() as stack:
            begin = self._reported(path, lambda: stack.enter_context(state_path(path)) if is_main else None)
            partial = self.processes.gathered(begin)[0]
            self._reported(path, lambda: self._write(partial, progress, own))
            self._reported(path, stack.close)  # renamed when every process is done
            self._reported(path, lambda: self._remove_older(path) if is_main else None)

    def _write(self, folder: Path, progress: Progress, own: Any) -> None:
        folder.mkdir(exist_ok=True)
        save_state(self.accelerator, folder)
        torch.save(own, folder / self._own_file)
        if self.accelerator.is_main_process:
            if self.ema is not None:
                torch.save(self.ema.state_dict(), folder / EMA_FILE)
            (folder / PROGRESS_FILE).write_text(_as_json(progress))

    def _remove_older(self, path: Path) -> None:
        for state in path.parent.glob(f"{STATE_PREFIX}*"):
            if state != path:
                remove_state(state)

    def save_progress(self, progress: Progress) -> None:
        """Exchange the progress in the state that was saved last; the first process alone needs to call this.

        Raises:
            RunFolderError: it could not be written. The state is intact as it was.
        """
        with written(self._path(progress) / PROGRESS_FILE) as partial:
            partial.write_text(_as_json(progress))

    def _path(self, progress: Progress) -> Path:
        return self.run_dir / STATES / f"{STATE_PREFIX}{progress.iteration:08d}"

    def _reported(self, path: Path, action: Any) -> Any:
        """Do something on every process; report a failed write as such, on all of them."""

        def act() -> Any:
            try:
                return action()
            except Exception as error:
                cause = system_error(error)
                if cause is None:
                    raise
                raise RunFolderError(self._failure(path, cause.strerror)) from error

        return self.processes.agreed(act)

    def _failure(self, path: Path, reason: str) -> str:
        before = latest_state(self.run_dir)
        kept = "there is none before it" if before is None else f"{before} is intact"
        return (
            f"could not write the training state {path}: {reason}; {kept}. "
            "Make room, then continue with --resume"
        )

    @property
    def _own_file(self) -> str:
        return f"process_{self.accelerator.process_index}.pt"

    def load(self, progress: Progress) -> Any:
        """Put the newest state into the model, the optimizer and `progress`; all processes must call this.

        Returns:
            What this process has saved of its own; None if there is no state, or none of this process.

        Raises:
            RunFolderError: a file of the state is damaged.
        """
        path = latest_state(self.run_dir)
        if path is None:
            logger.info("There is no saved state in %s; beginning from scratch", self.run_dir)
            return None
        saved, own = self.processes.agreed(lambda: self._read(path))
        self.processes.agreed(lambda: self._put_into_model(path))
        for name, value in dataclasses.asdict(saved).items():
            setattr(progress, name, value)
        logger.info("Resuming from %s, %d iterations done", path, progress.iteration)
        return own

    def _read(self, path: Path) -> tuple[Progress, Any]:
        """Read what is small, and look into every other file, before any is used."""
        saved, own = None, None
        for file in sorted(path.iterdir()):
            try:
                if file.name == PROGRESS_FILE:
                    saved = Progress(**json.loads(file.read_text()))
                elif file.name == self._own_file:
                    own = torch.load(file, weights_only=True)
                elif file.suffix in (".bin", ".pt", ".pkl"):
                    load_with_numpy(file, map_location="cpu", mmap=True)
                elif file.suffix == ".safetensors":
                    _check_safetensors(file)
            except Exception as error:  # what damaged files raise is not documented
                raise RunFolderError(self._damage(path, file, error)) from error
        if saved is None:
            raise RunFolderError(self._damage(path, path / PROGRESS_FILE, "it is missing"))
        return saved, own

    def _put_into_model(self, path: Path) -> None:
        try:
            self.accelerator.load_state(str(path))
            if self.ema is not None:
                ema = torch.load(path / EMA_FILE, map_location="cpu", weights_only=True)
                self.ema.load_state_dict(ema)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of another model, optimizer or number of files
            raise RunFolderError(self._damage(path, path, error)) from error

    def _damage(self, path: Path, file: Path, reason: object) -> str:
        """Return what to do about a state that cannot be read."""
        states = sorted(path.parent.glob(f"{STATE_PREFIX}*"))
        older = [state for state in states if state < path]
        rest = f"continues from {older[-1]}" if older else "begins from scratch, unless you have a copy"
        words = " ".join(str(reason).split())
        return (
            f"cannot resume: {file} is damaged or does not fit this config ({words[:200]}). "
            f"Nothing was changed. Restore it; or remove {path}, and --resume {rest}"
        )


def _as_json(progress: Progress) -> str:
    return json.dumps(dataclasses.asdict(progress), indent=1)


def _check_safetensors(path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        file.keys()
