"""FSDP2 for a training run: weights, gradients and optimizer state are sharded over its processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.fsdp import MixedPrecisionPolicy

from hear_dasheng.blocks import Block
from pretrain.training.read_config import ConfigError

USE_FSDP = "ACCELERATE_USE_FSDP"
"""The environment variable by which `accelerate launch` asks for FSDP, and which Accelerate itself sets."""


def check_sharding(fsdp: bool, state: PartialState) -> None:
    """Check that the config and the launcher agree on FSDP, and that it can work with these processes.

    Raises:
        ConfigError: they disagree, there is one process alone, or FSDP would use another device.
    """
    if not fsdp:
        if parse_flag_from_env(USE_FSDP):
            raise ConfigError(
                f"`accelerate launch` asks for FSDP ({USE_FSDP}=true), but the config has fsdp: false; "
                "set fsdp: true, or launch without --use_fsdp"
            )
        return
    if state.num_processes == 1:
        raise ConfigError(
            "fsdp: true shards a model over several processes, but this run has one; launch several "
            "(accelerate launch --multi_gpu --num_processes 8, or torchrun), or set fsdp: false"
        )
    if state.device.type == "cpu" and torch.accelerator.is_available():
        # fully_shard puts its shards on torch's current accelerator, whatever Accelerate's device is.
        raise ConfigError(
            "fsdp: true cannot use the CPU where torch sees a GPU; hide it (CUDA_VISIBLE_DEVICES=''), "
            "or set fsdp: false"
        )


def new_fsdp_plugin() -> FullyShardedDataParallelPlugin:
    """Return Accelerate's settings for FSDP2: each transformer block is a unit, the rest is another.

    The mixed-precision policy is empty, so that autocast alone chooses precisions, as without FSDP. By
    default Accelerate derives one from the run's precision, which casts the waveforms and `init_bn` to bf16.
    """
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=[Block.__name__],
        mixed_precision_policy=MixedPrecisionPolicy(),
        state_dict_type="SHARDED_STATE_DICT",
        reshard_after_forward=True,
    )


@contextmanager
def unchanged_environment() -> Iterator[None]:
    """Undo Accelerate's change of `USE_FSDP`, from which the process's next run would take FSDP."""
    before = os.environ.get(USE_FSDP)
    try:
        yield
    finally:
        os.environ.pop(USE_FSDP, None)
        if before is not None:
            os.environ[USE_FSDP] = before


def activate(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Make sure that an accelerator uses FSDP2, on CPU processes too.

    Accelerate 1.15 accepts the plugin for each kind of accelerator (`AcceleratorState.__init__`) but ignores
    it for MULTI_CPU. The rest of its FSDP2 code works there: it looks at nothing but the distributed type.

    Raises:
        ConfigError: these processes are of a kind for which Accelerate has no FSDP.
    """
    state = accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.fsdp_plugin = plugin
        state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    if not accelerator.is_fsdp2:
        raise ConfigError(
            f"fsdp: true does not work with processes of the kind {state.distributed_type.value}; "
            "set fsdp: false"
        )


def broadcast_buffers(accelerator: Accelerator, model: nn.Module) -> None:
    """Give all processes the buffers of the first one, if FSDP is used; all must call this together.

    FSDP shards parameters only, so each process has BatchNorm statistics of its own. DDP (and with it the
    published trainer) broadcasts those of the first process before every forward pass. Training does not read
    them, so it is enough to do the same before validating and saving.
    """
    if accelerator.is_fsdp2:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def save_state(accelerator: Accelerator, folder: Path) -> None:
    """Write Accelerate's part of a training state; all processes must call this together.

    torch raises a failure to write sharded tensors as a BaseException, on all processes; here it is raised as
    the error that the process had.
    """
    try:
        accelerator.save_state(str(folder))
    except CheckpointException as error:
        first, _ = next(iter(error.failures.values()))
        raise first from error
