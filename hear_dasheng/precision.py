"""What "fp32", "tf32" and "bf16" mean, whatever the process's global switches say.

torch lets matrix products and cuDNN's convolutions round fp32 inputs to TF32 (and
oneDNN's to bfloat16) through process-wide switches, some on by default. An
embedding must not depend on who flipped them, so they are set around each
forward pass and put back after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

PRECISIONS = ("fp32", "tf32", "bf16")


def _switches(allow_tf32: bool) -> list[tuple[Any, str, Any]]:
    """The (object, attribute, value) triples that fix how fp32 products are computed."""
    cuda = torch.backends.cuda.matmul
    if not hasattr(cuda, "fp32_precision"):  # torch < 2.9
        return [
            (cuda, "allow_tf32", allow_tf32),
            (torch.backends.cudnn, "allow_tf32", allow_tf32),
        ]
    gpu = "tf32" if allow_tf32 else "ieee"
    return [
        (cuda, "fp32_precision", gpu),
        (torch.backends.cudnn.conv, "fp32_precision", gpu),
        (torch.backends.mkldnn.matmul, "fp32_precision", "ieee"),
    ]


@contextmanager
def fp32_arithmetic(*, allow_tf32: bool) -> Iterator[None]:
    """Compute fp32 products in full precision, or with TF32 inputs on a GPU if allowed."""
    switches = _switches(allow_tf32)
    before = [getattr(owner, name) for owner, name, _ in switches]
    try:
        for owner, name, value in switches:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(switches, before, strict=True):
            setattr(owner, name, value)
