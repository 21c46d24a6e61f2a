"""Several training processes, and signals: who has data left, and who must stop.

Every process must take part in every collective operation, or the others wait
forever. So all agree before each iteration how much data it has, and whether to stop.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist


class Processes:
    """The processes of a run, by default this one alone, and a channel for their small agreements.

    The channel is gloo's, beside the one for gradients: numbers on the CPU never wait for a GPU.
    """

    def __init__(self, count: int = 1, rank: int = 0, channel: dist.ProcessGroup | None = None) -> None:
        self.count, self.rank, self._channel = count, rank, channel

    @classmethod
    def of_this_run(cls) -> Processes:
        """All that torch.distributed knows; this one alone if it was not started."""
        if not dist.is_initialized():
            return cls()
        return cls(dist.get_world_size(), dist.get_rank(), dist.new_group(backend="gloo"))

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """Add each number over all processes."""
        if self.count == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total, group=self._channel)
        return total.tolist()

    def merged(self, counts: Counter[str]) -> Counter[str]:
        """Add counts over all processes."""
        if self.count == 1:
            return Counter(counts)
        return sum(self.gathered(counts), Counter())

    def gathered(self, own: Any) -> list[Any]:
        """What each process has, in the order of their ranks."""
        if self.count == 1:
            return [own]
        everyones = [None] * self.count
        dist.all_gather_object(everyones, own, group=self._channel)
        return everyones


class StopRequest:
    """Whether SIGTERM or SIGINT has come.

    Attributes:
        signal: the signal, None while there is none.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C means now
        self.signal = signal.Signals(number)

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Catch the two signals inside the block, so that a run can save its state first."""
        signals = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._receive) for number in signals}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
