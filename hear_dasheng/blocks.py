"""The transformer block: attention and MLP, each with its norm and residual connection.

Attribute names follow the published checkpoints' keys.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from hear_dasheng import cpu_training

LAYER_NORM_EPS = 1e-6
SOFTMAX_ROW = 32


class Linear(nn.Linear):
    """A linear layer that computes in the precision of its own weights, or of autocast."""

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Multiply and add, with the input cast to the weights; autocast casts both by itself."""
        return linear(x, self.weight, self.bias)


def linear(
    x: Float[Tensor, "*batch inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None,
) -> Float[Tensor, "*batch outputs"]:
    """What `Linear` computes, of any weights."""
    if not torch.is_autocast_enabled(x.device.type):
        x = x.to(weight.dtype)
        if cpu_training.can_use_onednn(x, weight):
            return cpu_training.OneDnnLinear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def attend(
    q: Float[Tensor, "windows heads queries width"],
    k: Float[Tensor, "windows heads tokens width"],
    v: Float[Tensor, "windows heads tokens width"],
    is_valid: Bool[Tensor, "windows 1 1 tokens"] | None,
    dropout: float = 0.0,
) -> Float[Tensor, "windows heads queries width"]:
    """Scaled dot-product attention, torch's fused kernel wherever that is fastest."""
    if q.device.type == "cpu" and not cpu_training.are_operators_plain():
        if dropout or torch.is_grad_enabled():
            return cpu_training.attend(q, k, v, is_valid, dropout)
        if q.dtype == torch.bfloat16:
            return attend_bfloat16_on_cpu(q, k, v, is_valid)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=is_valid, dropout_p=dropout)


def attend_bfloat16_on_cpu(
    q: Float[Tensor, "windows heads queries width"],
    k: Float[Tensor, "windows heads tokens width"],
    v: Float[Tensor, "windows heads tokens width"],
    is_valid: Bool[Tensor, "windows 1 1 tokens"] | None,
) -> Float[Tensor, "windows heads queries width"]:
    """Attention written out for bfloat16 inference on a CPU.

    torch 2.14's fused kernel converts to fp32 inside. Window by window the scores
    stay in the cache, and softmax is about 1.6 times as fast on rows of a multiple of 32,
    so keys are padded to that and masked.
    """
    windows, heads, tokens, width = k.shape
    padding = -tokens % SOFTMAX_ROW
    q, k, v = q * width**-0.5, F.pad(k, (0, 0, 0, padding)), F.pad(v, (0, 0, 0, padding))
    attended = q.new_empty(windows, q.shape[2], heads, width).transpose(1, 2)
    for index in range(windows):
        scores = torch.bmm(q[index], k[index].mT)
        scores[..., tokens:] = -torch.inf
        if is_valid is not None:
            scores[..., :tokens].masked_fill_(~is_valid[index], -torch.inf)
        attended[index] = torch.bmm(scores.softmax(-1), v[index])
    return attended


class Attention(nn.Module):
    """Multi-head self-attention; keys that are padding are not looked at.

    Attributes:
        attend: the function that weighs the values; `pretrain/training/step_cost.py` replaces it to plan for
            another device.
    """

    attend = staticmethod(attend)

    def __init__(
        self,
        dim: int,
        heads: int,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.attention_dropout = attention_dropout
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "windows tokens dim"],
        is_valid: Bool[Tensor, "windows 1 1 tokens"] | None,
        n_last: int | None = None,
    ) -> Float[Tensor, "windows updated dim"]:
        """Attend among the valid tokens of each window; of the last `n_last` alone, if given, to all."""
        windows, tokens, dim = x.shape
        width = dim // self.heads
        if n_last is None:
            q, k, v = self._by_head(self.qkv(x), width)
        else:
            weights = self.qkv.weight.split([dim, 2 * dim])
            biases = (None, None) if self.qkv.bias is None else self.qkv.bias.split([dim, 2 * dim])
            (q,) = self._by_head(linear(x[:, tokens - n_last :], weights[0], biases[0]), width)
            k, v = self._by_head(linear(x, weights[1], biases[1]), width)
        attended = self.attend(q, k, v, is_valid, self.attention_dropout if self.training else 0.0)
        return self.dropout(self.proj(attended.transpose(1, 2).reshape(windows, -1, dim)))

    def _by_head(
        self, projections: Float[Tensor, "windows tokens several_dims"], width: int
    ) -> Float[Tensor, "several windows heads tokens width"]:
        return projections.unflatten(2, (-1, self.heads, width)).permute(2, 0, 3, 1, 4)


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int, inner_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = Linear(dim, inner_dim)
        self.act = nn.GELU()
        self.fc2 = Linear(inner_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Widen, GELU, narrow."""
        return self.dropout(self.fc2(self.dropout(self.act(self.fc1(x)))))


class LayerScale(nn.Module):
    """A learned factor on each feature of an update."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Multiply."""
        return x * self.gamma


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and beside a residual connection.

    Args:
        dim: width of a token.
        heads: attention heads; must divide `dim`.
        mlp_ratio: inner width of the MLP, in units of `dim`.
        qkv_bias: the projections to queries, keys and values have a bias.
        layer_scale: initial value of learned factors on each update; None: no factors.
        dropout: of what attention and MLP give, and inside the MLP.
        attention_dropout: of the attention weights.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        layer_scale: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, heads, qkv_bias, dropout, attention_dropout)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

    def forward(
        self,
        x: Float[Tensor, "windows tokens dim"],
        is_valid: Bool[Tensor, "windows 1 1 tokens"] | None,
        n_last: int | None = None,
    ) -> Float[Tensor, "windows updated dim"]:
        """Update the tokens twice; if only the last `n_last` are wanted, these alone."""
        update = self.ls1(self.attn(self.norm1(x), is_valid, n_last))
        x = add_residual(x if n_last is None else x[:, x.shape[1] - n_last :], update)
        return add_residual(x, self.ls2(self.mlp(self.norm2(x))))


def add_residual(x: Float[Tensor, "*shape"], update: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x + update; in x's own memory where no gradient will need the old x."""
    return x + update if torch.is_grad_enabled() else x.add_(update)
