"""A config -> the encoder, and Accelerate as the config wants it."""

from __future__ import annotations

import dataclasses
import logging
import os
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    ProjectConfiguration,
    parse_flag_from_env,
)
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hear_dasheng.blocks import Block
from hear_dasheng.checkpoint import load_encoder
from hear_dasheng.compute.measure import available_memory_bytes
from hear_dasheng.download import locate
from hear_dasheng.encoder import Encoder
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.published_options import config_of_kwargs, encoder_kwargs
from pretrain.training import sharding
from pretrain.training.config import DEFAULT_TIMEOUT_MIN, RunConfig
from pretrain.training.precision import Precision, training_precision
from pretrain.training.read_config import ConfigError

logger = logging.getLogger(__name__)

ACCUMULATION = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
"""The environment variable for what `gradient_accumulation` of the config is for."""
LARGEST_ENCODER = 2**40
"""Weights of an encoder that no device holds; torch cannot even compute the sizes of much larger tensors."""


def must_use_cpu() -> bool:
    """Whether there is no accelerator, or `accelerate launch --cpu` forbids it."""
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def join_processes(timeout_min: float = DEFAULT_TIMEOUT_MIN) -> PartialState:
    """Join the processes that a launcher started; joined ones stay as they are.

    Args:
        timeout_min: minutes after which a collective operation that not all have entered is an error.
    """
    return PartialState(cpu=must_use_cpu(), timeout=timedelta(minutes=timeout_min))


def run_precision(config: RunConfig) -> Precision:
    """Return the precision in which a run trains on this machine."""
    device_type = "cpu" if must_use_cpu() else torch.accelerator.current_accelerator().type
    return training_precision(config.precision, device_type)


def new_accelerator(config: RunConfig, run_dir: Path) -> Accelerator:
    """Return an Accelerator for this config; `accelerate launch` decides what the config leaves open.

    Raises:
        ConfigError: this machine cannot compute in that precision, lacks a tracker, or cannot shard.
    """
    if config.ema_decay is not None and config.fsdp:
        raise ConfigError("ema_decay does not work with fsdp: no process holds the whole encoder")
    sharding.check_sharding(config.fsdp, join_processes(config.process_timeout_min))
    _warn_of_ignored_accumulation()
    fsdp = sharding.new_fsdp_plugin() if config.fsdp else None
    try:
        with sharding.unchanged_environment():
            accelerator = Accelerator(
                cpu=must_use_cpu(),
                mixed_precision=run_precision(config).accelerates,
                log_with=config.trackers or None,
                project_config=ProjectConfiguration(project_dir=str(run_dir), logging_dir=str(run_dir)),
                fsdp_plugin=fsdp,
                dynamo_backend="inductor" if config.compile else None,
                kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
                # Without a plugin, Accelerate divides each loss by the environment's number.
                gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            )
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"precision {config.precision!r} and trackers {config.trackers}: {error}"
        ) from error
    if fsdp is not None:
        sharding.activate(accelerator, fsdp)
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; on a CPU choose bf16 or fp32")
    unknown = set(config.trackers) - {tracker.value for tracker in accelerator.log_with if tracker} - {"all"}
    if unknown:
        raise ConfigError(
            f"trackers {sorted(unknown)} are not installed here; install them, or leave them out"
        )
    return accelerator


def _warn_of_ignored_accumulation() -> None:
    steps = os.environ.get(ACCUMULATION, "1")
    if steps != "1":
        logger.warning("%s=%s is ignored; the config's gradient_accumulation decides", ACCUMULATION, steps)


def locate_start(init_from: str) -> Path:
    """The local path of the checkpoint that a run starts from.

    Raises:
        ConfigError: it is not there and cannot be fetched.
    """
    try:
        return locate(init_from)
    except OSError as error:
        raise ConfigError(f"init_from {init_from}: {error}") from error


class EncoderStart:
    """The encoder that a config describes, as training begins; `init_from` is read once.

    Args:
        config: of the run.

    Attributes:
        config: the encoder's: the size's or else that of `init_from`, with the options of `model_args`.

    Raises:
        ConfigError: an option is unknown or impossible, or `init_from` is another model or not there.
    """

    def __init__(self, config: RunConfig) -> None:
        self._run = config
        self._loaded = self._load()
        start = self._loaded.config if config.size is None else EncoderConfig.of_size(config.size)
        try:
            self.config = config_of_kwargs(encoder_kwargs(start) | dict(config.encoder_options))
        except ValueError as error:
            raise ConfigError(f"model_args: {error}") from error
        self._check_size(LARGEST_ENCODER, "are more than any device holds")
        dropouts = {"dropout": self.config.dropout, "attention_dropout": self.config.attention_dropout}
        if self._loaded is not None:
            theirs = self._loaded.config
            if dataclasses.replace(theirs, **dropouts) != self.config:  # no weight knows of dropout
                raise ConfigError(
                    f"init_from {config.init_from} holds {theirs}, but the config describes {self.config}"
                )

    def _load(self) -> Encoder | None:
        init_from = self._run.init_from
        return None if init_from is None else load_encoder(locate_start(init_from))

    def _check_size(self, most: float, where: str) -> None:
        if (weights := fewest_weights(self.config)) > most:
            raise ConfigError(
                f"model_args {dict(self._run.encoder_options)} make an encoder of {weights:.3g} weights "
                f"({4 * weights / 2**30:,.1f} GiB), which {where}; lower embed_dim, depth, mlp_ratio or "
                "target_length"
            )

    def new_encoder(self) -> Encoder:
        """The encoder with weights drawn from the config's seed, or from `init_from`.

        torch's random numbers go on from there, so that what is built next depends on the seed too.
        What was read is let go of; called again, it is read again.

        Raises:
            ConfigError: a crop does not fit the encoder, or the encoder does not fit the memory.
        """
        run, memory_bytes = self._run, available_memory_bytes()
        self._check_size(memory_bytes / 4, f"do not fit the {memory_bytes / 2**30:,.1f} GiB that are free")
        tokens, window = self.config.n_tokens(run.chunk_samples), self.config.window_tokens
        if tokens > window:
            raise ConfigError(
                f"chunk_length {run.chunk_length} s gives {tokens} tokens, but the model has "
                f"positions for {window}; shorten it, or lengthen model_args.target_length"
            )
        torch.manual_seed(run.seed)
        encoder = Encoder(self.config)
        if run.init_from is not None:
            encoder.load_state_dict((self._loaded or self._load()).state_dict())
            self._loaded = None
        return encoder


def fewest_weights(config: EncoderConfig) -> int:
    """Return how many weights the large tensors of an encoder have; biases and norms come on top.

    >>> f"{fewest_weights(EncoderConfig.of_size('base')):,}"
    '85,324,800'
    """
    block = 4 * config.dim**2 + 2 * config.dim * int(config.mlp_ratio * config.dim)
    patch_values = config.patch_mels * config.patch_frames
    return config.depth * block + config.dim * (config.window_moments + patch_values)


def checkpoint_activations(model: nn.Module) -> None:
    """Make each block compute its activations twice instead of keeping them."""
    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, Block))


def new_moving_average(result: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of what a run keeps, running statistics included."""
    return AveragedModel(result, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
