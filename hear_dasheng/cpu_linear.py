"""Linear layers in oneDNN's own weight layout, for inference on a CPU.

torch multiplies fp32 matrices with MKL and converts bfloat16 weights to oneDNN's
layout at each call. Converting them once and fusing GELU into the product that
feeds it is faster (`benchmarks/README.md` has the figures) and the same arithmetic;
the operators are those that torch's own compiler emits. `pack` moves an encoder's
weights into that layout, `unpack` moves them back bit for bit; there is never a
second copy.
"""

from __future__ import annotations

import functools
import logging

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hear_dasheng.blocks import Linear
from hear_dasheng.encoder import Encoder

logger = logging.getLogger(__name__)

ROWS_HINT = 2016
"""Rows of a typical product (eight windows of 252 tokens); oneDNN picks the layout for it."""


class PackedLinear(nn.Module):
    """A linear layer (and perhaps GELU after it) whose weight is in oneDNN's layout."""

    def __init__(self, linear: nn.Linear, *, with_gelu: bool = False) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS_HINT)
        self.bias = linear.bias
        self.activation = "gelu" if with_gelu else "none"

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Multiply, add and, if asked, apply GELU."""
        x = x.to(self.weight.dtype)
        algorithm = "none" if self.activation == "gelu" else ""  # "none": the exact, erf GELU
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.activation, [], algorithm)

    def unpacked(self) -> Linear:
        """The ordinary layer with the same weights."""
        weight = self.weight.to_dense()
        linear = Linear(weight.shape[1], weight.shape[0], device="meta")
        linear.weight = nn.Parameter(weight, requires_grad=False)
        linear.bias = self.bias
        return linear


@functools.cache
def is_supported(dtype: torch.dtype) -> bool:
    """Whether this build of torch on this CPU has the operators, tried on a small product."""
    if not torch.backends.mkldnn.is_available():
        return False
    linear = Linear(32, 48, dtype=dtype).requires_grad_(False)
    x = torch.linspace(-1, 1, 96, dtype=dtype).reshape(3, 32)
    try:
        result = PackedLinear(linear)(x)
    except (AttributeError, RuntimeError, NotImplementedError) as error:
        logger.info("oneDNN's packed %s linear layers are not usable here: %s", dtype, error)
        return False
    return torch.allclose(result, linear(x), rtol=1e-2, atol=1e-2)


def pack(encoder: Encoder) -> None:
    """Move the weights of all blocks into oneDNN's layout, in place.

    Does nothing where the operators are missing. Afterwards the encoder serves
    inference on this CPU alone until `unpack`.
    """
    for block in encoder.blocks:
        attn, mlp = block.attn, block.mlp
        if isinstance(mlp.fc1, PackedLinear) or not is_supported(mlp.fc1.weight.dtype):
            continue
        attn.qkv, attn.proj = PackedLinear(attn.qkv), PackedLinear(attn.proj)
        mlp.fc1, mlp.act = PackedLinear(mlp.fc1, with_gelu=True), nn.Identity()
        mlp.fc2 = PackedLinear(mlp.fc2)


def unpack(encoder: Encoder) -> None:
    """Undo `pack`: ordinary layers with bit-identical weights."""
    for block in encoder.blocks:
        attn, mlp = block.attn, block.mlp
        if not isinstance(mlp.fc1, PackedLinear):
            continue
        attn.qkv, attn.proj = attn.qkv.unpacked(), attn.proj.unpacked()
        mlp.fc1, mlp.act = mlp.fc1.unpacked(), nn.GELU()
        mlp.fc2 = mlp.fc2.unpacked()
