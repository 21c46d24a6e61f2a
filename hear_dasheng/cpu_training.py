"""Training on a CPU: what torch 2.14 has a faster way for than its default.

Both compute what the default computes, in the same precision; `benchmarks/README.md` has the figures.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

logger = logging.getLogger(__name__)

_are_operators_plain = False


@contextmanager
def plain_operators() -> Iterator[None]:
    """Compute linear layers and attention with torch's defaults inside the block.

    This is the reference of `hear-dasheng doctor`: what the fast paths must agree with.
    """
    global _are_operators_plain
    before, _are_operators_plain = _are_operators_plain, True
    try:
        yield
    finally:
        _are_operators_plain = before


def are_operators_plain() -> bool:
    """Whether `plain_operators` is in force."""
    return _are_operators_plain


class OneDnnLinear(torch.autograd.Function):
    """A linear layer in fp32 whose products oneDNN computes.

    torch leaves fp32 products to MKL, which is a tenth slower on AMD processors. The
    gradient of a weight has both factors transposed: there MKL is the faster one, unless the
    layer narrows.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Float[Tensor, "*batch inputs"],
        weight: Float[Tensor, "outputs inputs"],
        bias: Float[Tensor, " outputs"] | None,
    ) -> Float[Tensor, "*batch outputs"]:
        """Multiply and add."""
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of input, weight and bias, as far as they are asked for."""
        x, weight = ctx.saved_tensors
        rows, inputs = gradient.flatten(0, -2), x.flatten(0, -2)
        of_x = _product(gradient, weight.T, None) if ctx.needs_input_grad[0] else None
        of_weight = None
        if ctx.needs_input_grad[1]:
            is_narrowing = inputs.shape[1] > rows.shape[1]
            of_weight = _product(rows.T, inputs.T, None) if is_narrowing else rows.T @ inputs
        of_bias = rows.sum(0) if ctx.needs_input_grad[2] else None
        return of_x, of_weight, of_bias


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def can_use_onednn(x: Float[Tensor, "*batch inputs"], weight: Float[Tensor, "outputs inputs"]) -> bool:
    """Whether a gradient will be asked for, of an fp32 product on a CPU where oneDNN works."""
    is_fp32_on_cpu = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    return (
        is_fp32_on_cpu
        and not _are_operators_plain
        and type(x) is Tensor  # not a fake one, by which the cost of a step is counted
        and x.ndim > 1
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and is_onednn_usable()
    )


@functools.cache
def is_onednn_usable() -> bool:
    """Whether this build of torch on this CPU has the operator, tried on a small product."""
    if not torch.backends.mkldnn.is_available():
        return False
    x, weight, bias = torch.linspace(-1, 1, 96).view(3, 32), torch.linspace(-1, 1, 1536).view(48, 32), None
    try:
        result = _product(x, weight, bias)
    except (AttributeError, RuntimeError, NotImplementedError) as error:
        logger.info("oneDNN's fp32 linear layers are not usable here: %s", error)
        return False
    return torch.allclose(result, x @ weight.T, atol=1e-5)


def attend(
    q: Float[Tensor, "windows heads queries width"],
    k: Float[Tensor, "windows heads tokens width"],
    v: Float[Tensor, "windows heads tokens width"],
    is_valid: Bool[Tensor, "windows 1 1 tokens"] | None,
    dropout: float,
) -> Float[Tensor, "windows heads queries width"]:
    """Attention written out, for training on a CPU.

    torch 2.14's fused kernel computes the scores again for the gradients; on the 250 tokens of a
    clip of 10 s that costs a quarter more than to keep them. In bfloat16 it converts to fp32,
    and takes almost three times as long.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if is_valid is not None:
        scores = scores.masked_fill(~is_valid, -torch.inf)
    return F.dropout(scores.softmax(-1), dropout) @ v
