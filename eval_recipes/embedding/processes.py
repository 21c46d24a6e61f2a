"""The processes that share the work, as Accelerate's launcher, torchrun or SLURM started them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env

from hear_dasheng.files.failures import message_of

PATIENCE = timedelta(hours=6)
"""How long processes wait for one that checks or joins the files of a large task."""
Result = TypeVar("Result")


class Processes:
    """One process, or many that keep in step; in a `with` block, after which they part.

    Attributes:
        index: of this process, from 0.
        count: of all processes.
        device: this process's.
    """

    def __init__(self) -> None:
        no_gpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
        self._state = PartialState(cpu=no_gpu, timeout=PATIENCE)
        self.index, self.count = self._state.process_index, self._state.num_processes
        self.device = self._state.device

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *raised: object) -> None:
        if self.count > 1:  # or threads of gloo that still run at exit would abort the process
            self._state.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this process speaks to the user and writes what is one for all."""
        return self.index == 0

    def first_does(self, work: Callable[[], Result], problem: type[Exception]) -> Result:
        """Let the first process do something alone, and tell all what came of it.

        Args:
            work: its result must be picklable.
            problem: an exception that all processes raise if `work` raises it or an `OSError`.
        """
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = work()
            except (problem, OSError) as error:
                outcome[1] = _told(error)
        if self.count > 1:
            broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise problem(outcome[1])
        return outcome[0]

    def each_does(self, work: Callable[[], None], problem: type[Exception]) -> None:
        """Let each process do its share, and wait for all; a problem of one is a problem of all.

        Raises:
            problem: with what the processes report that met it or an `OSError`.
        """
        said: list[str] = []
        try:
            work()
        except (problem, OSError) as error:
            said.append(_told(error))
        everywhere = gather_object(said) if self.count > 1 else said
        if everywhere:
            raise problem("; ".join(everywhere))


def _told(error: Exception) -> str:
    """Return an error's message for all processes, which would wait for one that ended without a word."""
    if isinstance(error, BrokenPipeError):  # nobody reads our output any more
        raise error
    return message_of(error) or str(error)
