"""What "fp32", "tf32" and "bf16" mean, whatever the process's global switches say.

torch lets matrix products and cuDNN's convolutions round fp32 inputs to TF32 (and
oneDNN's to bfloat16) through process-wide switches, some on by default. An
embedding must not depend on who flipped them, so they are set around each
forward pass and put back after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

PRECISIONS = ("fp32", "tf32", "bf16")


Switch = tuple[Callable[[], Any], Callable[[Any], None], Any]
"""How to read a global switch, how to set it, and the value it shall have."""


def _attribute(owner: Any, name: str, value: Any) -> Switch:
    return partial(getattr, owner, name), partial(setattr, owner, name), value


def _switches(allow_tf32: bool) -> list[Switch]:
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if not hasattr(cuda, "fp32_precision"):  # torch < 2.9
        matmul = "high" if allow_tf32 else "highest"
        return [
            (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, matmul),
            _attribute(cudnn, "allow_tf32", allow_tf32),
        ]
    gpu = "tf32" if allow_tf32 else "ieee"
    return [
        _attribute(cuda, "fp32_precision", gpu),
        _attribute(cudnn.conv, "fp32_precision", gpu),
        _attribute(torch.backends.mkldnn.matmul, "fp32_precision", "ieee"),
    ]


@contextmanager
def fp32_arithmetic(*, allow_tf32: bool) -> Iterator[None]:
    """Compute fp32 products in full precision, or with TF32 inputs on a GPU if allowed."""
    switches = _switches(allow_tf32)
    before = [read() for read, _, _ in switches]
    try:
        for _, write, value in switches:
            write(value)
        yield
    finally:
        for (_, write, _), value in zip(switches, before, strict=True):
            write(value)
