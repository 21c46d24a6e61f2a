"""Any Dasheng checkpoint -> (EncoderConfig, weights), and back.

Layouts read: the published `.pt` ({"model", "config"}), the published trainer's
own `.pt` (the same, its config holding a pathlib path), the AudioSet-finetuned
flat state dict, and `mispeech/dasheng-*` folders or `.safetensors` files, which is
also the layout of our own checkpoints. Width and depth come from the weights,
attention heads from the config or, where it has none, from the table of sizes.
Nothing but tensors, numbers, strings, lists, dicts and paths is ever unpickled.
"""

from __future__ import annotations

import json
import pathlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hear_dasheng.encoder import PATCH_FRAMES, Encoder, EncoderConfig
from hear_dasheng.mel import N_FFT, N_MELS, htk_filter_bank
from hear_dasheng.sizes import SIZES, heads_of

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
PATCH_KEY = "patch_embed.proj.weight"
PUBLISHED_BN = "init_bn.1."
OUR_BN = "init_bn."
NOT_ENCODER = re.compile(r"(front_end|decoder|outputlayer|classifier)\.|loss")
"""Keys that published files hold beside the encoder: constants, heads, the decoder."""

_PATH_CLASSES = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path", "PurePath")
_SAFE_GLOBALS = [
    (pathlib.PurePosixPath, f"{module}.{name}")
    for module in ("pathlib", "pathlib._local")
    for name in _PATH_CLASSES
]
"""Paths in a pickled config become inert PurePosixPaths, whatever system wrote them."""


class CheckpointError(ValueError):
    """A file that is not a complete, safe Dasheng checkpoint."""


