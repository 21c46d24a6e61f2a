"""A published file, a folder or a Hub id -> a state dict, without running anything that is pickled in it."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

FILES = ("model.safetensors", "pytorch_model.bin")
SUFFIXES = (".pth", ".pt", ".safetensors", ".bin")
HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:/([\w.-]+))?")
INERT = [
    argparse.Namespace,
    *((pathlib.PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
]
"""What training scripts pickle beside the weights: their options, and paths in them (renamed in 3.13)."""


def find_weights(source: str | Path) -> Path:
    """The local file that holds a peer's weights.

    Args:
        source: a file; a folder with model.safetensors, pytorch_model.bin or one file of
            weights; a Hub id; or a Hub id and the name of a file in it, `owner/name/file.pth`.

    Raises:
        FileNotFoundError: none of these, or the Hub cannot be asked.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        others = [entry for entry in sorted(path.iterdir()) if entry.suffix in SUFFIXES]
        named = [path / name for name in FILES if (path / name).is_file()]
        if named or len(others) == 1:
            return (named or others)[0]
        raise FileNotFoundError(
            f"the folder {path} holds {len(others)} files of weights ({', '.join(SUFFIXES)}); name the file"
        )
    match = HUB_NAME.fullmatch(str(source))
    if match is None:
        raise FileNotFoundError(f"no file or folder {source} (seen from {Path.cwd()}), and it is no Hub id")
    return _from_hub(*match.groups())


def _from_hub(repo_id: str, file: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    reason: Exception | None = None
    for name in (file,) if file else FILES:
        try:
            return Path(hf_hub_download(repo_id, name))
        except (EntryNotFoundError, LocalEntryNotFoundError) as error:  # perhaps the next name
            reason = error
        except Exception as error:  # the Hub's client raises its HTTP library's errors too
            reason = error
            break
    raise FileNotFoundError(
        f"no file or folder {repo_id} (seen from {Path.cwd()}), and from the Hub it cannot be had: "
        f"{' '.join(str(reason).split())}"
    ) from reason


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, in float32; of `{"model": state_dict, ...}` those of the model.

    Raises:
        ValueError: damaged, or it wants to call what no weights need.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            with torch.serialization.safe_globals(INERT):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = (
            f"its pickle asks to call {wanted.group(1)}" if wanted else "it is damaged or no file of weights"
        )
        raise ValueError(
            f'{path} was not loaded: {why}. If you trust its author, save {{"model": state_dict}} of it anew'
        ) from error
    except Exception as error:  # on arbitrary bytes the readers raise nearly anything
        raise ValueError(f"{path} is damaged or no file of weights: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    tensors = {str(k): v.float() for k, v in content.items() if isinstance(v, Tensor)} if content else {}
    if not tensors:
        raise ValueError(f"{path} holds no weights")
    return tensors
