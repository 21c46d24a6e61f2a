"""Parameters -> an optimizer."""

from __future__ import annotations

import importlib
import inspect
import logging
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from pretrain.training.config import RunConfig
from pretrain.training.read_config import ConfigError, optimizer_class

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")


def new_optimizer(model: nn.Module, config: RunConfig, device: torch.device = CPU) -> torch.optim.Optimizer:
    """Return the config's optimizer over all parameters of a model that require gradients.

    With `layer_decay` each group holds its part of the learning rate as `lr_scale`.

    An `...8bit` optimizer is bitsandbytes' if the run uses CUDA without FSDP. Otherwise it is torch's of the
    same name, fused where torch has that, with a warning in the log.

    Args:
        model: not yet prepared by Accelerate.
        config: of the run.
        device: where the run computes.

    Raises:
        ConfigError: the optimizer refuses its arguments.
    """
    kind, arguments = _kind(config, device), dict(config.optimizer_args)
    if kind.__module__.startswith("torch.") and "fused" in inspect.signature(kind).parameters:
        arguments.setdefault("fused", True)
    try:
        return kind(_groups(model, config), **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{config.optimizer} refuses optimizer_args {config.optimizer_args}: {error}"
        ) from error


def _kind(config: RunConfig, device: torch.device) -> type[torch.optim.Optimizer]:
    name = config.optimizer
    if not name.endswith("8bit"):
        return optimizer_class(name)
    if device.type != "cuda":
        reason = f"this run uses the device {device.type}, not CUDA"
    elif config.fsdp:
        # bitsandbytes' kernels take a DTensor's pointer for a whole tensor's (its issue 1633).
        reason = "bitsandbytes does not work with fsdp"
    else:
        try:
            return getattr(importlib.import_module("bitsandbytes.optim"), name)
        except (ImportError, AttributeError) as error:
            reason = f"bitsandbytes cannot be used: {error}"
    plain = optimizer_class(name)
    logger.warning("%s: %s; torch's %s (32-bit state) takes its place", name, reason, plain.__name__)
    return plain


def _groups(model: nn.Module, config: RunConfig) -> Iterable[Any]:
    """All parameters alike, as published; or by layer, or the vectors without weight decay."""
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not config.no_decay_on_vectors and config.layer_decay == 1:
        return [parameter for _, parameter in learning]
    top = len(model.encoder.blocks) + 1
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in learning:
        layer = layer_of(name, top) if config.layer_decay < 1 else top
        is_spared = config.no_decay_on_vectors and _is_vector(name, parameter)
        options = {"weight_decay": 0.0} if is_spared else {}
        scale = {"lr_scale": config.layer_decay ** (top - layer)} if config.layer_decay < 1 else {}
        group = groups.setdefault((layer, is_spared), {"params": [], **options, **scale})
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def layer_of(name: str, top: int) -> int:
    """Which layer a parameter belongs to: 0 for what makes tokens, 1 for the first block, ...

    Source: the layer-wise learning rates of BEiT (Bao et al., 2022), by which the layer below the top
    learns at `layer_decay` times the rate, the one below at its square. The top is all that
    follows the last block.

    >>> [layer_of(f"encoder.{name}.bias", 13) for name in ("init_bn", "blocks.11.norm1", "norm")]
    [0, 12, 13]
    """
    block = re.search(r"\bencoder\.blocks\.(\d+)\.", name)
    if block is not None:
        return 1 + int(block.group(1))
    return 0 if re.search(r"\bencoder\.(init_bn|patch_embed|time_pos_embed|freq_pos_embed)\b", name) else top


def _is_vector(name: str, parameter: nn.Parameter) -> bool:
    """Biases, norms and scales, and the embeddings that are added to tokens."""
    return parameter.ndim < 2 or name.endswith(("pos_embed", "mask_token"))
