"""Everything that an encoder is built from; the defaults are the released models'."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import no_type_check

from hear_dasheng.mel import RELEASED_MEL, MelConfig
from hear_dasheng.patches import PATCH_FRAMES, PATCH_MELS
from hear_dasheng.sizes import SIZES
from hear_dasheng.value_checks import OptionError, check_count, check_flag, check_number

WINDOW_MOMENTS = 252
COUNTS = ("dim", "depth", "heads", "window_moments", "patch_mels", "patch_frames")
FRACTIONS = ("mlp_ratio", "layer_scale", "dropout", "attention_dropout")


@no_type_check  # it checks by hand, with messages for people
@dataclass(frozen=True)
class EncoderConfig:
    """What is needed to build an encoder and its front end.

    A moment is one step of patches in time. A released model's patches span all
    mel bands, so that a moment is one token; smaller ones give it several.

    Attributes:
        dim: width of a token.
        depth: number of transformer blocks.
        heads: attention heads of each block; must divide `dim`.
        window_moments: learned positions in time, the most moments that see each other.
        mlp_ratio: inner width of a block's MLP, in units of `dim`.
        qkv_bias: the projections to queries, keys and values have a bias.
        layer_scale: initial value of learned factors on each update; None: no factors.
        dropout: of positions, projections and MLPs, in training alone.
        attention_dropout: of the attention weights, in training alone.
        patch_mels: mel bands of a patch.
        patch_frames: frames of a patch.
        mel: the front end.
    """

    dim: int
    depth: int
    heads: int
    window_moments: int = WINDOW_MOMENTS
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    layer_scale: float | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    patch_mels: int = PATCH_MELS
    patch_frames: int = PATCH_FRAMES
    mel: MelConfig = RELEASED_MEL

    def __post_init__(self) -> None:
        for name in COUNTS:
            check_count(name, getattr(self, name))
        if self.dim % self.heads:
            raise OptionError(
                "heads", self.heads, f"{self.heads} attention heads do not divide a width of {self.dim}"
            )
        wide = f"times the width of {self.dim} must be 1 or more"
        check_number("mlp_ratio", self.mlp_ratio, wide, lambda ratio: 1 <= ratio * self.dim < math.inf)
        check_flag("qkv_bias", self.qkv_bias)
        if self.layer_scale is not None:
            check_number(
                "layer_scale",
                self.layer_scale,
                "must be a number above 0, or null",
                lambda factor: factor > 0,
            )
        for name in ("dropout", "attention_dropout"):
            part = "must be at least 0 and below 1"
            check_number(name, getattr(self, name), part, lambda probability: 0 <= probability < 1)
        for name in FRACTIONS:
            if getattr(self, name) is not None:  # YAML and JSON hold whole numbers too
                object.__setattr__(self, name, float(getattr(self, name)))
        if self.patch_mels > self.mel.n_mels:
            raise OptionError(
                "patch_mels", self.patch_mels, f"is more than the {self.mel.n_mels} mel bands of n_mels"
            )

    @classmethod
    def of_size(cls, name: str) -> EncoderConfig:
        """The configuration of a named size of `SIZES`."""
        if name not in SIZES:
            raise ValueError(f"unknown size {name!r}; the sizes are {', '.join(SIZES)}")
        size = SIZES[name]
        return cls(dim=size.dim, depth=size.depth, heads=size.heads)

    @property
    def bands(self) -> int:
        """Tokens of a moment, one above the other; mel bands that fill no patch are dropped."""
        return self.mel.n_mels // self.patch_mels

    @property
    def window_tokens(self) -> int:
        """The most tokens that see each other."""
        return self.bands * self.window_moments

    def n_tokens(self, n_samples: int) -> int:
        """Tokens of a clip of `n_samples`; frames that fill no patch are left out."""
        return self.bands * (self.mel.n_frames(n_samples) // self.patch_frames)
