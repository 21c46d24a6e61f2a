"""Matrix products of a probe, by whichever library is fastest here.

torch leaves fp32 products on a CPU to MKL, which is a tenth slower than oneDNN on AMD
processors. bfloat16 products halve the time again where the processor has such units.
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


@functools.cache
def is_onednn_usable() -> bool:
    """Whether this build of torch has oneDNN's linear layer, tried on a small product."""
    if not torch.backends.mkldnn.is_available():
        return False
    x, weight = torch.linspace(-1, 1, 96).view(3, 32), torch.linspace(-1, 1, 1536).view(48, 32)
    try:
        weight = torch.ops.mkldnn._reorder_linear_weight(weight, len(x))
        result = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return torch.allclose(result, x @ weight.to_dense().T, atol=1e-5)


class Products:
    """The three products of a linear layer.

    Args:
        precision: `fp32`, or `bf16`, whose factors are rounded and whose sums are not.
        device: where the factors are.
    """

    def __init__(self, precision: str, device: torch.device) -> None:
        self.is_bf16 = precision == "bf16"
        self._uses_onednn = not self.is_bf16 and device.type == "cpu" and is_onednn_usable()

    def factor(self, x: Float[Tensor, "rows columns"]) -> Tensor:
        """A factor in the precision of the products; reuse it where it occurs twice."""
        return x.bfloat16() if self.is_bf16 else x

    def packed(self, weight: Float[Tensor, "outputs inputs"], rows: int) -> Tensor:
        """A weight in the layout that is fastest for many `forward`s of about so many rows each."""
        if self._uses_onednn:
            return torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        return self.factor(weight)

    def forward(self, x: Tensor, weight: Tensor) -> Float[Tensor, "rows outputs"]:
        """x times weight transposed, of two factors."""
        if self._uses_onednn:
            return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        return F.linear(x, weight).float()

    def of_input(self, gradient: Tensor, weight: Tensor) -> Float[Tensor, "rows inputs"]:
        """Gradient of the input: gradient times weight."""
        return self.forward(gradient, weight.T)

    def of_weight(self, gradient: Tensor, x: Tensor, out: Float[Tensor, "outputs inputs"]) -> None:
        """Gradient of the weight: gradient transposed times x, into `out`."""
        if self.is_bf16:
            out.copy_(gradient.T @ x)
        else:
            torch.mm(gradient.T, x, out=out)
