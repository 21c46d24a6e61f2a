"""Log-mel spectrogram -> tokens: the Dasheng encoder.

A pre-norm vision transformer whose patches span all 64 mel bands and four
frames, so that a token is 40 ms of sound and position is time alone.
Attribute names follow the published checkpoints' keys.
Source: Dinkel et al., Interspeech 2024, and the package `dasheng` 0.0.9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from hear_dasheng.mel import N_MELS
from hear_dasheng.sizes import SIZES

PATCH_FRAMES = 4
WINDOW_TOKENS = 252
LAYER_NORM_EPS = 1e-6
MLP_RATIO = 4
SOFTMAX_ROW = 32


@dataclass(frozen=True)
class EncoderConfig:
    """What is needed to build an encoder.

    Attributes:
        dim: width of a token.
        depth: number of transformer blocks.
        heads: attention heads of each block; must divide `dim`.
        window_tokens: learned positions, the most tokens that see each other.
    """

    dim: int
    depth: int
    heads: int
    window_tokens: int = WINDOW_TOKENS

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"EncoderConfig.{name} must be a whole number above 0, not {value!r}")
        if self.dim % self.heads:
            raise ValueError(f"{self.heads} attention heads do not divide a width of {self.dim}")

    @classmethod
    def of_size(cls, name: str) -> EncoderConfig:
        """The configuration of a named size of `SIZES`."""
        if name not in SIZES:
            raise ValueError(f"unknown size {name!r}; the sizes are {', '.join(SIZES)}")
        size = SIZES[name]
        return cls(dim=size.dim, depth=size.depth, heads=size.heads)


class Linear(nn.Linear):
    """A linear layer that computes in the precision of its own weights."""

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Multiply and add, with the input cast to the weights."""
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


class PatchEmbed(nn.Module):
    """Cuts a spectrogram into patches of four frames and projects each to a token.

    The weight keeps the shape of the published strided convolution; the product
    is a matrix product, which is the same sum and faster on a CPU.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, dim, (N_MELS, PATCH_FRAMES), (N_MELS, PATCH_FRAMES))

    def forward(
        self,
        mel: Float[Tensor, "windows mels frames"],
        kept: Int[Tensor, "windows kept"] | None = None,
    ) -> Float[Tensor, "windows tokens dim"]:
        """Project each patch, or those at the `kept` places alone."""
        patches = patchify(mel)
        if kept is not None:
            patches = take_tokens(patches, kept)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


def patchify(mel: Float[Tensor, "windows mels frames"]) -> Float[Tensor, "windows tokens values"]:
    """Cut a spectrogram into one vector a token, mel-major; frames that fill no patch are dropped.

    >>> patchify(torch.arange(64 * 9.0).reshape(1, 64, 9))[0, :, :5].tolist()
    [[0.0, 1.0, 2.0, 3.0, 9.0], [4.0, 5.0, 6.0, 7.0, 13.0]]
    """
    n_windows, n_mels, frames = mel.shape
    tokens = frames // PATCH_FRAMES
    patches = mel[:, :, : tokens * PATCH_FRAMES].reshape(n_windows, n_mels, tokens, PATCH_FRAMES)
    return patches.transpose(1, 2).reshape(n_windows, tokens, n_mels * PATCH_FRAMES)


def take_tokens(
    tokens: Float[Tensor, "windows tokens features"], places: Int[Tensor, "windows taken"]
) -> Float[Tensor, "windows taken features"]:
    """The tokens at each window's own places, in the order of the places."""
    return tokens.gather(1, places[:, :, None].expand(-1, -1, tokens.shape[2]))


def attend(
    q: Float[Tensor, "windows heads tokens width"],
    k: Float[Tensor, "windows heads tokens width"],
    v: Float[Tensor, "windows heads tokens width"],
    is_valid: Bool[Tensor, "windows 1 1 tokens"] | None,
) -> Float[Tensor, "windows heads tokens width"]:
    """Scaled dot-product attention, torch's fused kernel wherever that is fastest."""
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and not torch.is_grad_enabled():
        return attend_bfloat16_on_cpu(q, k, v, is_valid)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=is_valid)


