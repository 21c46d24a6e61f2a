"""What runs in a data worker: a stream, whose batches travel to the trainer with the stream's position."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pretrain.reading.batch import Batch
from pretrain.reading.crop_stream import CropStream, StreamPlan
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
        batch: None after the last.
        failure: why the stream gave up, if it did.
        last_example: after the last batch, what was skipped last.
        n_left_over: after the last batch, the crops that did not fill one.
    """

    worker: int
    position: dict[str, Any]
    skipped: dict[str, int]
    batch: Batch | None = None
    failure: str = ""
    last_example: str = ""
    n_left_over: int = 0


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
    """

    def __init__(
        self,
        plan: StreamPlan,
        pass_index: int,
        rank: int,
        n_ranks: int,
        positions: Sequence[dict[str, Any] | None],
        first: int,
    ) -> None:
        self.plan, self.pass_index = plan, pass_index
        self.rank, self.n_ranks = rank, n_ranks
        self.positions, self.first = positions, first

    def __iter__(self) -> Iterator[Delivery]:
        info = get_worker_info()
        worker = (self.first + (info.id if info else 0)) % len(self.positions)
        stream = CropStream(self.plan, worker * self.n_ranks + self.rank, self.pass_index)
        failure = ""
        try:
            if self.positions[worker] is not None:
                go_to(stream, self.positions[worker])
            for batch in stream.batches():
                yield Delivery(worker, position_of(stream), batch.skipped, batch)
        except NoUsableAudio as error:  # an exception would arrive with a traceback as its message
            failure = str(error)
        skips = stream.skips
        yield Delivery(
            worker,
            position_of(stream),
            skips.take_new(),
            None,
            failure,
            skips.last_example,
            stream.n_left_over,
        )


def received(loader: DataLoader) -> Iterator[Delivery]:
    """What the workers send.

    Raises:
        RuntimeError: a worker died.
    """
    deliveries = iter(loader)
    while True:
        try:
            delivery = next(deliveries)
        except StopIteration:
            return
        except (ConnectionError, EOFError) as error:  # it died while sending
            time.sleep(1)  # in which torch raises its own error, which names the process and the signal
            raise RuntimeError("a data worker died; if memory ran out, use fewer workers") from error
        yield delivery


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
