"""Everything that `--resume` needs, written so that a kill at any moment loses nothing.

A state is a folder: Accelerate's own files (weights, optimizer, scaler, random number
generators of each process), `progress.json`, the moving average, and each process's position in the data.
It is written under a temporary name and renamed when every process is done; only then are older
states removed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from pretrain.training.processes import Processes
from pretrain.training.run_folder import PARTIAL, STATE_PREFIX, STATES, RunFolderError, latest_state
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
        data_pass: how often the data were gone through (never, if they are resampled).
        audio_s: seconds of audio trained on, over all processes.
        trained_s: seconds that the run has taken, over all its sessions.
        best: the kept encoders as [score, name, validation loss], best first.
        skipped: members and shards left out so far, by reason.
    """

    iteration: int = 0
    epoch: int = 0
    epoch_start: int = 0
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

    def save(self, progress: Progress, own: Any) -> Path:
        """Write the state after `progress.iteration` optimizer steps; all processes must call this.

        Args:
            progress: how far the run has come.
            own: what this process alone knows, its position in the data above all.

        Raises:
            RunFolderError: it could not be written. The state before it is intact.
        """
        main = self.accelerator.is_main_process
        path = self.run_dir / STATES / f"{STATE_PREFIX}{progress.iteration:08d}"
        partial = path.with_name(f".{path.name}{PARTIAL}")
        self._reported(path, lambda: self._new_folder(partial) if main else None)
        self._reported(path, lambda: self._write(partial, progress, own))
        self._reported(path, lambda: self._publish(partial, path) if main else None)
        return path

    def _write(self, partial: Path, progress: Progress, own: Any) -> None:
        save_state(self.accelerator, partial)
        torch.save(own, partial / self._own_file)
        if self.accelerator.is_main_process:
            if self.ema is not None:
                torch.save(self.ema.state_dict(), partial / EMA_FILE)
            (partial / PROGRESS_FILE).write_text(json.dumps(dataclasses.asdict(progress), indent=1))

    @staticmethod
    def _new_folder(partial: Path) -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)

    @staticmethod
    def _publish(partial: Path, path: Path) -> None:
        older = [state for state in path.parent.glob(f"{STATE_PREFIX}*") if state != path]
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
        for state in older:
            shutil.rmtree(state)

    def _reported(self, path: Path, action: Callable[[], Any]) -> None:
        """Do something on every process; if it fails on one, remove what was written and say so on all."""

        def act() -> None:
            try:
                action()
            except Exception as error:
                raise RunFolderError(self._failure(path, error)) from error

        try:
            self.processes.agreed(act)
        except RunFolderError:
            shutil.rmtree(path.with_name(f".{path.name}{PARTIAL}"), ignore_errors=True)
            raise

    def _failure(self, path: Path, error: Exception) -> str:
        before = latest_state(self.run_dir)
        kept = "there is none before it" if before is None else f"{before} is intact"
        return (
            f"could not write the training state {path}: {error}; {kept}. Make room and go on with --resume"
        )

    @property
    def _own_file(self) -> str:
        return f"process_{self.accelerator.process_index}.pt"

    def load(self, progress: Progress) -> Any:
        """Put the newest state into the model, the optimizer and `progress`.

        Returns:
            What this process has saved of its own; None if there is no state, or none of this process.
        """
        path = latest_state(self.run_dir)
        if path is None:
            logger.info("There is no saved state in %s; beginning anew", self.run_dir)
            return None
        saved = Progress(**json.loads((path / PROGRESS_FILE).read_text()))
        self.accelerator.load_state(str(path))
        if self.ema is not None:
            self.ema.load_state_dict(torch.load(path / EMA_FILE, map_location="cpu", weights_only=True))
        for name, value in dataclasses.asdict(saved).items():
            setattr(progress, name, value)
        logger.info("Resuming from %s, %d iterations done", path, progress.iteration)
        own = path / self._own_file
        return torch.load(own, weights_only=True) if own.exists() else None
