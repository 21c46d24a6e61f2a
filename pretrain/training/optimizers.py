"""Parameters -> an optimizer."""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from pretrain.training.config import RunConfig
from pretrain.training.read_config import ConfigError, optimizer_class

logger = logging.getLogger(__name__)


def new_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """The config's optimizer over all parameters of a model.

    An `...8bit` optimizer is bitsandbytes' on CUDA; elsewhere it is torch's of the
    same name, fused where torch has that, which is said once in the log.

    Raises:
        ConfigError: the optimizer refuses its arguments.
    """
    kind, arguments = _kind(config.optimizer), dict(config.optimizer_args)
    if kind.__module__.startswith("torch.") and "fused" in inspect.signature(kind).parameters:
        arguments.setdefault("fused", True)
    try:
        return kind(_groups(model, config), **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{config.optimizer} refuses optimizer_args {config.optimizer_args}: {error}"
        ) from error


def _kind(name: str) -> type[torch.optim.Optimizer]:
    if not name.endswith("8bit"):
        return optimizer_class(name)
    reason = "there is no CUDA device"
    if torch.cuda.is_available():
        try:
            return getattr(importlib.import_module("bitsandbytes.optim"), name)
        except (ImportError, AttributeError) as error:
            reason = f"bitsandbytes cannot be used: {error}"
    plain = optimizer_class(name)
    logger.warning("%s: %s; torch's %s (32-bit state) takes its place", name, reason, plain.__name__)
    return plain


def _groups(model: nn.Module, config: RunConfig) -> Iterable[Any]:
    """All parameters alike, as published; or the vectors without weight decay."""
    if not config.no_decay_on_vectors:
        return model.parameters()
    is_vector = {name: _is_vector(name, parameter) for name, parameter in model.named_parameters()}
    decayed = [p for name, p in model.named_parameters() if not is_vector[name]]
    spared = [p for name, p in model.named_parameters() if is_vector[name]]
    return [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]


def _is_vector(name: str, parameter: nn.Parameter) -> bool:
    """Biases, norms and scales, and the embeddings that are added to tokens."""
    return parameter.ndim < 2 or name.endswith(("pos_embed", "mask_token"))
