"""A checkpoint's weights and config -> EncoderConfig.

Whatever a shape tells comes from the weights. The config adds what no shape tells:
attention heads, the front end, dropout. Where it does not tell the heads, the table
of sizes does; the rest is then as in the released models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hear_dasheng.checkpoint_files import CheckpointError
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.published_options import KNOWN_KEYS, config_of_kwargs
from hear_dasheng.sizes import SIZES, heads_of

PATCH_KEY = "patch_embed.proj.weight"
POSITIONS_KEY = "time_pos_embed"
MLP_KEY = "blocks.0.mlp.fc1.weight"
BN_KEY = "init_bn.running_mean"
AXES = {PATCH_KEY: 4, POSITIONS_KEY: 4, MLP_KEY: 2, BN_KEY: 1}
"""Tensors whose lengths are read, and how many axes each has."""

UNTOLD_LAYER_SCALE = 1e-5
"""The published class's initial value, for factors of which no config tells how they began."""


def encoder_config(
    weights: Mapping[str, Tensor], file_config: Mapping[str, Any], path: Path, num_heads: int | None
) -> EncoderConfig:
    """The configuration of an encoder whose weights have our names.

    Args:
        weights: as `encoder_weights` gives them.
        file_config: the checkpoint's own, perhaps empty; keys that are no encoder
            option are passed over, as the published classes do.
        path: for messages.
        num_heads: the user's word on attention heads.

    Raises:
        CheckpointError: something is missing, contradictory or not supported.
    """
    stated = _stated_options(file_config, path)
    told = _options_in_weights(weights, stated, path)
    told["num_heads"] = _heads(told["embed_dim"], told["depth"], stated, path, num_heads)
    if "patch_size" not in stated:
        stated.setdefault("patch_stride", told["patch_size"])
    try:
        return config_of_kwargs(stated | told)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _stated_options(file_config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the encoder options of a published `.pt`, a config.json or the published trainer's config."""
    options: dict[str, Any] = {}
    for entry in ("model_args", "encoder_kwargs", None):
        place = file_config if entry is None else file_config.get(entry)
        if place is not None and not isinstance(place, Mapping):
            raise CheckpointError(
                f"{path}: {entry}={place!r} in its config must hold options by name, or nothing"
            )
        options |= {key: value for key, value in (place or {}).items() if key in KNOWN_KEYS}
    return options


def _options_in_weights(
    weights: Mapping[str, Tensor], stated: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """The options that the shapes tell, in the published words."""
    shapes = _shapes(weights, path)
    dim, *patch_shape = shapes[PATCH_KEY]
    has_layer_scale = any(name.endswith(".ls1.gamma") for name in weights)
    told = {
        "embed_dim": dim,
        "depth": _depth(weights, path),
        "patch_size": _patch_size(patch_shape, stated, path),
        "target_length": shapes[POSITIONS_KEY][-1] * patch_shape[2],
        "qkv_bias": any(name.endswith(".attn.qkv.bias") for name in weights),
        "init_values": (stated.get("init_values") or UNTOLD_LAYER_SCALE) if has_layer_scale else None,
    }
    if BN_KEY in shapes:
        told["n_mels"] = shapes[BN_KEY][0]
    if MLP_KEY in shapes:
        told["mlp_ratio"] = _mlp_ratio(shapes[MLP_KEY][0], dim, stated.get("mlp_ratio", 4.0))
    return told


def _shapes(weights: Mapping[str, Tensor], path: Path) -> dict[str, tuple[int, ...]]:
    if POSITIONS_KEY not in weights:
        raise CheckpointError(f"{path} is incomplete: it has no {POSITIONS_KEY}")
    shapes = {name: tuple(weights[name].shape) for name in AXES if name in weights}
    for name, shape in shapes.items():
        if len(shape) != AXES[name] or 0 in shape:
            raise CheckpointError(
                f"{path}: {name} has the shape {shape}; it needs {AXES[name]} axes, none empty"
            )
    return shapes


def _depth(weights: Mapping[str, Tensor], path: Path) -> int:
    blocks = [re.match(r"blocks\.(\d+)\.", name) for name in weights]
    depth = 1 + max((int(match.group(1)) for match in blocks if match), default=-1)
    if depth > len(weights):
        raise CheckpointError(
            f"{path} is incomplete: it names block {depth - 1} and has {len(weights)} tensors in all"
        )
    return depth


def _patch_size(patch_shape: list[int], stated: Mapping[str, Any], path: Path) -> list[int]:
    channels, *size = patch_shape
    told = stated.get("patch_size", size)
    told = [told, told] if isinstance(told, int) else told
    if channels != 1 or not isinstance(told, list | tuple) or list(told) != size:
        raise CheckpointError(
            f"{path} has patches of shape {tuple(patch_shape)}; Dasheng's are (1, mel bands, frames), "
            f"here with patch_size={told!r}"
        )
    return size


def _mlp_ratio(inner_dim: int, dim: int, stated: Any) -> float:
    """The stated ratio if it gives this inner width, else one that does."""
    if isinstance(stated, int | float) and inner_dim <= dim * stated < inner_dim + 1:
        return float(stated)
    ratio = inner_dim / dim
    return ratio if int(dim * ratio) == inner_dim else math.nextafter(ratio, math.inf)


def _heads(dim: int, depth: int, stated: Mapping[str, Any], path: Path, num_heads: int | None) -> Any:
    told = stated.get("num_heads")
    if num_heads is not None and told is not None and num_heads != told:
        raise CheckpointError(f"num_heads={num_heads} contradicts the config of {path}, which says {told}")
    heads = next((heads for heads in (num_heads, told) if heads is not None), heads_of(dim, depth))
    if heads is None:
        known = ", ".join(f"{s.dim}/{s.depth}" for s in SIZES.values())
        raise CheckpointError(
            f"{path} does not say how many attention heads it has, and its width/depth {dim}/{depth} is "
            f"none of {known}; pass the option num_heads=..."
        )
    return heads
