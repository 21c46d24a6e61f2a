"""Tar shards -> batches of crops, the same on every run, from any position on.

Read `pretrain/reading/sources.py` (what to read), `crop_stream.py` (what one data worker does), `decode.py`
and `mixing.py` (how batches mix the crops of all workers) there first.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from pretrain.reading.batch import Batch
from pretrain.reading.clip_labels import ClipLabels
from pretrain.reading.crop_stream import StreamPlan
from pretrain.reading.data_worker import (
    Deliveries,
    Delivery,
    leave_signals_to_trainer,
    received,
    unchanged,
)
from pretrain.reading.mixing import Mixture, Snapshot, made_in_advance
from pretrain.reading.skip_log import NoUsableAudio, counts_in_words
from pretrain.reading.sources import Source, shard_labels
from pretrain.reading.tar_members import MAX_MEMBER_BYTES

__all__ = ["Batch", "CropBatches", "NoUsableAudio"]

PIECE_CROPS = 16
"""Fewest crops that a worker sends at once, unless a batch is smaller: each time it records its position,
which takes as long as a third of a crop."""
BATCHES_AHEAD = (2, 8)
"""Most batches that one worker makes in advance, and that all workers of a process do together."""


class CropBatches:
    """Iterates over batches of crops, and knows its position to the last batch it gave.

    Resampled, it never ends: each data worker draws shards with replacement. Otherwise one
    iteration is one pass, in which all ranks together give each crop once; how many batches each
    rank gets depends on what its shards hold. Without shuffling, each batch comes from one worker, in turn,
    until the first of them ends. With it, workers send parts of a batch in turn, and their crops are shuffled
    again here. Each worker keeps `shuffle_crops` crops and as many encoded files in memory, and this process
    as many crops.

    Unusable shards and files are skipped, counted and logged, the first for each reason as a warning.

    Args:
        sources: what to read, see `parse_sources`. Without resampling all weights must be 1.
        batch_size: crops; the last batch of a pass may be smaller.
        chunk_samples: samples of a crop.
        sample_rate_hz: of the crops.
        shuffle_crops: capacity of the shuffle buffers, of files and of crops; 0: in order.
        resampled: draw shards forever; otherwise give every crop once.
        seed: of every shuffle.
        rank: this process.
        n_ranks: processes that share the data.
        n_workers: data processes for this rank; 0: read in this process.
        drop_last: leave out a batch that is smaller.
        pin_memory: give the batches in page-locked memory; needs a GPU.
        clip_labels: read labels too, and give targets; None: neither.
        max_member_bytes: skip larger members of shards, which are read whole.

    Attributes:
        skipped_total: what was found unusable so far, by reason.

    Raises:
        ValueError: an impossible argument.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        batch_size: int,
        chunk_samples: int,
        sample_rate_hz: int = 16_000,
        shuffle_crops: int,
        resampled: bool,
        seed: int,
        rank: int = 0,
        n_ranks: int = 1,
        n_workers: int = 0,
        drop_last: bool = False,
        pin_memory: bool = False,
        clip_labels: ClipLabels | None = None,
        max_member_bytes: int = MAX_MEMBER_BYTES,
    ) -> None:
        _check_at_least(1, batch_size=batch_size, chunk_samples=chunk_samples, sample_rate_hz=sample_rate_hz)
        _check_at_least(1, max_member_bytes=max_member_bytes)
        _check_at_least(0, shuffle_crops=shuffle_crops, seed=seed, rank=rank, n_workers=n_workers)
        _check_at_least(rank + 1, n_ranks=n_ranks)
        urls = tuple(url for source in sources for url in source.urls)
        weights = tuple(source.weight for source in sources for _ in source.urls)
        if not urls:
            raise ValueError("there are no shards to read; name some")
        if not resampled and set(weights) != {1.0}:
            raise ValueError(
                f"weights {sorted(set(weights))} need resampling: without it every crop is given once; "
                "set resampled or leave the weights out"
            )
        self._plan = StreamPlan(
            urls=urls,
            labels=tuple(shard_labels(urls)),
            weights=weights,
            n_streams=n_ranks * max(1, n_workers),
            piece_crops=crops_of_piece(batch_size, n_workers, is_shuffled=shuffle_crops > 0),
            chunk_samples=chunk_samples,
            sample_rate_hz=sample_rate_hz,
            shuffle_crops=shuffle_crops,
            is_resampled=resampled,
            seed=seed,
            max_member_bytes=max_member_bytes,
            clip_labels=clip_labels,
        )
        self._rank, self._n_ranks, self._n_workers = rank, n_ranks, n_workers
        self._batch_size, self._is_last_dropped, self._is_pinned = batch_size, drop_last, pin_memory
        self.skipped_total: Counter[str] = Counter()
        self._start_pass(0)

    def set_pass(self, index: int) -> None:
        """Say which pass comes next; each is shuffled differently. Nothing changes if it is the current one.

        Resampled data have no passes: they just go on.
        """
        if not self._plan.is_resampled and index != self._pass:
            _check_at_least(0, index=index)
            self._start_pass(index)

    def _start_pass(self, index: int) -> None:
        self._pass = index
        self._at = Snapshot((None,) * max(1, self._n_workers))
        self._is_resuming = False

    def start_anew(self, iteration: int) -> None:
        """Begin the current pass again, shuffled differently, because the position in it is lost.

        With the same shuffles, training would repeat the first crops of the stream after each loss.

        Args:
            iteration: of the training run, at which this happens; it becomes part of every seed.
        """
        _check_at_least(0, iteration=iteration)
        self._plan = replace(self._plan, restarted_at=iteration)
        self.skipped_total = Counter()
        self._start_pass(self._pass)

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was given; `torch.load(weights_only=True)` reads it."""
        return {
            "made_for": self._made_for(),
            "pass": self._pass,
            "restarted_at": self._plan.restarted_at,
            **self._at.as_state(),
            "skipped_total": dict(self.skipped_total),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position; the next iteration goes on from there.

        Raises:
            ValueError: it belongs to other shards, another seed or another number of workers.
        """
        ours, theirs = self._made_for(), state["made_for"]
        different = [
            f"{key} {theirs.get(key)!r}, here {ours[key]!r}" for key in ours if ours[key] != theirs.get(key)
        ]
        if different:
            raise ValueError(
                f"the saved position in the data does not fit: it is for {'; '.join(different)}. "
                "Restore these settings, or start the data anew"
            )
        self._pass = state["pass"]
        self._plan = replace(self._plan, restarted_at=state.get("restarted_at", 0))
        self._at = Snapshot.from_state(state)
        self.skipped_total = Counter(dict(self._at.skipped))
        self._is_resuming = True

    def _made_for(self) -> dict[str, Any]:
        """All that a position depends on, but for where the shards lie."""
        plan = self._plan
        names = "\n".join(
            f"{label} {weight}" for label, weight in zip(plan.labels, plan.weights, strict=True)
        )
        return {
            "shards": f"{len(plan.urls)} ({hashlib.sha256(names.encode()).hexdigest()[:8]})",
            "chunk_samples": plan.chunk_samples,
            "sample_rate_hz": plan.sample_rate_hz,
            "shuffle_crops": plan.shuffle_crops,
            "resampled": plan.is_resampled,
            "seed": plan.seed,
            "rank": self._rank,
            "n_ranks": self._n_ranks,
            "n_workers": self._n_workers,
            "repeats": None if plan.clip_labels is None else plan.clip_labels.repeats_in_words,
        }

    def __iter__(self) -> Iterator[Batch]:
        """Give batches from the loaded position on, else a whole pass; resampled, from where it stopped.

        Only one iteration may run at a time.

        Raises:
            NoUsableAudio: a pass of a single rank gave nothing, or drawing further shards is vain.
            RuntimeError: a data worker died.
        """
        if not (self._is_resuming or self._plan.is_resampled):
            self._start_pass(self._pass)
        self._is_resuming = False
        if self._at.is_over:
            return
        at = replace(self._at, skipped=tuple(self.skipped_total.items()))
        deliveries = self._deliveries(at)
        mixture = self._mixture(at)
        batches = mixture.batches(
            received(self._loader(deliveries)), deliveries.rounds_again * len(at.positions)
        )
        if self._n_workers:
            batches = made_in_advance(batches, self._is_pinned)
        try:
            for batch, self._at in batches:
                self.skipped_total = Counter(dict(self._at.skipped))
                if batch is not None:
                    yield batch
        except NoUsableAudio:
            self.skipped_total = mixture.skipped
            raise
        if not self._at.n_batches and self._n_ranks == 1:
            raise NoUsableAudio(self._why_nothing(mixture.n_left_over, mixture.last_words))

    def _mixture(self, at: Snapshot) -> Mixture:
        plan = self._plan
        data_pass = 0 if plan.is_resampled else self._pass
        return Mixture(
            at,
            # Five numbers: the streams' generators have four.
            np.random.default_rng([plan.seed, data_pass, self._rank, plan.restarted_at, 1]),
            batch_size=self._batch_size,
            capacity=plan.shuffle_crops,
            is_last_dropped=self._is_last_dropped,
            is_pinned=self._is_pinned,
        )

    def _deliveries(self, at: Snapshot) -> Deliveries:
        return Deliveries(
            self._plan,
            self._pass,
            self._rank,
            self._n_ranks,
            at.positions,
            at.next_worker,
            [at.waiting_of(worker) for worker in range(len(at.positions))],
        )

    def _loader(self, deliveries: Deliveries) -> DataLoader:
        n_workers, batch_pieces = self._n_workers, self._batch_size / self._plan.piece_crops
        ahead = max(
            BATCHES_AHEAD[0],
            math.ceil(batch_pieces * min(BATCHES_AHEAD[0], BATCHES_AHEAD[1] / max(1, n_workers))),
        )
        return DataLoader(
            deliveries,
            batch_size=None,
            collate_fn=unchanged,
            num_workers=n_workers,
            prefetch_factor=ahead if n_workers else None,
            worker_init_fn=leave_signals_to_trainer if n_workers else None,
            generator=torch.Generator(),  # else each start would draw from the trainer's random numbers
        )

    def _why_nothing(self, n_left_over: int, last_words: Sequence[Delivery]) -> str:
        plan = self._plan
        if n_left_over:
            return (
                f"the {n_left_over} crops in {len(plan.urls)} shards do not fill one batch of "
                f"{self._batch_size}; lower batch_size"
            )
        example = next((delivery.last_example for delivery in last_words if delivery.last_example), "")
        return (
            f"no usable audio in {len(plan.urls)} shards ({plan.urls[0]}, ...): "
            f"{counts_in_words(self.skipped_total)}{'; for example ' if example else ''}{example}"
        )


def crops_of_piece(batch_size: int, n_workers: int, is_shuffled: bool) -> int:
    """Return how many crops a worker sends at once: its share of a batch, if batches are to be mixed."""
    if not is_shuffled:
        return batch_size
    return min(batch_size, max(PIECE_CROPS, math.ceil(batch_size / max(1, n_workers))))


def _check_at_least(low: int, **values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"{name} is {value!r}; it must be a whole number from {low} on")
