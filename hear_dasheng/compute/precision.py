"""Define what "fp32" and "tf32" mean, independently of the process's global switches.

torch lets matrix products and convolutions round fp32 inputs to TF32 (on a GPU) or to bfloat16 (oneDNN)
through process-wide switches, some of which are on by default. An embedding must not depend on who changed
them, so they are set around each computation and restored afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

PRECISIONS = ("fp32", "tf32", "bf16")

Switch = tuple[Callable[[], Any], Callable[[Any], Any], Any]
"""A global switch: how to read it, how to set it, and the value that it gets."""


def _attribute(owner: Any, name: str, value: Any) -> Switch:
    return partial(getattr, owner, name), partial(setattr, owner, name), value


def _legacy_switches(allow_tf32: bool) -> list[Switch]:
    """Return the switches that torch < 2.9 has alone, and that later versions keep beside the newer ones."""
    matmul = "high" if allow_tf32 else "highest"
    return [
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, matmul),
        _attribute(torch.backends.cudnn, "allow_tf32", allow_tf32),
    ]


def _switches(allow_tf32: bool) -> list[Switch]:
    """Return the switches of each library and operator, which torch >= 2.9 has."""
    backends = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):
        return []
    gpu = "tf32" if allow_tf32 else "ieee"
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    return [
        *(
            _attribute(owner, "fp32_precision", gpu)
            for owner in (backends.cuda.matmul, cudnn.conv, cudnn.rnn)
        ),
        *(_attribute(owner, "fp32_precision", "ieee") for owner in (mkldnn.matmul, mkldnn.conv, mkldnn.rnn)),
    ]


def _read(switches: list[Switch]) -> list[tuple[Switch, Any]]:
    """Return the switches that can be read, with their values.

    torch raises when a legacy switch is read after a newer one was set to something else. Such a switch is
    left alone: it decides nothing any more.
    """
    found = []
    for switch in switches:
        try:
            found.append((switch, switch[0]()))
        except RuntimeError:
            continue
    return found


@contextmanager
def fp32_arithmetic(*, allow_tf32: bool = False) -> Iterator[None]:
    """Compute fp32 products and convolutions in full precision, or with TF32 inputs on a GPU if allowed.

    Inside the block the legacy switches (`torch.backends.cudnn.allow_tf32`,
    `torch.get_float32_matmul_precision`) agree with the newer ones (`fp32_precision`), so that code which
    reads either works.
    """
    # Setting a legacy switch also sets newer ones, so the legacy switches come first, both times.
    before = _read(_legacy_switches(allow_tf32)) + _read(_switches(allow_tf32))
    try:
        for (_, write, value), _ in before:
            write(value)
        yield
    finally:
        for (_, write, _), value in before:
            write(value)
