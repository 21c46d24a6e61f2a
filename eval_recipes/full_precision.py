"""float32 products in full precision, whatever global switches say; these are put back after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

Switch = tuple[Callable[[], Any], Callable[[Any], Any], Any]
"""How a switch is read and set, and its value for full precision."""


def _attribute(owner: Any, name: str, value: Any) -> Switch:
    return partial(getattr, owner, name), partial(setattr, owner, name), value


def _switches() -> list[Switch]:
    backends = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):  # torch < 2.9
        return [
            (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
            _attribute(backends.cudnn, "allow_tf32", False),
        ]
    owners = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    return [_attribute(owner, "fp32_precision", "ieee") for owner in owners]


@contextmanager
def full_precision() -> Iterator[None]:
    """Neither a GPU's TF32 nor oneDNN's TF32 or bfloat16 for float32 factors of products and convolutions.

    Each library's own switch is set and put back: torch refuses to read the older one for all of them as soon
    as somebody has set one of the others.
    """
    switches = _switches()
    before = [read() for read, _, _ in switches]
    try:
        for _, write, value in switches:
            write(value)
        yield
    finally:
        for (_, write, _), value in zip(switches, before, strict=True):
            write(value)