def attend_bfloat16_on_cpu(
    q: Float[Tensor, "windows heads tokens width"],
    k: Float[Tensor, "windows heads tokens width"],
    v: Float[Tensor, "windows heads tokens width"],
    is_valid: Bool[Tensor, "windows 1 1 tokens"] | None,
) -> Float[Tensor, "windows heads tokens width"]:
    """Attention written out for bfloat16 inference on a CPU.

    torch 2.14's fused kernel converts to fp32 inside. Window by window the scores
    stay in the cache, and softmax is about 1.6 times as fast on rows of a multiple of 32,
    so keys are padded to that and masked.
    """
    windows, heads, tokens, width = q.shape
    padding = -tokens % SOFTMAX_ROW
    q, k, v = q * width**-0.5, F.pad(k, (0, 0, 0, padding)), F.pad(v, (0, 0, 0, padding))
    attended = q.new_empty(windows, tokens, heads, width).transpose(1, 2)
    for index in range(windows):
        scores = torch.bmm(q[index], k[index].mT)
        scores[..., tokens:] = -torch.inf
        if is_valid is not None:
            scores[..., :tokens].masked_fill_(~is_valid[index], -torch.inf)
        attended[index] = torch.bmm(scores.softmax(-1), v[index])
    return attended


class Attention(nn.Module):
    """Multi-head self-attention; keys that are padding are not looked at."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "windows tokens dim"],
        is_valid: Bool[Tensor, "windows 1 1 tokens"] | None,
    ) -> Float[Tensor, "windows tokens dim"]:
        """Attend among the valid tokens of each window."""
        windows, tokens, dim = x.shape
        qkv = self.qkv(x).view(windows, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = attend(q, k, v, is_valid)
        return self.proj(attended.transpose(1, 2).reshape(windows, tokens, dim))


class Mlp(nn.Module):
    """Two linear layers with GELU between them, four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, MLP_RATIO * dim)
        self.act = nn.GELU()
        self.fc2 = Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Widen, GELU, narrow."""
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and beside a residual connection."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim)

    def forward(
        self,
        x: Float[Tensor, "windows tokens dim"],
        is_valid: Bool[Tensor, "windows 1 1 tokens"] | None,
    ) -> Float[Tensor, "windows tokens dim"]:
        """Update the tokens twice."""
        x = add_residual(x, self.attn(self.norm1(x), is_valid))
        return add_residual(x, self.mlp(self.norm2(x)))


def add_residual(x: Float[Tensor, "*shape"], update: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x + update; in x's own memory where no gradient will need the old x."""
    return x + update if torch.is_grad_enabled() else x.add_(update)


class Encoder(nn.Module):
    """The Dasheng encoder over windows of at most `config.window_tokens` tokens."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.init_bn = nn.BatchNorm1d(N_MELS, momentum=0.01)
        self.patch_embed = PatchEmbed(config.dim)
        self.time_pos_embed = nn.Parameter(torch.empty(1, config.dim, 1, config.window_tokens))
        self.freq_pos_embed = nn.Parameter(torch.empty(1, config.dim, 1, 1))
        self.blocks = nn.ModuleList(Block(config.dim, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        if not self.time_pos_embed.is_meta:  # there is nothing to draw, and torch would import 155 MB to try
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial weights with the published distributions."""
        nn.init.normal_(self.time_pos_embed, std=0.02)
        nn.init.normal_(self.freq_pos_embed, std=0.02)
        self.patch_embed.proj.reset_parameters()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        mel: Float[Tensor, "windows mels frames"],
        is_valid: Bool[Tensor, "windows tokens"] | None = None,
        layers: Sequence[int] = (-1,),
        kept: Int[Tensor, "windows kept"] | None = None,
    ) -> Float[Tensor, "windows encoded features"]:
        """Encode windows of log-mel frames.

        Args:
            mel: dB levels as `LogMel` gives them, at most `window_tokens` * 4 frames.
            is_valid: False at tokens that are padding; None if none is. What
                comes out at padding is without meaning.
            layers: blocks whose outputs are concatenated, counted from 0 or, if
                negative, from the end. The final LayerNorm is applied to each.
            kept: places of the tokens that a masked autoencoder's encoder sees, in
                the order in which they come out; None encodes all.

        Returns:
            Tokens, `len(layers) * dim` features each.
        """
        x = self.patch_embed(self.init_bn(mel), kept)
        positions = (self.time_pos_embed[0, :, 0] + self.freq_pos_embed[0, :, 0]).T
        x = x + (positions[: x.shape[1]] if kept is None else positions[kept])
        mask = None if is_valid is None else is_valid[:, None, None, :]
        chosen = [range(self.config.depth)[layer] for layer in layers]
        outputs = {}
        for index, block in enumerate(self.blocks[: max(chosen) + 1]):
            x = block(x, mask)
            if index in chosen:
                outputs[index] = self.norm(x)
        return torch.cat([outputs[index] for index in chosen], dim=-1)
