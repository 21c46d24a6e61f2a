"""Crops of all data workers -> batches in which they are mixed, and the record that restores the mixture.

Why a second buffer: where files are long, a worker's own buffer holds crops of few of them, and a batch
from one worker would hold these alone. So workers send pieces of a batch in turn, and the training process
shuffles their crops once more, as the published loader does.

Memory: the buffer holds at most `capacity` crops, which takes capacity x seconds x sample rate x 4 bytes in
each training process (512 crops of 10 s at 16 kHz: 328 MB); the piece that is entering it comes on top.
Crops are copied when they arrive. A crop that stayed a view of its piece would keep the whole piece in
shared memory, and among many crops one stays for about capacity x ln(capacity) draws, so that the buffer
would keep several times its size.

Exactness: what follows a batch depends on
  1. the position of each worker's stream after the last piece that was taken from it, and whose turn it is,
  2. the crops in the buffer, in order,
  3. the crops of the last piece that have not entered the buffer,
  4. the state of the buffer's random generator,
and on nothing else: pieces that workers have made in advance, and a batch that was put together in advance,
are made again from these. 1 and 4 are numbers. Of 2 and 3 the record holds the worker, shard, member and
number of each crop. When a run is resumed, each worker decodes its own crops among them and sends these
before its stream resumes at 1. Decoding is deterministic, so they are the same to the last bit.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pretrain.reading.batch import Batch
from pretrain.reading.crop_stream import Place
from pretrain.reading.data_worker import Delivery
from pretrain.reading.shuffle_buffer import shuffled
from pretrain.reading.skip_log import NoUsableAudio
from pretrain.reading.stream_position import from_words, generator_state, in_words, restore_generator

T = TypeVar("T")


class MixedCrop(NamedTuple):
    """A crop in the training process."""

    worker: int
    place: Place
    key: str
    samples: Float[np.ndarray, " samples"]
    target: Float[np.ndarray, " classes"] | None


@dataclass(frozen=True)
class Snapshot:
    """All that the following batches depend on.

    Attributes:
        positions: of each worker's stream, after the last piece that was taken from it; None: its beginning.
        next_worker: whose turn it is.
        waiting: worker, shard, member and number of each crop that waits here: those in the buffer, then
            those of the last piece that have not entered it.
        n_arriving: how many the latter are.
        rng: state of the buffer's random generator; None if it has not been used.
        n_batches: given so far in this pass.
        is_over: the pass is.
        skipped: what was found unusable so far, by reason.
    """

    positions: tuple[dict[str, Any] | None, ...]
    next_worker: int = 0
    waiting: tuple[tuple[int, ...], ...] = ()
    n_arriving: int = 0
    rng: tuple[Any, ...] | None = None
    n_batches: int = 0
    is_over: bool = False
    skipped: tuple[tuple[str, int], ...] = ()

    def as_state(self) -> dict[str, Any]:
        """Return it as numbers, strings, lists and dicts."""
        return {
            "positions": list(self.positions),
            "next_worker": self.next_worker,
            "waiting": in_words(self.waiting),
            "n_arriving": self.n_arriving,
            "mixing_rng": None if self.rng is None else list(self.rng),
            "n_batches": self.n_batches,
            "is_over": self.is_over,
            "skipped_total": dict(self.skipped),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Snapshot:
        """Read what `as_state` returned; states from before crops were mixed here have none that wait."""
        rng = state.get("mixing_rng")
        return cls(
            positions=tuple(state["positions"]),
            next_worker=state["next_worker"],
            waiting=tuple(from_words(state.get("waiting", ""))),
            n_arriving=state.get("n_arriving", 0),
            rng=None if rng is None else tuple(rng),
            n_batches=state["n_batches"],
            is_over=state["is_over"],
            skipped=tuple(state["skipped_total"].items()),
        )

    def waiting_of(self, worker: int) -> list[Place]:
        """Return the places of the waiting crops that came from a worker."""
        return [tuple(place) for owner, *place in self.waiting if owner == worker]


class Mixture:
    """The crops between the data workers and the batches.

    Args:
        start: where to begin.
        rng: of the buffer, freshly seeded.
        batch_size: crops.
        capacity: of the buffer; 0 keeps the order.
        is_last_dropped: a last, smaller batch is not given.
        is_pinned: give batches in page-locked memory.

    Attributes:
        skipped: what was found unusable so far, by reason.
        last_words: each worker's last delivery.
        n_left_over: crops of a last batch that was not given.
    """

    def __init__(
        self,
        start: Snapshot,
        rng: np.random.Generator,
        *,
        batch_size: int,
        capacity: int,
        is_last_dropped: bool,
        is_pinned: bool,
    ) -> None:
        self._start, self._rng = start, rng
        if start.rng is not None:
            restore_generator(rng, start.rng)
        self._batch_size, self._capacity = batch_size, capacity
        self._is_last_dropped, self._is_pinned = is_last_dropped, is_pinned
        self._positions, self._next_worker = list(start.positions), start.next_worker
        self._n_batches = start.n_batches
        self._buffer: list[MixedCrop] = []
        self._arriving: deque[MixedCrop] = deque()
        self.skipped = Counter(dict(start.skipped))
        self._newly_skipped: Counter[str] = Counter()
        self.last_words: list[Delivery] = []
        self.n_left_over = 0

    def batches(
        self, deliveries: Iterator[Delivery], n_again: int
    ) -> Iterator[tuple[Batch | None, Snapshot]]:
        """Mix what the workers send.

        Args:
            deliveries: of all workers, in turn.
            n_again: how many of them, at the beginning, hold crops that had been given before.

        Yields:
            Each batch with the snapshot after it; at the end of a pass None with the last snapshot.

        Raises:
            NoUsableAudio: a worker gave up.
        """
        self._restore(islice(deliveries, n_again))
        crops = shuffled(self._entering(deliveries), self._buffer, self._capacity, self._rng)
        while chosen := list(islice(crops, self._batch_size)):
            if len(chosen) < self._batch_size and self._is_last_dropped:
                self.n_left_over = len(chosen)
                break
            self._n_batches += 1
            yield self._batch_of(chosen), self._snapshot()
        yield None, self._snapshot(is_over=True)

    def _restore(self, deliveries: Iterator[Delivery]) -> None:
        """Fill the buffer with the crops that were in it; those that were not found again are missing."""
        found = {}
        for delivery in deliveries:
            self._note(delivery)
            found |= {(crop.worker, *crop.place): crop for crop in _crops_of(delivery, is_copied=True)}
        n_in_buffer = len(self._start.waiting) - self._start.n_arriving
        in_buffer, arriving = self._start.waiting[:n_in_buffer], self._start.waiting[n_in_buffer:]
        self._buffer += [found[name] for name in in_buffer if name in found]
        self._arriving += [found[name] for name in arriving if name in found]

    def _entering(self, deliveries: Iterator[Delivery]) -> Iterator[MixedCrop]:
        """Yield crops in the order in which they arrive."""
        while True:
            while self._arriving:
                yield self._arriving.popleft()
            delivery = next(deliveries, None)
            if delivery is None:
                return
            self._note(delivery)
            self._positions[delivery.worker] = delivery.position
            if delivery.piece is None:
                self.last_words.append(delivery)
            else:
                self._next_worker = (delivery.worker + 1) % len(self._positions)
                self._arriving.extend(_crops_of(delivery, is_copied=self._capacity > 0))

    def _note(self, delivery: Delivery) -> None:
        self.skipped.update(delivery.skipped)
        self._newly_skipped.update(delivery.skipped)
        if delivery.failure:
            raise NoUsableAudio(delivery.failure)

    def _batch_of(self, crops: Sequence[MixedCrop]) -> Batch:
        waveforms = self._stacked([crop.samples for crop in crops])
        targets = None
        if crops[0].target is not None:
            targets = self._stacked([crop.target for crop in crops])
        skipped = dict(self._newly_skipped)
        self._newly_skipped.clear()
        return Batch(waveforms, [crop.key for crop in crops], skipped, targets)

    def _stacked(self, rows: Sequence[Float[np.ndarray, " columns"]]) -> Float[Tensor, "rows columns"]:
        """Copy rows into one tensor, which is page-locked at once: pinning it later would copy it again."""
        stacked = torch.empty((len(rows), len(rows[0])), dtype=torch.float32, pin_memory=self._is_pinned)
        # numpy copies in this thread alone; torch would start threads of its own beside those that train.
        np.stack(rows, out=stacked.numpy())
        return stacked

    def _snapshot(self, is_over: bool = False) -> Snapshot:
        return Snapshot(
            positions=tuple(self._positions),
            next_worker=self._next_worker,
            waiting=tuple((crop.worker, *crop.place) for crop in (*self._buffer, *self._arriving)),
            n_arriving=len(self._arriving),
            rng=tuple(generator_state(self._rng)),
            n_batches=self._n_batches,
            is_over=is_over,
            skipped=tuple(self.skipped.items()),
        )


def _crops_of(delivery: Delivery, is_copied: bool) -> Iterator[MixedCrop]:
    """Yield the crops of a piece; copied if they are in shared memory, which they would keep as a whole."""
    piece = delivery.piece
    if piece is None:
        return
    is_shared = isinstance(piece.waveforms, Tensor)
    waveforms = piece.waveforms.numpy() if is_shared else piece.waveforms
    targets = piece.targets
    if isinstance(targets, Tensor):
        targets = targets.numpy().copy()
    for row, (place, key) in enumerate(zip(piece.places, piece.keys, strict=True)):
        samples = waveforms[row].copy() if is_shared and is_copied else waveforms[row]
        yield MixedCrop(delivery.worker, place, key, samples, None if targets is None else targets[row])


def made_in_advance(items: Iterator[T], is_pinned: bool) -> Iterator[T]:
    """Make each item in a thread while the one before is used.

    Putting a batch of 256 crops of 10 s together copies 328 MB. A GPU must not wait for that.
    """
    start = {}
    if is_pinned:  # a thread begins on the first device, whose memory is not this process's to use
        start = {
            "initializer": torch.accelerator.set_device_index,
            "initargs": (torch.accelerator.current_device_index(),),
        }
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="batches", **start) as thread:
        following = thread.submit(next, items, end)
        try:
            while (item := following.result()) is not end:
                following = thread.submit(next, items, end)
                yield item
        finally:
            del following  # an error in it would keep this frame, and through its own frames the workers
