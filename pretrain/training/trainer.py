"""The training loop: batches in, steps, and now and then a look back and a saved state."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from hear_dasheng.compute.precision import fp32_arithmetic
from pretrain.reading.skip_log import NoUsableAudio
from pretrain.training.build import checkpoint_activations, new_moving_average, run_precision
from pretrain.training.data import TrainingData
from pretrain.training.encoders import remove_others
from pretrain.training.epoch_end import EpochEnd
from pretrain.training.journal import Journal
from pretrain.training.objective import Objective
from pretrain.training.optimizer_step import NonFiniteLoss, OptimizerStep, StepReport
from pretrain.training.optimizers import new_optimizer
from pretrain.training.processes import Processes, StopRequest
from pretrain.training.schedule import new_schedule
from pretrain.training.sharding import broadcast_buffers
from pretrain.training.state import Progress, TrainingState

logger = logging.getLogger(__name__)


class Trainer:
    """One run, in one of its processes.

    Args:
        objective: what to train; its config says on what.
        run_dir: where everything goes.
        accelerator: from `new_accelerator`.
        processes: of the run.
    """

    def __init__(
        self, objective: Objective, run_dir: Path, accelerator: Accelerator, processes: Processes
    ) -> None:
        config = objective.config
        self.objective, self.config = objective, config
        self.run_dir, self.accelerator, self.processes = run_dir, accelerator, processes
        self.progress, self.precision = Progress(), run_precision(config)
        is_on_gpu = accelerator.device.type == "cuda"
        self.data = TrainingData(config, processes, is_on_gpu, objective.training_labels)
        self.schedule = new_schedule(config, self.data.planned_iterations())
        bare_model = objective.new_model()
        if config.activation_checkpointing:
            checkpoint_activations(bare_model)
        self.epoch_end = EpochEnd(objective, run_dir, accelerator, processes)
        self.model, optimizer = accelerator.prepare(
            bare_model, new_optimizer(bare_model, config, accelerator.device)
        )
        self.ema = None
        if config.ema_decay is not None:
            self.ema = new_moving_average(objective.result_of(bare_model), config.ema_decay)
        self.step = OptimizerStep(
            objective, accelerator, self.model, bare_model, optimizer, self.schedule, self.ema, processes
        )
        self.state = TrainingState(run_dir, accelerator, processes, self.ema)
        self._is_saved = False
        self._unread: StepReport | None = None
        self._failure: Exception | None = None
        self._last_step: dict[str, float] = {}
        self._unlogged = [0.0, 0.0]
        self._introduce(objective.description(bare_model))

    def _introduce(self, model: str) -> None:
        """Log what is about to be trained, on what."""
        config, accelerator = self.config, self.accelerator
        logger.info("Run folder: %s", self.run_dir)
        logger.info("%s", model)
        logger.info(
            "%d iterations of %d x %d crops of %g s, from %d shards; %d process(es) on %s, precision %s (%s)",
            self.schedule.iterations,
            self.processes.count,
            config.batch_size * config.gradient_accumulation,
            config.chunk_length,
            self.data.n_shards,
            self.processes.count,
            accelerator.device,
            *self.precision,
        )

    def run(self, resume: bool, stop: StopRequest) -> bool:
        """Train to the end, True; or until a process was told to stop, and save the state, False."""
        progress = self.progress
        own = (self.state.load(progress) if resume else None) or {}
        self._unlogged = own.get("unlogged", self._unlogged)
        self._last_step = own.get("last_step", self._last_step)
        if progress.iteration:
            self.data.resume(progress.data_pass, own.get("position"), progress.iteration, progress.skipped)
        else:
            self.data.open(progress.data_pass)
        self._started = time.monotonic() - progress.trained_s
        self._saved_at = time.monotonic()
        self.journal = Journal(
            self.run_dir,
            self.accelerator,
            progress.iteration,
            self.schedule.iterations,
            self.objective.name,
            self._is_to_come,
        )
        try:
            with fp32_arithmetic(allow_tf32=self.precision.allows_tf32):
                self.model.train()
                if progress.is_epoch_end_due:
                    self._finish_epoch()
                elif own and self.accelerator.is_main_process:  # it was killed before it could
                    remove_others(progress.best, self.run_dir)
                while progress.epoch < self.config.epochs:
                    if self._advance(stop) and progress.epoch < self.config.epochs:
                        self._save()
                        self.epoch_end.write_last(self.model)
                        logger.info("Stopped after %d iterations; --resume goes on", progress.iteration)
                        return False
                self.epoch_end.finish(progress, self.journal)
            return True
        finally:
            self.journal.close()

    def _advance(self, stop: StopRequest) -> bool:
        """One iteration, with the end of the epoch if it is the last; True if a process was told to stop."""
        config, progress = self.config, self.progress
        batches, failure = [], self._failure
        try:
            batches = self.data.take(config.gradient_accumulation)
        except NoUsableAudio as error:  # the others are told, instead of waiting for this process
            failure = error
        own_clips = sum(len(batch.keys) for batch in batches)
        clips, stops, saves, failures = self.processes.sums(
            [own_clips, stop.signal is not None, self._is_save_due(), failure is not None]
        )
        if failures:
            self.processes.raise_first(failure)
        self.data.count(clips)
        self._is_saved = False
        if clips:
            report = self.step(progress.iteration, batches, clips)
            progress.iteration += 1
            progress.audio_s += clips * config.chunk_length
            try:
                self._read_own()
            except NonFiniteLoss as error:  # reported to all before the next step
                self._failure = error
            self._unread = report
            is_epoch_over = progress.iteration - progress.epoch_start == config.epoch_length
            if progress.iteration % config.log_every == 0 or is_epoch_over:
                self._log()
            is_at_interval = config.save_every and progress.iteration % config.save_every == 0
            if (is_at_interval or saves) and not is_epoch_over:
                self._save()
        else:
            progress.data_pass += 1
            self.data.open(progress.data_pass)
            is_epoch_over = config.epoch_length is None
            is_begun = progress.iteration > progress.epoch_start
            if is_epoch_over and is_begun and progress.iteration % config.log_every:
                self._log()
        if is_epoch_over:
            self._end_epoch()
        return stops > 0

    def _read(self) -> None:
        """Read the last step's loss; all processes must call this.

        Raises:
            NonFiniteLoss: it is not finite on some process; raised on all.
        """
        self.processes.raise_first(self._failure)  # first: it made all processes' next loss not finite
        self.processes.agreed(self._read_own)

    def _read_own(self) -> None:
        """Read this process's loss of the step that was reported last."""
        report, self._unread = self._unread, None
        if report is None:
            return
        loss_sum = report.loss_sum()
        self._last_step = {"lr": report.lr}
        if (norm := report.grad_norm()) is not None:
            self._last_step["grad_norm"] = norm
        self._unlogged[0] += loss_sum
        self._unlogged[1] += report.clips
        audio_s = self.progress.audio_s / self.progress.iteration
        self.journal.step(loss_sum / max(report.clips, 1), report.lr, audio_s)

    def _log(self) -> None:
        """Write a line of metrics, the mean loss since the line before and what the last step had."""
        self._read()
        total, clips = self.processes.sums(self._unlogged)
        self._unlogged = [0.0, 0.0]
        if not clips:  # resumed after the last step, by other processes, which know no loss
            return
        values = {"loss": total / clips, "epoch": self.progress.epoch} | self._last_step
        hours = self.progress.audio_s / 3600
        skipped = self.data.skipped()
        self.journal.write(self.progress.iteration, **values, audio_h=round(hours, 4), skipped=skipped)
        if skipped != self.progress.skipped:
            logger.warning("Left out so far: %s", ", ".join(f"{n} x {why}" for why, n in skipped.items()))
            self.progress.skipped = skipped

    def _end_epoch(self) -> None:
        progress = self.progress
        progress.epoch += 1
        progress.epoch_start = progress.iteration
        progress.is_epoch_end_due = True
        self._save()
        self._finish_epoch()

    def _finish_epoch(self) -> None:
        """Do what is due after an epoch, and save that it is done; a run killed on the way does it again."""
        self.epoch_end(self.model, self.ema, self.progress, self.journal)
        self.progress.is_epoch_end_due = False
        self.processes.agreed(self._keep_progress)

    def _keep_progress(self) -> None:
        """Save that the epoch's end is done, on the first process; then remove encoders of the past."""
        if self.accelerator.is_main_process:
            self.state.save_progress(self.progress)
            remove_others(self.progress.best, self.run_dir)

    def _is_to_come(self, line: dict[str, Any]) -> bool:
        """Whether a resumed run will write this line of metrics again."""
        progress = self.progress
        if line["iteration"] != progress.iteration:
            return line["iteration"] > progress.iteration
        if "loss" in line:
            return self._unlogged[1] > 0
        return progress.is_epoch_end_due and line["epoch"] == progress.epoch

    def _is_save_due(self) -> bool:
        """Whether the last state is old enough, by the first process's clock."""
        minutes = self.config.save_every_minutes
        is_asked = minutes is not None and self.processes.rank == 0
        return is_asked and time.monotonic() - self._saved_at >= 60 * minutes

    def _save(self) -> None:
        """Write the state, unless there is one of this very moment."""
        if self._is_saved:
            return
        self._read()
        broadcast_buffers(self.accelerator, self.model)
        self.progress.trained_s = time.monotonic() - self._started
        own = {"position": self.data.position(), "unlogged": self._unlogged, "last_step": self._last_step}
        self.state.save(self.progress, own)
        self._saved_at = time.monotonic()
        self._is_saved = True
