"""A config -> the model, and Accelerate as the config wants it."""

from __future__ import annotations

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
from pretrain.masked_autoencoder import MaskedAutoencoder, new_masked_autoencoder
from pretrain.masking import n_kept
from pretrain.training.config import PretrainConfig
from pretrain.training.read_config import ConfigError

MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16", None: None}


def must_use_cpu() -> bool:
    """Whether there is no accelerator, or `accelerate launch --cpu` forbids it."""
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def join_processes() -> PartialState:
    """Join the processes that a launcher started, before anything else is known of the run."""
    return PartialState(cpu=must_use_cpu())


def new_accelerator(config: PretrainConfig, run_dir: Path) -> Accelerator:
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


def encoder_config(config: PretrainConfig) -> EncoderConfig:
    """The encoder's configuration: the size's, with the options of `model_args`.

    Raises:
        ConfigError: an option is unknown or impossible.
    """
    options = encoder_kwargs(EncoderConfig.of_size(config.size)) | dict(config.encoder_options)
    try:
        return config_of_kwargs(options)
    except ValueError as error:
        raise ConfigError(f"model_args: {error}") from error


def new_model(config: PretrainConfig) -> MaskedAutoencoder:
    """The autoencoder with weights drawn from the config's seed, or its encoder's from `init_from`.

    Raises:
        ConfigError: `init_from` is another model, or a crop does not fit it.
    """
    expected = encoder_config(config)
    torch.manual_seed(config.seed)
    encoder = Encoder(expected)
    if config.init_from is not None:
        loaded = load_encoder(locate(config.init_from))
        if loaded.config != expected:
            raise ConfigError(
                f"init_from {config.init_from} holds {loaded.config}, but the config describes {expected}"
            )
        encoder.load_state_dict(loaded.state_dict())
    model = new_masked_autoencoder(encoder, config.size)
    tokens, window = model.n_tokens(config.chunk_samples), expected.window_tokens
    if tokens > window:
        raise ConfigError(
            f"chunk_length {config.chunk_length} s gives {tokens} tokens, but the model has "
            f"positions for {window}; shorten it, or lengthen model_args.target_length"
        )
    try:
        n_kept(tokens, config.mask_ratio)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if config.activation_checkpointing:
        apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, Block))
    return model


def new_moving_average(model: MaskedAutoencoder, config: PretrainConfig) -> nn.Module | None:
    """The exponential moving average of the encoder, running statistics included."""
    if config.ema_decay is None:
        return None
    average = get_ema_multi_avg_fn(config.ema_decay)
    return AveragedModel(model.encoder, multi_avg_fn=average, use_buffers=True)
