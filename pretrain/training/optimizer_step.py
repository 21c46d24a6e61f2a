"""One optimizer step: batches in, better weights out."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel

from hear_dasheng.compute.transfer import HostCopy
from pretrain.shards import Batch
from pretrain.training.objective import Objective
from pretrain.training.processes import Processes
from pretrain.training.schedule import Schedule


class NonFiniteLoss(RuntimeError):
    """The loss is infinite or not a number; the message says where."""


@dataclass
class StepReport:
    """What one process knows of a step.

    Attributes:
        iteration: the step's number, from 0.
        lr: its learning rate.
        clips: of this process.
        keys: their names.
        scalars: the sum of this process's clip losses, then the gradient's norm where it is clipped; on their
            way from the device.
    """

    iteration: int
    lr: float
    clips: int
    keys: list[str]
    scalars: HostCopy

    def grad_norm(self) -> float | None:
        """Return the gradient's norm before clipping; None if nothing is clipped."""
        _, *norm = self.scalars.read()
        return norm[0] if norm else None

    def loss_sum(self) -> float:
        """Return the sum of the clips' losses.

        Raises:
            NonFiniteLoss: it is infinite or not a number.
        """
        value = self.scalars.read()[0]
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
        random = self.random_numbers(self.config.seed, self.processes.rank, iteration)
        loss = torch.zeros((), device=self.accelerator.device)
        for index, batch in enumerate(batches):
            is_last = index == len(batches) - 1 and not self._n_passes_without_data(batches)
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                losses = self._losses(batch, random)
                self.accelerator.backward(losses.sum() * (self.processes.count / all_clips))
            loss += losses.detach().sum()
        for remaining in reversed(range(self._n_passes_without_data(batches))):
            with self.accelerator.no_sync(self.model) if remaining else nullcontext():
                self._take_part_without_data(random)
        scalars = [loss]
        if self.config.gradient_clip_norm is not None:
            scalars.append(self._clip_gradient(self.config.gradient_clip_norm))
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update_parameters(self.objective.result_of(self.bare_model))
        keys = [key for batch in batches for key in batch.keys]
        return StepReport(iteration, lr, len(keys), keys, HostCopy(scalars))

    def _n_passes_without_data(self, batches: list[Batch]) -> int:
        """Return how often this process must compute something although it has no more batches.

        DDP needs one backward pass of each process. With FSDP all processes gather each block's weights
        together in every pass, so all need as many passes, also those whose data end earlier.
        """
        if self.accelerator.is_fsdp2:
            return self.config.gradient_accumulation - len(batches)
        return 0 if batches else 1

    def _clip_gradient(self, largest_norm: float) -> Tensor:
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), largest_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

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
