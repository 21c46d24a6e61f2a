"""A checkpoint on this disk -> its state dict and its config, safely.

Layouts read: the published `.pt` ({"model", "config"}), the published trainer's
own `.pt` (the same, its config holding a pathlib path), a flat state dict, and
`mispeech/dasheng-*` folders or `.safetensors` files, which is also the layout of
our own checkpoints. Nothing but tensors, numbers, strings, lists, dicts and paths
is ever unpickled.
"""

from __future__ import annotations

import pathlib
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hear_dasheng.files.strict_json import JsonProblem, read_json_object

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"

_PATH_CLASSES = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path", "PurePath")
_SAFE_GLOBALS = [
    (pathlib.PurePosixPath, f"{module}.{name}")
    for module in ("pathlib", "pathlib._local")
    for name in _PATH_CLASSES
]
"""Paths in a pickled config become inert PurePosixPaths, whatever system wrote them."""


class CheckpointError(ValueError):
    """A file that is not a complete, safe Dasheng checkpoint."""


def read_checkpoint(path: Path) -> tuple[Path, dict[str, Any], Mapping[str, Any]]:
    """Read a file or folder.

    Returns:
        The file that holds the weights, its state dict, and its config, empty if it has none.

    Raises:
        FileNotFoundError: nothing there.
        CheckpointError: damaged, foreign or unsafe; the message says which.
    """
    if path.is_dir():
        path = _weights_in(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    state, config = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return path, state, config


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
        return state, read_json_object(config_path)
    except JsonProblem as error:
        raise CheckpointError(str(error)) from error


def _read_torch(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sparse and quantized tensors, which are refused later
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


def floats_of(value: Any, entry: object, path: Path) -> Tensor:
    """Return an entry of a state dict as float32.

    Args:
        value: should be a dense tensor of floating-point numbers.
        entry: its name, for the message.
        path: of the checkpoint, for the message.

    Raises:
        CheckpointError: it is something else: quantized, sparse, without data (meta), complex, whole numbers.
    """
    kind = _kind_of(value)
    if kind:
        raise CheckpointError(
            f"{path}: the entry {entry!r} is {kind}, not a dense tensor of floating-point numbers; "
            "save the checkpoint as float32, float16 or bfloat16"
        )
    return value.float()


def _kind_of(value: Any) -> str:
    """Return what an entry is if it is not a dense tensor of floating-point numbers, else nothing."""
    if not isinstance(value, Tensor):
        return f"no tensor (a {type(value).__name__})"
    if value.is_quantized or value.layout != torch.strided:
        return "a quantized tensor" if value.is_quantized else f"a sparse tensor ({value.layout})"
    if value.is_meta:
        return "a tensor without data (device meta)"
    return "" if value.is_floating_point() else f"a tensor of {value.dtype}"


def _damaged(path: Path, error: Exception) -> str:
    reason = re.split(r"[.\n] |\n", str(error))[0].rstrip(".") or type(error).__name__
    if (
        "eights only" in reason
        or "weights_only" in reason  # torch's advice to load unsafely, given for anything unreadable
        or isinstance(error, LookupError | TypeError | AttributeError)  # the unpickler, lost in noise
    ):
        reason = "its bytes are not those of a saved state dict"
    return (
        f"{path} ({path.stat().st_size} bytes) is truncated, damaged or no checkpoint at all ({reason}). "
        "Name another file or the checkpoint's folder, or fetch or save it again"
    )
