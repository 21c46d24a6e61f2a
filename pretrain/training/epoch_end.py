"""What happens after an epoch, once its state is saved: validation, the probe, kept weights, pictures.

A run that is killed on the way does all of it again when it is resumed, so each step replaces what it wrote
before, and none leaves a trace in the training that follows.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pretrain.shards import CropBatches, NoUsableAudio
from pretrain.training import encoders
from pretrain.training.config import SCORES
from pretrain.training.data import configured_sources
from pretrain.training.journal import Journal, read_metrics
from pretrain.training.knn_probe import knn_accuracy, labelled_files, probe_options
from pretrain.training.objective import Objective
from pretrain.training.pictures import draw_loss_curve
from pretrain.training.processes import Processes
from pretrain.training.run_folder import BEST, PICTURES
from pretrain.training.state import Progress
from pretrain.training.validation import validate

logger = logging.getLogger(__name__)

LAST, AVERAGED, EMA = "last", "averaged", "ema"
COMPILED = "_orig_mod."
"""What torch.compile puts before the names of weights."""


class EpochEnd:
    """Looks at the model between epochs; all processes must call its methods together."""

    def __init__(
        self,
        objective: Objective,
        run_dir: Path,
        accelerator: Accelerator,
        processes: Processes,
    ) -> None:
        self.objective, self.config, self.run_dir = objective, objective.config, run_dir
        self.accelerator, self.processes = accelerator, processes
        config = self.config
        self.batches = self._validation_batches(
            config.batch_size, processes, config.num_workers, pin_memory=accelerator.device.type == "cuda"
        )
        self.knn_files = labelled_files(config.knn_data) if config.knn_data else []

    def _validation_batches(
        self, batch_size: int, processes: Processes, n_workers: int, pin_memory: bool = False
    ) -> CropBatches:
        return CropBatches(
            configured_sources(self.config, "cv_data"),
            batch_size=batch_size,
            chunk_samples=self.config.chunk_samples,
            sample_rate_hz=self.config.sample_rate,
            shuffle_crops=0,
            resampled=False,
            seed=self.config.seed,
            rank=processes.rank,
            n_ranks=processes.count,
            n_workers=n_workers,
            pin_memory=pin_memory,
            clip_labels=self.objective.validation_labels,
            max_member_bytes=self.config.max_member_mib << 20,
        )

    def __call__(
        self, model: nn.Module, ema: AveragedModel | None, progress: Progress, journal: Journal
    ) -> None:
        """Validate after `progress.epoch` epochs, and write what is to be kept.

        A probe or a picture that fails is reported as a warning.
        """
        started = time.monotonic()
        scores: dict[str, float] = {}
        with _same_random_numbers_after(self.accelerator.device):
            if progress.epoch % self.config.valid_every == 0:
                scores |= validate(model, self.objective, self.batches, self.accelerator, self.processes)
            copy = self._copy_on_main(model)
            self.processes.agreed(lambda: self._keep(copy, ema, scores, progress, journal, started))

    def _keep(
        self,
        copy: nn.Module | None,
        ema: AveragedModel | None,
        scores: dict[str, float],
        progress: Progress,
        journal: Journal,
        started: float,
    ) -> None:
        """Write and draw what the first process keeps; the others, which have no copy, keep nothing."""
        if copy is None:
            return
        config, result = self.config, self.objective.result_of(copy)
        self._write_last(result)
        if self.knn_files and progress.epoch % config.knn_every == 0:
            scores |= self._probed()
        self._keep_if_among_the_best(result, scores, progress)
        if ema is not None:
            self.objective.write(ema.module, self.run_dir / EMA)
        if scores:
            logger.info("Epoch %d of %d: %s", progress.epoch, config.epochs, _in_words(scores))
            seconds = round(time.monotonic() - started, 2)
            journal.write(progress.iteration, epoch=progress.epoch, validation_s=seconds, **scores)
        self._draw(copy, scores, progress)

    def check_data(self) -> None:
        """Read one clip of the validation data, so that data without any stop the run before it begins.

        Raises:
            NoUsableAudio: no process finds a usable clip; raised on all of them.
        """
        batches = self._validation_batches(1, self.processes, 0)
        first = self.processes.agreed(lambda: next(iter(batches), None))
        if not self.processes.sums([first is not None])[0]:
            found = self.processes.merged(batches.skipped_total)
            self.processes.raise_first(
                NoUsableAudio(f"not one clip of cv_data {self.config.cv_data} could be used: {dict(found)}")
            )

    def _probed(self) -> dict[str, float]:
        try:
            options = probe_options(self.accelerator)
            return {"knn_accuracy": knn_accuracy(self.run_dir, self.knn_files, **options)}
        except Exception as error:  # a file that is gone, a device without memory: the epoch must not be lost
            logger.warning("The probe on knn_data %s failed: %s", self.config.knn_data, _reason(error))
            return {}

    def _copy_on_main(self, model: nn.Module) -> nn.Module | None:
        """The whole model on the first process's CPU, however it is distributed."""
        state = self.accelerator.get_state_dict(model)
        if not self.accelerator.is_main_process:
            return None
        weights = {name.removeprefix(COMPILED): value.detach().cpu() for name, value in state.items()}
        return self.objective.copy_of_state(weights)

    def _keep_if_among_the_best(
        self, result: nn.Module, scores: Mapping[str, float], progress: Progress
    ) -> None:
        name, sign = self.config.chosen_by
        score = scores.get(SCORES[name])
        epoch = f"epoch_{progress.epoch:04d}"
        if score is None or not encoders.is_among_best(
            progress.best, sign * score, epoch, self.config.n_saved, scores.get("valid_loss")
        ):
            return
        self.objective.write(result, self.run_dir / BEST / epoch)

    def _write_last(self, result: nn.Module) -> None:
        self.objective.write(result, self.run_dir / LAST)
        encoders.publish(self.run_dir / LAST, self.run_dir)

    def write_last(self, model: nn.Module) -> None:
        """Write the weights as they are now, in the middle of an epoch."""
        copy = self._copy_on_main(model)
        if copy is not None:
            self._write_last(self.objective.result_of(copy))

    def _draw(self, model: nn.Module, scores: Mapping[str, float], progress: Progress) -> None:
        try:
            self._draw_pictures(model, scores, progress)
        except Exception as error:  # whatever matplotlib raises: the epoch must not be lost
            logger.warning("The pictures of epoch %d could not be drawn: %s", progress.epoch, _reason(error))

    def _draw_pictures(self, model: nn.Module, scores: Mapping[str, float], progress: Progress) -> None:
        folder = self.run_dir / PICTURES
        draw_loss_curve(read_metrics(self.run_dir), self.objective.loss_name, folder / "loss.png")
        if not self.objective.picture_clips or "valid_loss" not in scores:
            return
        batch = next(iter(self._validation_batches(self.objective.picture_clips, Processes(), 0)))
        title = (
            f"epoch {progress.epoch}, iteration {progress.iteration}, "
            f"validation loss {scores['valid_loss']:.4f}"
        )
        self.objective.draw(model, batch, title, folder / f"epoch_{progress.epoch:04d}.png")

    def finish(self, progress: Progress, journal: Journal) -> None:
        """Average the best weights, make that average the run's own, and validate it."""
        best = self.processes.gathered(progress.best)[0]  # the first process alone chooses
        folders = [self.run_dir / BEST / entry[1] for entry in best]
        is_average = bool(folders) and self.config.average_final_model
        chosen = folders[0] if folders else self.run_dir / LAST
        if is_average:
            chosen = self.run_dir / AVERAGED
        self.processes.agreed(lambda: self._publish(chosen, folders if is_average else []))
        if is_average and len(folders) > 1:
            self._validate_average(chosen, folders[0].name, progress, journal)
        logger.info("Done. %s", self.objective.farewell(chosen.name, self.run_dir))

    def _publish(self, chosen: Path, averaged: list[Path]) -> None:
        """Make an encoder the run's own, after averaging those that it is made of; on the first process."""
        if not self.accelerator.is_main_process:
            return
        if averaged:
            self.objective.write(encoders.average(averaged, self.objective.load), chosen)
            logger.info("Averaged the %d best: %s", len(averaged), ", ".join(f.name for f in averaged))
        encoders.publish(chosen, self.run_dir)

    def _validate_average(self, average: Path, best: str, progress: Progress, journal: Journal) -> None:
        """Tell how good an average of weights is, beside the best of those that went into it."""
        model = self.objective.validated(self.objective.load(average))
        if model is None:
            return
        model = model.to(self.accelerator.device)
        scores = validate(model, self.objective, self.batches, self.accelerator, self.processes)
        if not self.accelerator.is_main_process:
            return
        lines = read_metrics(self.run_dir)
        alone = next(line for line in lines if "valid_loss" in line and f"epoch_{line['epoch']:04d}" == best)
        names = [name for name in scores if name.startswith("valid_")]
        logger.info("averaged: %s", _in_words({name: scores[name] for name in names}))
        logger.info("%s, the best alone: %s", best, _in_words({name: alone[name] for name in names}))
        values = {f"averaged_{name}": scores[name] for name in names}
        at_end = (line for line in lines if line["iteration"] == progress.iteration)
        if not any(values.keys() <= line.keys() for line in at_end):  # a complete run that was resumed
            journal.write(progress.iteration, epoch=progress.epoch, **values)


@contextmanager
def _same_random_numbers_after(device: torch.device) -> Iterator[None]:
    """Put all random number generators back, so that training goes on as if the block had not been run."""
    python, numpy = random.getstate(), np.random.get_state()
    is_forked_too = device.type not in ("cpu", "mps")
    devices = [device.index or 0] if is_forked_too else []
    try:
        with torch.random.fork_rng(devices, device_type=device.type if is_forked_too else "cuda"):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _in_words(scores: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in scores.items()
    )