def load_encoder(path: str | Path, num_heads: int | None = None) -> Encoder:
    """Build the encoder that a local checkpoint holds, in evaluation mode.

    Args:
        path: a file, or a folder with `config.json` and `model.safetensors`.
        num_heads: attention heads, for a checkpoint that does not tell them.

    Raises:
        FileNotFoundError: nothing there.
        CheckpointError: damaged, foreign, unsafe or incomplete; the message says which.
    """
    path = Path(path)
    if path.is_dir():
        path = _weights_in(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    state, file_config = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    weights = encoder_weights(state, path)
    config = encoder_config(weights, file_config, path, num_heads)
    with torch.device("meta"):
        encoder = Encoder(config)
    _check_complete(encoder, weights, path)
    encoder.load_state_dict(weights, assign=True)
    return encoder.eval().requires_grad_(False)


def _weights_in(folder: Path) -> Path:
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        present = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(
            f"the folder {folder} has no {WEIGHTS_FILE} (it has {present}); "
            "name a checkpoint file, or a folder that holds one"
        )
    return weights


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(_damaged(path, error)) from error
    config_path = path.with_name(CONFIG_FILE)
    if not config_path.is_file():
        return state, {}
    try:
        return state, json.loads(config_path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{config_path} is not valid JSON: {error}") from error


def _read_torch(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted is None:
            raise CheckpointError(_damaged(path, error)) from error
        raise CheckpointError(
            f"{path} was not loaded: its pickle asks to call {wanted.group(1)}, and a checkpoint "
            "needs nothing but tensors, numbers, strings, lists and dicts. If you trust its author, "
            'ask for a file saved as {"model": state_dict, "config": plain dict}'
        ) from error
    except Exception as error:  # on arbitrary bytes the unpickler raises nearly anything
        raise CheckpointError(_damaged(path, error)) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dict of weights")
    if not isinstance(content.get("model"), dict):
        return content, {}
    config = content.get("config")
    return content["model"], config if isinstance(config, dict) else {}


def _damaged(path: Path, error: Exception) -> str:
    reason = re.split(r"[.\n] |\n", str(error))[0].rstrip(".") or type(error).__name__
    if (
        "eights only" in reason or "weights_only" in reason
    ):  # torch's advice to load unsafely, given for anything unreadable
        reason = "its bytes are not those of a saved state dict"
    return (
        f"{path} ({path.stat().st_size} bytes) is truncated, damaged or no checkpoint at all ({reason}). "
        "Name another file or the checkpoint's folder, or fetch or save it again"
    )


def encoder_weights(state: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Pick the encoder out of a state dict and give its weights our names, in float32.

    The encoder's keys may all stand under one prefix ("encoder.", "module.", ...),
    or some of them under none.
    """
    patch_keys = [key for key in state if isinstance(key, str) and key.endswith(PATCH_KEY)]
    if len(patch_keys) != 1:
        raise CheckpointError(
            f"{path} is no Dasheng checkpoint: it has {len(patch_keys)} tensors named {PATCH_KEY}; "
            f"its keys begin with {', '.join(map(str, list(state)[:4])) or 'nothing'}"
        )
    prefix = patch_keys[0].removesuffix(PATCH_KEY)
    weights: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.removeprefix(prefix)
        if name.startswith("front_end."):
            _check_front_end(name, value, path)
        if NOT_ENCODER.match(name) or NOT_ENCODER.match(key):
            continue
        if name.startswith(PUBLISHED_BN):
            name = OUR_BN + name.removeprefix(PUBLISHED_BN)
        if not isinstance(value, Tensor) or name in weights:
            raise CheckpointError(f"{path}: the entry {key!r} is no tensor, or names {name!r} twice")
        weights[name] = value.float() if value.is_floating_point() else value
    return weights


def _check_front_end(name: str, value: Tensor, path: Path) -> None:
    expected = {"mel_scale.fb": htk_filter_bank(), "spectrogram.window": torch.hann_window(N_FFT)}
    for suffix, ours in expected.items():
        if not name.endswith(suffix):
            continue
        if value.shape != ours.shape or not torch.allclose(value.float(), ours, atol=1e-3):
            raise CheckpointError(
                f"{path} was trained on another front end: its {name} {tuple(value.shape)} is not "
                f"that of {N_MELS} HTK mel bands from a {N_FFT}-point Hann window at 16 kHz"
            )


def encoder_config(
    weights: Mapping[str, Tensor], file_config: Mapping[str, Any], path: Path, num_heads: int | None
) -> EncoderConfig:
    """Width, depth and positions from the weights; heads from the config or the sizes."""
    patch = weights[PATCH_KEY]
    if patch.ndim != 4 or patch.shape[1:] != (1, N_MELS, PATCH_FRAMES):
        raise CheckpointError(
            f"{path} has patches of shape {tuple(patch.shape[1:])}; "
            f"Dasheng's are (1, {N_MELS}, {PATCH_FRAMES})"
        )
    if "time_pos_embed" not in weights:
        raise CheckpointError(f"{path} is incomplete: it has no time_pos_embed")
    blocks = [re.match(r"blocks\.(\d+)\.", name) for name in weights]
    depth = 1 + max((int(match.group(1)) for match in blocks if match), default=-1)
    dim = patch.shape[0]
    stated = _heads_in(file_config)
    if num_heads is not None and stated is not None and num_heads != stated:
        raise CheckpointError(f"num_heads={num_heads} contradicts the config of {path}, which says {stated}")
    heads = num_heads or stated or heads_of(dim, depth)
    if heads is None:
        known = ", ".join(f"{s.dim}/{s.depth}" for s in SIZES.values())
        raise CheckpointError(
            f"{path} does not say how many attention heads it has, and its width/depth {dim}/{depth} is "
            f"none of {known}; pass the option num_heads=..."
        )
    try:
        return EncoderConfig(dim, depth, heads, window_tokens=weights["time_pos_embed"].shape[-1])
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _heads_in(file_config: Mapping[str, Any]) -> int | None:
    for place in (file_config, file_config.get("encoder_kwargs"), file_config.get("model_args")):
        if isinstance(place, Mapping) and isinstance(place.get("num_heads"), int):
            return place["num_heads"]
    return None


def _check_complete(encoder: Encoder, weights: dict[str, Tensor], path: Path) -> None:
    """Compare names, shapes and values with what the encoder needs."""
    weights.setdefault("init_bn.num_batches_tracked", torch.tensor(0))
    needed = encoder.state_dict()
    problems = [f"{name} is missing" for name in needed if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in needed]
    for name in needed.keys() & weights.keys():
        if weights[name].shape != needed[name].shape:
            shapes = tuple(weights[name].shape), tuple(needed[name].shape)
            problems.append(f"{name} has the shape {shapes[0]} instead of {shapes[1]}")
        elif not weights[name].isfinite().all():
            problems.append(f"{name} holds values that are not finite")
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise CheckpointError(f"{path} does not fit the encoder: {'; '.join(sorted(problems)[:5])}{more}")
