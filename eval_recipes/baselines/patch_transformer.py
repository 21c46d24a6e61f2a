"""Spectrogram patches through timm's vision transformer: what the masked spectrogram autoencoders share.

Their encoders are a plain ViT over patches side by side with fixed 2-D positions for
one length of spectrogram, so that longer clips are cut into consecutive windows of that
length and the last is completed. Everything but the spectrogram comes from the weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eval_recipes.baselines.peer import package

PATCH_KEY = "patch_embed.proj.weight"
NOT_ENCODER = re.compile(r"decoder_|mask_token|head\.|encoder_emb\.")
"""Keys of the published files that belong to pretraining or to a classifier."""

HEAD_FEATURES = 64
"""Width of an attention head in every published size."""

BATCH_WINDOWS = {"cpu": 4, "cuda": 64}


def build_vit(
    weights: dict[str, Tensor], image_of: Callable[[int, int, int], tuple[int, int]], where: Any
) -> nn.Module:
    """A timm `VisionTransformer` with these weights; its `norm` is the file's last LayerNorm.

    Args:
        weights: timm's names; `fc_norm` may stand for `norm`, and `attn.q_bias` and
            `attn.v_bias` for `attn.qkv.bias` with a key bias of zero.
        image_of: patch height and width, and number of patches -> the size of a window, (height, width).
        where: for messages.

    Raises:
        ValueError: names or shapes are not those of such an encoder.
    """
    weights = {name: value for name, value in weights.items() if not NOT_ENCODER.match(name)}
    if PATCH_KEY not in weights or "pos_embed" not in weights or "blocks.0.mlp.fc1.weight" not in weights:
        raise ValueError(
            f"{where} is no encoder of spectrogram patches: it lacks {PATCH_KEY}, pos_embed or "
            f"blocks.0.mlp.fc1.weight; its keys begin with {', '.join(list(weights)[:4]) or 'nothing'}"
        )
    dim, channels, *patch = weights[PATCH_KEY].shape
    has_class_token = "cls_token" in weights
    n_patches = weights["pos_embed"].shape[1] - has_class_token
    if channels != 1 or dim % HEAD_FEATURES:
        raise ValueError(
            f"{where}: {PATCH_KEY} has the shape {tuple(weights[PATCH_KEY].shape)}; it should have one "
            f"channel, and a width that is a multiple of {HEAD_FEATURES}"
        )
    depth = 1 + max(int(m.group(1)) for m in (re.match(r"blocks\.(\d+)\.", name) for name in weights) if m)
    vit = package("timm.models.vision_transformer").VisionTransformer(
        img_size=image_of(*patch, n_patches),
        patch_size=tuple(patch),
        in_chans=1,
        num_classes=0,
        global_pool="token" if has_class_token else "",
        class_token=has_class_token,
        embed_dim=dim,
        depth=depth,
        num_heads=dim // HEAD_FEATURES,
        mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] / dim,
    )
    try:
        vit.load_state_dict(_in_timms_names(weights))
    except RuntimeError as error:
        raise ValueError(f"{where} does not fit the encoder: {' '.join(str(error).split())}") from error
    return vit.eval()


def _in_timms_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in weights.items():
        if name.endswith(".attn.v_bias"):
            continue
        if name.endswith(".attn.q_bias"):
            values = weights.get(name.replace("q_bias", "v_bias"), value)
            renamed[name.replace("q_bias", "qkv.bias")] = torch.cat([value, torch.zeros_like(value), values])
        else:
            renamed[re.sub(r"^fc_norm\.", "norm.", name)] = value
    return renamed


def encode_windows(
    spectra: Sequence[Tensor],
    window_frames: int,
    padding: float,
    encode: Callable[[Tensor], Tensor],
) -> list[Tensor]:
    """Spectrograms of any lengths through an encoder of windows of one length.

    Args:
        spectra: (frames, mels) each.
        window_frames: what the encoder takes.
        padding: the value that completes a clip's last window.
        encode: (windows, window_frames, mels) -> (windows, moments, features).

    Returns:
        For each clip all moments of its windows, those of the padding as well.
    """
    per_clip = [
        [F.pad(w, (0, 0, 0, window_frames - len(w)), value=padding) for w in spectrum.split(window_frames)]
        for spectrum in spectra
    ]
    windows = torch.stack([window for own in per_clip for window in own])
    encoded = torch.cat([encode(part) for part in windows.split(BATCH_WINDOWS.get(windows.device.type, 4))])
    return [part.flatten(0, 1) for part in encoded.split([len(own) for own in per_clip])]
