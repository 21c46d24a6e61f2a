"""A config -> the encoder, and Accelerate as the config wants it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    FullyShardedDataParallelPlugin,
    ProjectConfiguration,
    parse_flag_from_env,
)
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hear_dasheng.blocks import Block
from hear_dasheng.checkpoint import load_encoder
from hear_dasheng.download import locate
from hear_dasheng.encoder import Encoder
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.published_options import config_of_kwargs, encoder_kwargs
from pretrain.training.config import RunConfig
from pretrain.training.read_config import ConfigError

MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16", None: None}


def must_use_cpu() -> bool:
    """Whether there is no accelerator, or `accelerate launch --cpu` forbids it."""
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def join_processes() -> PartialState:
    """Join the processes that a launcher started, before anything else is known of the run."""
    return PartialState(cpu=must_use_cpu())


def new_accelerator(config: RunConfig, run_dir: Path) -> Accelerator:
    """Accelerate for this config; what it leaves open, `accelerate launch` decides.

    Raises:
        ConfigError: this machine cannot compute in that precision, or lacks a tracker.
    """
    fsdp = None
    if config.fsdp:
        fsdp = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=[Block.__name__],
            state_dict_type="SHARDED_STATE_DICT",
            reshard_after_forward=True,
        )
    try:
        accelerator = Accelerator(
            cpu=must_use_cpu(),
            mixed_precision=MIXED_PRECISION[config.precision],
            log_with=config.trackers or None,
            project_config=ProjectConfiguration(project_dir=str(run_dir), logging_dir=str(run_dir)),
            fsdp_plugin=fsdp,
            dynamo_backend="inductor" if config.compile else None,
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"precision {config.precision!r} and trackers {config.trackers}: {error}"
        ) from error
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; on a CPU choose bf16 or fp32")
    unknown = set(config.trackers) - {tracker.value for tracker in accelerator.log_with if tracker} - {"all"}
    if unknown:
        raise ConfigError(
            f"trackers {sorted(unknown)} are not installed here; install them, or leave them out"
        )
    if config.ema_decay is not None and config.fsdp:
        raise ConfigError("ema_decay does not work with fsdp: no process holds the whole encoder")
    return accelerator


def encoder_config(config: RunConfig) -> EncoderConfig:
    """The encoder's configuration: the size's or else that of `init_from`, with the options of `model_args`.

    Raises:
        ConfigError: an option is unknown or impossible.
    """
    if config.size is not None:
        start = EncoderConfig.of_size(config.size)
    else:
        start = load_encoder(locate(config.init_from)).config
    options = encoder_kwargs(start) | dict(config.encoder_options)
    try:
        return config_of_kwargs(options)
    except ValueError as error:
        raise ConfigError(f"model_args: {error}") from error


def new_encoder(config: RunConfig) -> Encoder:
    """The encoder with weights drawn from the config's seed, or from `init_from`.

    torch's random numbers go on from there, so that what is built next depends on the seed too.

    Raises:
        ConfigError: `init_from` is another model, or a crop does not fit it.
    """
    expected = encoder_config(config)
    torch.manual_seed(config.seed)
    encoder = Encoder(expected)
    if config.init_from is not None:
        loaded = load_encoder(locate(config.init_from))
        dropouts = {"dropout": expected.dropout, "attention_dropout": expected.attention_dropout}
        if dataclasses.replace(loaded.config, **dropouts) != expected:  # no weight knows of dropout
            raise ConfigError(
                f"init_from {config.init_from} holds {loaded.config}, but the config describes {expected}"
            )
        encoder.load_state_dict(loaded.state_dict())
    tokens, window = expected.n_tokens(config.chunk_samples), expected.window_tokens
    if tokens > window:
        raise ConfigError(
            f"chunk_length {config.chunk_length} s gives {tokens} tokens, but the model has "
            f"positions for {window}; shorten it, or lengthen model_args.target_length"
        )
    return encoder


def checkpoint_activations(model: nn.Module) -> None:
    """Make each block compute its activations twice instead of keeping them."""
    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, Block))


def new_moving_average(result: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of what a run keeps, running statistics included."""
    return AveragedModel(result, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
