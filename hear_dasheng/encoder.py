"""Log-mel spectrogram -> tokens: the Dasheng encoder.

A pre-norm vision transformer. The released models' patches span all 64 mel bands
and four frames, so that a token is 40 ms of sound and position is time alone.
Attribute names follow the published checkpoints' keys.
Source: Dinkel et al., Interspeech 2024, and the package `dasheng` 0.0.9.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hear_dasheng.blocks import LAYER_NORM_EPS, Block, Linear
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.patches import PatchEmbed


class Encoder(nn.Module):
    """The Dasheng encoder over windows of at most `config.window_tokens` tokens."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.init_bn = nn.BatchNorm1d(config.mel.n_mels, momentum=0.01)
        self.patch_embed = PatchEmbed(config.dim, config.patch_mels, config.patch_frames)
        self.time_pos_embed = nn.Parameter(torch.empty(1, config.dim, 1, config.window_moments))
        self.freq_pos_embed = nn.Parameter(torch.empty(1, config.dim, config.bands, 1))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(
                config.dim,
                config.heads,
                config.mlp_ratio,
                config.qkv_bias,
                config.layer_scale,
                config.dropout,
                config.attention_dropout,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        if not self.time_pos_embed.is_meta:  # there is nothing to draw, and torch would import 155 MB to try
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial weights with the published distributions."""
        nn.init.normal_(self.time_pos_embed, std=0.02)
        nn.init.normal_(self.freq_pos_embed, std=0.02)
        self.patch_embed.proj.reset_parameters()
        for module in self.modules():
            if isinstance(module, Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def positions(self, moments: int) -> Float[Tensor, "tokens dim"]:
        """What is added to the tokens of a window, in the tokens' order.

        Raises:
            ValueError: the window is longer than the learned positions.
        """
        if moments > self.config.window_moments:
            raise ValueError(
                f"{moments} moments of {self.config.patch_frames} frames are more than the "
                f"{self.config.window_moments} that the encoder has positions for; cut the audio, "
                "or build an encoder with a longer target_length"
            )
        grid = self.time_pos_embed[0, :, :, :moments] + self.freq_pos_embed[0]
        return grid.flatten(1).T

    def forward(
        self,
        mel: Float[Tensor, "windows mels frames"],
        is_valid: Bool[Tensor, "windows tokens"] | None = None,
        layers: Sequence[int] = (-1,),
        kept: Int[Tensor, "windows kept"] | None = None,
    ) -> Float[Tensor, "windows encoded features"]:
        """Encode windows of log-mel frames.

        Args:
            mel: dB levels as `LogMel` gives them, at most `window_moments` * `patch_frames` frames.
            is_valid: False at tokens that are padding; None if none is. What
                comes out at padding is without meaning.
            layers: blocks whose outputs are concatenated, counted from 0 or, if
                negative, from the end. The final LayerNorm is applied to each.
            kept: places of the tokens that a masked autoencoder's encoder sees, in
                the order in which they come out; None encodes all.

        Returns:
            Tokens, `len(layers) * dim` features each, in the order of `patchify`.

        Raises:
            ValueError: too many frames.
        """
        positions = self.positions(mel.shape[2] // self.config.patch_frames)
        x = self.patch_embed(self.init_bn(mel), kept)
        x = self.dropout(x + (positions if kept is None else positions[kept]))
        mask = None if is_valid is None else is_valid[:, None, None, :]
        chosen = [range(self.config.depth)[layer] for layer in layers]
        outputs = {}
        for index, block in enumerate(self.blocks[: max(chosen) + 1]):
            x = block(x, mask)
            if index in chosen:
                outputs[index] = self.norm(x)
        return torch.cat([outputs[index] for index in chosen], dim=-1)
