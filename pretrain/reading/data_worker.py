"""What runs in a data worker: a stream, whose pieces travel to the trainer with the stream's position."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pretrain.reading.crop_stream import CropStream, Piece, Place, StreamPlan
from pretrain.reading.skip_log import NoUsableAudio
from pretrain.reading.stream_position import go_to, position_of

GRACE_S = 60
"""From a first SIGTERM to a worker's end."""


class Delivery(NamedTuple):
    """What a worker sends.

    Attributes:
        worker: which one.
        position: of its stream after this.
        skipped: what it newly found unusable, by reason.
        piece: crops; None after the last.
        is_again: the piece had been given before the position, and waits in the training process.
        failure: why the stream gave up, if it did.
        last_example: after the last piece, what was skipped last.
    """

    worker: int
    position: dict[str, Any] | None
    skipped: dict[str, int]
    piece: Piece | None = None
    is_again: bool = False
    failure: str = ""
    last_example: str = ""


class Deliveries(IterableDataset):
    """The dataset that a DataLoader with `batch_size=None` iterates over, in each of its workers.

    A DataLoader always asks its first worker first. Here that one takes the stream
    whose turn it is, so that resuming keeps the order.

    Args:
        plan: what the streams have in common.
        pass_index: which pass over the data.
        rank: this process.
        n_ranks: processes that share the data.
        positions: where each worker's stream starts; None for its beginning.
        first: whose turn it is.
        waiting: for each worker, places of crops that it had given before its position. They are sent
            first, by all workers in the same number of pieces (some of them empty), so that the turns stay.
    """

    def __init__(
        self,
        plan: StreamPlan,
        pass_index: int,
        rank: int,
        n_ranks: int,
        positions: Sequence[dict[str, Any] | None],
        first: int,
        waiting: Sequence[Sequence[Place]],
    ) -> None:
        self.plan, self.pass_index = plan, pass_index
        self.rank, self.n_ranks = rank, n_ranks
        self.positions, self.first, self.waiting = positions, first, waiting

    @property
    def rounds_again(self) -> int:
        """Return how many pieces each worker sends before it resumes its stream."""
        return math.ceil(max(map(len, self.waiting)) / self.plan.piece_crops)

    def __iter__(self) -> Iterator[Delivery]:
        info = get_worker_info()
        worker = (self.first + (info.id if info else 0)) % len(self.positions)
        stream = CropStream(self.plan, worker * self.n_ranks + self.rank, self.pass_index)
        failure = ""
        try:
            position, again = self.positions[worker], []
            if position is not None:
                again = go_to(stream, position, self.waiting[worker])
            for start in range(0, self.rounds_again * self.plan.piece_crops, self.plan.piece_crops):
                some = again[start : start + self.plan.piece_crops]
                piece = stream.piece_of(some) if some else None
                yield Delivery(worker, position, stream.skips.take_new(), piece, is_again=True)
            del again
            for piece in stream.pieces():
                yield Delivery(worker, position_of(stream), stream.skips.take_new(), piece)
        except NoUsableAudio as error:  # an exception would arrive with a traceback as its message
            failure = str(error)
        skips = stream.skips
        yield Delivery(
            worker,
            position_of(stream),
            skips.take_new(),
            failure=failure,
            last_example=skips.last_example,
        )


def received(loader: DataLoader) -> Iterator[Delivery]:
    """Start the workers and yield what they send.

    Raises:
        RuntimeError: a worker died.
    """
    # Not in the generator: whoever iterates may be a thread, and workers are started from the main one.
    return _with_clear_errors(iter(loader))


def _with_clear_errors(deliveries: Iterator[Delivery]) -> Iterator[Delivery]:
    while True:
        try:
            delivery = next(deliveries)
        except StopIteration:
            return
        except (ConnectionError, EOFError) as error:  # it died while sending
            time.sleep(1)  # in which torch raises its own error, which names the process and the signal
            raise RuntimeError("a data worker died; if memory ran out, use fewer workers") from error
        yield delivery


def unchanged(delivery: Delivery) -> Delivery:
    """Return a delivery as it is; DataLoader's own `collate_fn` would make tensors of all numbers in it."""
    return delivery


def leave_signals_to_trainer(worker: int) -> None:
    """Live on for a while when all processes get a signal: the trainer saves, and then ends its workers.

    Schedulers send SIGTERM to every process, terminals SIGINT. A second SIGTERM ends the worker at once.
    """

    def on_first(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.alarm(GRACE_S)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, on_first)
