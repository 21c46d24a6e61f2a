"""One optimizer step: batches in, better weights out."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pretrain.shards import Batch
from pretrain.training.objective import Objective
from pretrain.training.processes import Processes
from pretrain.training.schedule import Schedule


class NonFiniteLoss(RuntimeError):
    """The loss is infinite or not a number; the message says where."""


@dataclass
class StepReport:
    """What one process knows of a step; `loss` is read from the device only when asked for.

    Attributes:
        iteration: the step's number, from 0.
        lr: its learning rate.
        loss: sum of this process's clip losses, a scalar on the device.
        clips: of this process.
        keys: their names.
        grad_norm: before clipping, where gradients are clipped.
    """

    iteration: int
    lr: float
    loss: Tensor
    clips: int
    keys: list[str]
    grad_norm: Tensor | None = None

    def loss_sum(self) -> float:
        """The sum of the clips' losses.

        Raises:
            NonFiniteLoss: it is infinite or not a number.
        """
        value = self.loss.item()
        if not math.isfinite(value):
            raise NonFiniteLoss(
                f"the loss is {value} at iteration {self.iteration} (learning rate {self.lr:.3g}) "
                f"on the clips {', '.join(self.keys)}. Look at these clips; a lower optimizer_args.lr, a "
                "longer warm-up or gradient_clip_norm may help. The last saved state is from before this"
            )
        return value


class OptimizerStep:
    """Updates a model; all processes must call it together.

    Args:
        objective: the loss; clipping and the seed are taken from its config.
        accelerator: has prepared `model` and `optimizer`.
        model: the prepared model.
        bare_model: the same one, without what Accelerate put around it.
        optimizer: the prepared optimizer.
        schedule: the learning rates.
        ema: moving average to update, if there is one.
        processes: the run's processes.
    """

    def __init__(
        self,
        objective: Objective,
        accelerator: Accelerator,
        model: nn.Module,
        bare_model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        ema: AveragedModel | None,
        processes: Processes,
    ) -> None:
        self.objective, self.config = objective, objective.config
        self.accelerator, self.processes = accelerator, processes
        self.model, self.bare_model = model, bare_model
        self.optimizer, self.schedule, self.ema = optimizer, schedule, ema

    def __call__(self, iteration: int, batches: list[Batch], all_clips: float) -> StepReport:
        """Step once.

        Args:
            iteration: the step's number; its learning rate and random choices depend on it alone.
            batches: this process's, `gradient_accumulation` of them; fewer where the data end.
            all_clips: clips that all processes have in this step.
        """
        lr = self.schedule.rate(iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        keys = [key for batch in batches for key in batch.keys]
        report = StepReport(iteration, lr, torch.zeros((), device=self.accelerator.device), len(keys), keys)
        random = self.random_numbers(self.config.seed, self.processes.rank, iteration)
        for index, batch in enumerate(batches):
            is_last = index == len(batches) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                losses = self._losses(batch, random)
                self.accelerator.backward(losses.sum() * (self.processes.count / all_clips))
            report.loss += losses.detach().sum()
        if not batches:
            self._take_part_without_data(random)
        if self.config.gradient_clip_norm is not None:
            report.grad_norm = self.accelerator.clip_grad_norm_(
                self.model.parameters(), self.config.gradient_clip_norm
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update_parameters(self.objective.result_of(self.bare_model))
        return report

    @staticmethod
    def random_numbers(seed: int, rank: int, iteration: int) -> torch.Generator:
        """Random numbers of these three alone: a resumed run draws the same."""
        entropy = np.random.SeedSequence((seed, rank, iteration))
        return torch.Generator().manual_seed(int(entropy.generate_state(1)[0]))

    def _losses(self, batch: Batch, random: torch.Generator) -> Tensor:
        with self.accelerator.autocast():
            return self.objective.losses(self.model, batch.to(self.accelerator.device), random)

    def _take_part_without_data(self, random: torch.Generator) -> None:
        """Add nothing to the others' gradients, but be there when they are summed."""
        self.bare_model.encoder.init_bn.eval()
        self.accelerator.backward(self._losses(self.objective.silence(), random).sum() * 0.0)
        self.bare_model.train()
