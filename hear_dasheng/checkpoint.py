"""Any Dasheng checkpoint -> its encoder: names, front end and completeness are checked.

What can be read from the weights comes from the weights; `checkpoint_config.py`
tells the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hear_dasheng.checkpoint_config import PATCH_KEY, encoder_config
from hear_dasheng.checkpoint_files import CheckpointError, floats_of, read_checkpoint
from hear_dasheng.encoder import Encoder
from hear_dasheng.mel import MelConfig, htk_filter_bank

PUBLISHED_BN = "init_bn.1."
OUR_BN = "init_bn."
COUNTER = f"{OUR_BN}num_batches_tracked"
FRONT_END = re.compile(r"\bfront_end\..*\b(mel_scale\.fb|spectrogram\.window)$")
NOT_ENCODER = re.compile(r"(?:.*\.)?(front_end|decoder|outputlayer|classifier)\.|loss")
"""Keys that published files hold beside the encoder: constants, heads, the decoder."""


def load_encoder(path: str | Path, num_heads: int | None = None) -> Encoder:
    """Build the encoder that a local checkpoint holds, in evaluation mode.

    Args:
        path: a file, or a folder with `config.json` and `model.safetensors`.
        num_heads: attention heads, for a checkpoint that does not tell them.

    Raises:
        FileNotFoundError: nothing there.
        CheckpointError: damaged, foreign, unsafe or incomplete; the message says which.
    """
    return encoder_of(*read_checkpoint(Path(path)), num_heads)


def encoder_of(
    path: Path, state: Mapping[str, Any], file_config: Mapping[str, Any], num_heads: int | None = None
) -> Encoder:
    """Build the encoder that a checkpoint's content holds, in evaluation mode.

    Args:
        path: for messages.
        state: the state dict; what is no part of the encoder is passed over.
        file_config: the checkpoint's config, perhaps empty.
        num_heads: attention heads, if neither config nor sizes tell them.

    Raises:
        CheckpointError: foreign, contradictory or incomplete.
    """
    weights = encoder_weights(state, path)
    config = encoder_config(weights, file_config, path, num_heads)
    _check_front_end(state, config.mel, path)
    with torch.device("meta"):
        encoder = Encoder(config)
    _check_complete(encoder, weights, path)
    encoder.load_state_dict(weights, assign=True)
    return encoder.eval().requires_grad_(False)


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
        name = str(key).removeprefix(prefix)
        if NOT_ENCODER.match(name) or NOT_ENCODER.match(str(key)):
            continue
        if name.startswith(PUBLISHED_BN):
            name = OUR_BN + name.removeprefix(PUBLISHED_BN)
        if name in weights:
            raise CheckpointError(f"{path}: the entry {key!r} names {name!r} twice")
        if name == COUNTER and isinstance(value, Tensor) and value.dtype == torch.int64:
            weights[name] = value
        else:
            weights[name] = floats_of(value, key, path)
    return weights


def _check_front_end(state: Mapping[str, Any], mel: MelConfig, path: Path) -> None:
    """Compare the constants that a published file holds with those that its config asks for."""
    expected = {
        "mel_scale.fb": htk_filter_bank(mel),
        "spectrogram.window": torch.hann_window(mel.win_samples),
    }
    for name, value in state.items():
        match = FRONT_END.search(str(name))
        if match is None or not isinstance(value, Tensor):
            continue
        ours = expected[match.group(1)]
        if value.shape != ours.shape or not torch.allclose(floats_of(value, name, path), ours, atol=1e-3):
            raise CheckpointError(
                f"{path} was trained on another front end than its config tells: its {name} "
                f"{tuple(value.shape)} is not that of {mel.n_mels} HTK mel bands from {mel.f_min_hz:g} to "
                f"{mel.f_max_hz:g} Hz, a {mel.n_fft}-point transform and a Hann window of "
                f"{mel.win_samples} samples at 16 kHz"
            )


def _check_complete(encoder: Encoder, weights: dict[str, Tensor], path: Path) -> None:
    """Compare names, shapes and values with what the encoder needs."""
    weights.setdefault(COUNTER, torch.tensor(0))
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
