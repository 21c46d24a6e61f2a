"""Estimate the memory of a run on each of its devices, and what would make it fit."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from hear_dasheng.blocks import Block
from hear_dasheng.compute.measure import container_limit
from pretrain.training.objective import Objective
from pretrain.training.precision import Precision
from pretrain.training.read_config import ConfigError, optimizer_class
from pretrain.training.step_cost import StepCost, count_step

GIB = 2**30
FP32_BYTES = 4
GPU_ALLOWANCE_BYTES = GIB
"""For CUDA's context, cuBLAS' and NCCL's buffers: an assumption, which only a GPU can check."""
FRAGMENTED_PART = 0.05
"""Part of a GPU's memory lost between the allocator's blocks: an assumption as well."""
EIGHT_BIT_MIN_VALUES, EIGHT_BIT_BLOCK = 4096, 256
"""bitsandbytes keeps 32-bit state for smaller tensors, and one fp32 scale for each block of others."""


class Device(NamedTuple):
    """What a process of the run trains on.

    Attributes:
        name: for people.
        memory_bytes: what one process may use.
        is_gpu: whether it is one.
        is_here: whether it belongs to this machine.
    """

    name: str
    memory_bytes: float
    is_gpu: bool
    is_here: bool = True


@dataclass(frozen=True)
class Setting:
    """What a user can change to make a run fit."""

    precision: Precision
    batch_size: int
    gradient_accumulation: int
    activation_checkpointing: bool
    fsdp: bool
    processes: int


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the peak of a step."""

    weights: float
    gradients: float
    optimizer: float
    moving_average: float
    unsharded: float
    activations: float
    temporaries: float
    allowance: float

    @property
    def total(self) -> float:
        """The sum, an upper bound: gradients count in full beside all activations."""
        return sum(vars(self).values())


class Estimator:
    """Memory and FLOP of a run under different settings.

    Args:
        objective: of the run.
        device: of each process.
        own_bytes: memory of a process before training, on a CPU.
    """

    def __init__(self, objective: Objective, device: Device, own_bytes: int) -> None:
        self.objective, self.config = objective, objective.config
        self.device, self._own_bytes = device, own_bytes
        self.model = objective.model_without_weights()
        self._cost_of: dict[tuple[int, bool, torch.dtype | None], StepCost] = {}

    def cost(self, setting: Setting) -> StepCost:
        """Return the cost of one batch of one process."""
        key = (setting.batch_size, setting.activation_checkpointing, setting.precision.autocast_dtype)
        if key not in self._cost_of:
            self._cost_of[key] = count_step(
                self.objective,
                setting.batch_size,
                setting.precision.autocast_dtype,
                activation_checkpointing=setting.activation_checkpointing,
                is_on_gpu=self.device.is_gpu,
            )
        return self._cost_of[key]

    def memory(self, setting: Setting) -> Memory:
        """Return the memory of one process."""
        parameters = list(self.model.parameters())
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        shared_by = setting.processes if setting.fsdp else 1
        state = sum(self._state_bytes(parameter, setting) for parameter in learning)
        kept = self.objective.result_of(self.model)
        average = bytes_of([*kept.parameters(), *kept.buffers()]) if self.config.ema_decay else 0
        cost, device = self.cost(setting), self.device
        gpu_allowance = GPU_ALLOWANCE_BYTES + FRAGMENTED_PART * device.memory_bytes
        return Memory(
            weights=bytes_of(parameters) / shared_by,
            gradients=bytes_of(learning) / shared_by,
            optimizer=state / shared_by,
            moving_average=average,
            unsharded=self._unsharded_bytes() if setting.fsdp else 0,
            activations=cost.activation_bytes,
            temporaries=cost.temporary_bytes,
            allowance=gpu_allowance if device.is_gpu else self._own_bytes,
        )

    def fits(self, memory: Memory) -> bool:
        """Return whether a process's memory suffices."""
        return memory.total <= self.device.memory_bytes

    def uses_8bit(self, setting: Setting) -> bool:
        """Return whether the optimizer's state has 8 bits: with bitsandbytes, on a GPU, without FSDP."""
        can_be = self.device.is_gpu and not setting.fsdp
        has_package = not self.device.is_here or importlib.util.find_spec("bitsandbytes") is not None
        return self.config.optimizer.endswith("8bit") and can_be and has_package

    def _state_bytes(self, parameter: nn.Parameter, setting: Setting) -> float:
        n_bytes = state_bytes(self.config.optimizer, tuple(parameter.shape))
        if self.uses_8bit(setting) and parameter.numel() >= EIGHT_BIT_MIN_VALUES:
            return n_bytes / FP32_BYTES * (1 + FP32_BYTES / EIGHT_BIT_BLOCK)
        return n_bytes

    def _unsharded_bytes(self) -> float:
        """Return what FSDP gathers: weights and gradients of two blocks, and those outside all blocks."""
        blocks = [module for module in self.model.modules() if isinstance(module, Block)]
        of_blocks = sorted(bytes_of(block.parameters()) for block in blocks)
        outside = bytes_of(self.model.parameters()) - sum(of_blocks)
        return 2 * (sum(of_blocks[-2:]) + outside)

    def remedies(self, setting: Setting) -> Iterator[tuple[str, Setting]]:
        """Yield settings that need less memory, each with the options that choose it."""
        if setting.precision.autocast_dtype is None and self.device.is_gpu:
            yield "--precision bf16", replace(setting, precision=Precision("bf16", "a remedy"))
        checkpointed = replace(setting, activation_checkpointing=True)
        if not setting.activation_checkpointing:
            yield "--activation_checkpointing true", checkpointed
        if not setting.fsdp and self.device.is_gpu and self.config.ema_decay is None:
            processes = max(setting.processes, 8) if setting.processes == 1 else setting.processes
            sharded = replace(setting, fsdp=True, processes=processes)
            yield f"--fsdp true, on {processes} processes", sharded
        for base, also in ((setting, ""), (checkpointed, "--activation_checkpointing true ")):
            smaller = self._smaller_batch(base)
            if smaller is not None and (base is setting or not setting.activation_checkpointing):
                options = f"--batch_size {smaller.batch_size} "
                yield f"{also}{options}--gradient_accumulation {smaller.gradient_accumulation}", smaller

    def _smaller_batch(self, setting: Setting) -> Setting | None:
        """Return the largest half, quarter, ... of the batch that fits, accumulated to the same step.

        Activations grow linearly with the batch, so that two counts decide; None: not even one clip fits.
        """
        one = self.memory(replace(setting, batch_size=1)).total
        each = (self.memory(setting).total - one) / max(setting.batch_size - 1, 1)
        size = setting.batch_size
        while size > 1 and size % 2 == 0:
            size //= 2
            if one + each * (size - 1) <= self.device.memory_bytes:
                times = setting.batch_size // size
                accumulation = setting.gradient_accumulation * times
                return replace(setting, batch_size=size, gradient_accumulation=accumulation)
        return None


def bytes_of(tensors: object) -> int:
    """Return the bytes of tensors, which may be on the meta device."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@cache
def state_bytes(optimizer: str, shape: tuple[int, ...]) -> int:
    """Return the bytes of an optimizer's 32-bit state for a parameter, from one step on zeros.

    Raises:
        ConfigError: the optimizer cannot take such a step.
    """
    parameter = nn.Parameter(torch.zeros(shape))
    parameter.grad = torch.zeros(shape)
    try:
        stepper = optimizer_class(optimizer)([parameter], lr=1e-3)
        stepper.step()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"optimizer {optimizer} cannot train a tensor of shape {shape}: {error}") from error
    return bytes_of(value for value in stepper.state[parameter].values() if isinstance(value, torch.Tensor))


def machine_memory_bytes() -> int:
    """Return this machine's memory, or what its container may use of it."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = container_limit("memory.max")
    return installed if limit is None else min(installed, limit)


def own_memory_bytes() -> int:
    """Return the resident memory of this process, which has imported all that a run imports."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
