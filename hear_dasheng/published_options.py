"""EncoderConfig <-> the keyword arguments of the published encoder classes.

The same words stand in the published training YAML (`model_args`), in the "config"
of the published `.pt` files, whose every entry goes to the constructor of the
package's `Dasheng`, and in `encoder_kwargs` of a `mispeech/dasheng-*` config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from hear_dasheng.encoder_config import WINDOW_MOMENTS, EncoderConfig
from hear_dasheng.mel import RELEASED_MEL, MelConfig
from hear_dasheng.patches import PATCH_FRAMES, PATCH_MELS
from hear_dasheng.value_checks import OptionError, check_count

SIZE_FIELDS = {"embed_dim": "dim", "depth": "depth", "num_heads": "heads"}
EXTRA_FIELDS = {
    "mlp_ratio": "mlp_ratio",
    "qkv_bias": "qkv_bias",
    "init_values": "layer_scale",
    "drop_rate": "dropout",
    "attn_drop_rate": "attention_dropout",
}
MEL_FIELDS = {
    "n_fft": "n_fft",
    "win_size": "win_samples",
    "hop_size": "hop_samples",
    "n_mels": "n_mels",
    "f_min": "f_min_hz",
    "f_max": "f_max_hz",
    "center": "is_centred",
    "top_db": "top_db",
}
"""Published key -> our field."""

PATCH_KEYS = ("patch_size", "patch_stride", "target_length")
WITHOUT_EFFECT = ("eval_avg", "time_patch_out", "freq_patch_out")
"""Keys that the published encoder stores and never uses: any value is accepted."""

ONLY_VALUE = {"block_type": "Block", "attention_type": "Attention", "norm_layer": None, "act_layer": None}
KNOWN_KEYS = (
    *PATCH_KEYS,
    *SIZE_FIELDS,
    *EXTRA_FIELDS,
    *MEL_FIELDS,
    "pooling",
    *WITHOUT_EFFECT,
    *ONLY_VALUE,
)


def config_of_kwargs(kwargs: Mapping[str, Any]) -> EncoderConfig:
    """The configuration that the published keyword arguments describe.

    Keys that are left out have the published defaults, except the three of the
    size, which must be there.

    Raises:
        ValueError: a key is unknown or missing, or a value impossible or not
            supported; the message names key, value and remedy (`OptionError`).
    """
    check_keys(kwargs)
    check_unsupported(kwargs)
    patch_mels, patch_frames = _patch_of(kwargs)
    target_frames = kwargs.get("target_length", WINDOW_MOMENTS * PATCH_FRAMES)
    check_count("target_length", target_frames)
    if target_frames < patch_frames:
        raise OptionError("target_length", target_frames, f"is shorter than a patch of {patch_frames} frames")
    fields = {field: kwargs[key] for key, field in (SIZE_FIELDS | EXTRA_FIELDS).items() if key in kwargs}
    mel_fields = {field: kwargs[key] for key, field in MEL_FIELDS.items() if key in kwargs}
    if fields.get("layer_scale") == 0:  # as published: no factors
        fields["layer_scale"] = None
    if mel_fields.get("f_max_hz", 0) is None:  # torchaudio's word for half the sample rate
        mel_fields["f_max_hz"] = RELEASED_MEL.f_max_hz
    try:
        return EncoderConfig(
            **fields,
            window_moments=target_frames // patch_frames,
            patch_mels=patch_mels,
            patch_frames=patch_frames,
            mel=MelConfig(**mel_fields),
        )
    except OptionError as error:
        raise OptionError(_published_name(error.name), error.value, error.requirement) from None


def encoder_kwargs(config: EncoderConfig) -> dict[str, Any]:
    """The inverse of `config_of_kwargs`: the released files' six keys, and others that are not default."""
    patch_size = (config.patch_mels, config.patch_frames)
    kwargs = {
        "depth": config.depth,
        "embed_dim": config.dim,
        "num_heads": config.heads,
        "patch_size": list(patch_size),
        "patch_stride": list(patch_size),
        "target_length": config.window_moments * config.patch_frames,
    }
    plain = EncoderConfig(config.dim, config.depth, config.heads)
    for ours, default, names in ((config, plain, EXTRA_FIELDS), (config.mel, plain.mel, MEL_FIELDS)):
        values = {key: getattr(ours, field) for key, field in names.items()}
        kwargs |= {key: value for key, value in values.items() if value != getattr(default, names[key])}
    return kwargs


def check_keys(kwargs: Mapping[str, Any]) -> None:
    """Raise a ValueError for a key that is unknown, naming the nearest, or that is missing."""
    for key in kwargs:
        if key not in KNOWN_KEYS:
            nearest = get_close_matches(str(key), KNOWN_KEYS, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(KNOWN_KEYS)}"
            raise ValueError(f"unknown encoder option {key!r}; {hint}")
    for key in SIZE_FIELDS:
        if key not in kwargs:
            raise ValueError(f"the encoder option {key!r} is missing; give {', '.join(SIZE_FIELDS)}")


def check_unsupported(kwargs: Mapping[str, Any]) -> None:
    """Raise an `OptionError` for what the published class knows and this encoder does not."""
    if kwargs.get("pooling") == "token":
        raise OptionError(
            "pooling",
            "token",
            "a class token is not supported: the published decoder takes it for the first patch it is given "
            "and shifts all others; use 'mean'",
        )
    for key, value in ONLY_VALUE.items():
        if kwargs.get(key, value) != value:
            written = "null" if value is None else repr(value)
            raise OptionError(key, kwargs[key], f"only {written} is supported, the published default")


def _patch_of(kwargs: Mapping[str, Any]) -> tuple[int, int]:
    """Mel bands and frames of a patch."""
    size, stride = (
        _pair(key, kwargs.get(key, (PATCH_MELS, PATCH_FRAMES))) for key in ("patch_size", "patch_stride")
    )
    if size != stride:
        raise OptionError(
            "patch_stride",
            list(stride),
            f"must be given, and equal patch_size={list(size)}: pretraining reconstructs patches side by "
            "side, without overlaps or gaps",
        )
    return size


def _pair(key: str, value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise OptionError(key, value, "must be two whole numbers, mel bands and frames")
    for number in pair:
        check_count(key, number)
    return pair[0], pair[1]


def _published_name(field: str) -> str:
    names = {field: key for key, field in (SIZE_FIELDS | EXTRA_FIELDS | MEL_FIELDS).items()}
    return names.get(field, "patch_size")
