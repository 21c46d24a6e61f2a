"""Copies between host and device for which neither side waits.

A GPU works through a queue that the host fills. Whatever makes the host wait for the end of the queue leaves
the GPU idle until the host has filled it again: reading a value (`.item()`), and copies from or to pageable
memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Event(Protocol):
    """A place in a device's queue."""

    def synchronize(self) -> None:
        """Wait until the device has reached this place."""


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; copies to a GPU start from page-locked memory and are only enqueued."""
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def start_copy(values: Tensor) -> tuple[Tensor, Event | None]:
    """Enqueue a copy to the host.

    Returns:
        The copy, valid once the device has reached the event; None instead of an event: valid at once.
    """
    if values.device.type != "cuda":
        return values.cpu(), None
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(values.device))
    return host, event


class HostCopy:
    """Scalars of a device that the host wants to know later.

    Args:
        scalars: tensors without dimensions, all on one device. Later changes to them have no effect.
    """

    def __init__(self, scalars: Sequence[Tensor]) -> None:
        self._host, self._event = start_copy(torch.stack([scalar.detach().float() for scalar in scalars]))

    def read(self) -> list[float]:
        """Return the scalars; wait until the device has computed them, and for nothing enqueued later."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.tolist()
