"""A function over many arguments in several workers: results in order, memory bounded.

What `concurrent.futures` leaves open is settled here: a worker process that dies is an
error and never a wait, workers end with their parent even if that is killed, Ctrl-C
reaches the parent alone, and only a few results wait at a time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")

IN_FLIGHT_PER_WORKER = 3


class WorkerDied(RuntimeError):
    """A worker process ended by itself.

    Attributes:
        in_flight: the arguments of which one was its last.
    """

    def __init__(self, in_flight: list) -> None:
        super().__init__(f"a worker process died over one of {len(in_flight)} arguments")
        self.in_flight = in_flight


def ordered_map(
    function: Callable[[Argument], Result],
    arguments: Iterable[Argument],
    n_workers: int,
    is_threaded: bool = False,
) -> Iterator[Result]:
    """`map` in `n_workers` processes or threads; in neither if they are fewer than 2.

    Close the iterator (`contextlib.closing`) to stop the workers before its end.

    Args:
        function: importable by name from a fresh process.
        arguments: taken a few at a time.
        n_workers: processes or threads.
        is_threaded: use threads. Right for what waits for disks, as large results need not
            travel; processes are right for what computes.

    Raises:
        WorkerDied: a process was killed or crashed.
    """
    if n_workers < 2:
        yield from map(function, arguments)
        return
    pending: deque[tuple[Argument, Future[Result]]] = deque()
    with (_threads if is_threaded else _processes)(n_workers) as (pool, stop):
        try:
            for argument in arguments:
                with _interrupts_held():
                    pending.append((argument, pool.submit(function, argument)))
                if len(pending) >= IN_FLIGHT_PER_WORKER * n_workers:
                    yield pending[0][1].result()
                    pending.popleft()
            while pending:
                yield pending[0][1].result()
                pending.popleft()
        except BrokenProcessPool as error:
            lost = [argument for argument, future in pending if not future.done() or future.exception()]
            raise WorkerDied(lost) from error
        finally:
            if pending:
                stop()


@contextmanager
def _threads(n_workers: int) -> Iterator[tuple[Executor, Callable[[], None]]]:
    """A pool, and what drops all that it has not begun."""
    with ThreadPoolExecutor(n_workers) as pool:
        yield pool, partial(pool.shutdown, cancel_futures=True)


@contextmanager
def _processes(n_workers: int) -> Iterator[tuple[Executor, Callable[[], None]]]:
    """A pool, and what ends its workers at once, in the middle of files that take minutes."""
    parent_is_gone, stop = multiprocessing.Pipe(duplex=False)
    # Fork would copy the threads' locks (progress bar, executor) in whatever state they are.
    context = multiprocessing.get_context("spawn")
    with (
        parent_is_gone,
        stop,
        ProcessPoolExecutor(n_workers, context, _end_with_parent, (parent_is_gone,)) as pool,
    ):
        yield pool, stop.close


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start processes that do not hear Ctrl-C; the parent hears it right after."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(parent_is_gone: Connection) -> None:
    """Watch, in a worker, for the end of the pipe that only the parent holds open."""

    def watch() -> None:
        parent_is_gone.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
