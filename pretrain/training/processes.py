"""Several training processes, and signals: who has data left, and who must stop.

Every process must take part in every collective operation, or the others wait
forever. So all agree before each iteration how much data it has, and whether to stop.
"""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from pretrain.training.config import DEFAULT_TIMEOUT_MIN

Result = TypeVar("Result")
KNOWN_TO_ALL = "is_known_to_all"
LOST_CONNECTION = re.compile(
    r"connection (closed|reset|refused)|broken pipe|socket (closed|error)|failed to recv", re.IGNORECASE
)
TIMED_OUT = re.compile(r"timed out|timeout", re.IGNORECASE)


def is_known_to_all(error: Exception) -> bool:
    """Whether every process of a run has raised this error, so that one message is enough."""
    return getattr(error, KNOWN_TO_ALL, False)


def collective_failure(error: BaseException) -> str | None:
    """Return what an error of a collective operation means if another process caused it; None if none did.

    The backends raise RuntimeError, or a subclass, with a text of their own. `agreed` avoids such errors
    where a process can be expected to fail; this is for the rest: bugs, memory, a process that was killed.
    """
    if not isinstance(error, RuntimeError):
        return None
    if LOST_CONNECTION.search(str(error)):
        return (
            "another process of this run has ended; see its message, or the launcher's if it was killed. "
            "Continue with --resume"
        )
    if TIMED_OUT.search(str(error)):
        return (
            "waited too long for another process of this run (process_timeout_min); if it was slow and not "
            "stuck, raise process_timeout_min and continue with --resume"
        )
    return None


class Processes:
    """The processes of a run, by default this one alone, and a channel for their small agreements.

    The channel is gloo's, beside the one for gradients: numbers on the CPU never wait for a GPU.
    """

    def __init__(self, count: int = 1, rank: int = 0, channel: dist.ProcessGroup | None = None) -> None:
        self.count, self.rank, self._channel = count, rank, channel

    @classmethod
    def of_this_run(cls, timeout_min: float = DEFAULT_TIMEOUT_MIN) -> Processes:
        """Return all processes that torch.distributed knows, or this one alone if it was not started.

        Args:
            timeout_min: minutes that they wait for each other on the channel.
        """
        if not dist.is_initialized():
            return cls()
        channel = dist.new_group(backend="gloo", timeout=timedelta(minutes=timeout_min))
        return cls(dist.get_world_size(), dist.get_rank(), channel)

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

    def agreed(self, action: Callable[[], Result]) -> Result:
        """Do something on each process; if it fails on one, its error is raised on all.

        All must call this together, or others would wait forever for one that has failed.
        """
        result, own = None, None
        try:
            result = action()
        except Exception as error:  # whatever it is, the others must not wait
            if self.count == 1 or is_known_to_all(error):
                raise
            own = error
        self.raise_first(own)
        return result

    def raise_first(self, own: Exception | None) -> None:
        """Raise the error of the first process that has one, on all of them; all must call this."""
        if self.count == 1:
            if own is not None:
                raise own
            return
        everyones = self.gathered(None if own is None else (type(own), str(own)))
        first = next((told for told in everyones if told is not None), None)
        if first is None:
            return
        kind, message = first
        try:
            error = kind(message)
        except TypeError:  # it is made of more than a message
            error = RuntimeError(f"{kind.__name__}: {message}")
        setattr(error, KNOWN_TO_ALL, True)
        raise error from own

    def part(self) -> None:
        """Wait for the others, and end what connects them; all must call this, and nothing after it."""
        if self.count > 1:
            self.sums([0])
            dist.destroy_process_group()


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
