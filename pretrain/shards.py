"""Tar shards -> batches of crops, the same on every run, from any position on.

Read `pretrain/reading/sources.py` (what to read), `crop_stream.py` (what one data worker does) and
`decode.py` there first.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from pretrain.reading.batch import Batch
from pretrain.reading.clip_labels import ClipLabels
from pretrain.reading.crop_stream import StreamPlan
from pretrain.reading.data_worker import Deliveries, Delivery, leave_signals_to_trainer, received
from pretrain.reading.skip_log import NoUsableAudio, counts_in_words
from pretrain.reading.sources import Source, shard_labels

__all__ = ["Batch", "CropBatches", "NoUsableAudio"]


class CropBatches:
    """Iterates over batches of crops, and knows its position to the last batch it gave.

    Resampled, it never ends: each data worker draws shards with replacement. Otherwise one
    iteration is one pass, in which all ranks together give each crop once; how many batches each
    rank gets depends on what its shards hold. Each batch comes from one worker, in turn.
    With shuffling, each worker keeps `shuffle_crops` crops and as many encoded files in memory.

    Unusable shards and files are skipped, counted and logged, the first for each reason as a warning.

    Args:
        sources: what to read, see `parse_sources`. Without resampling all weights must be 1.
        batch_size: crops; the last batches of a pass may be smaller, one for each worker.
        chunk_samples: samples of a crop.
        sample_rate_hz: of the crops.
        shuffle_crops: capacity of the shuffle buffers, of files and of crops; 0: in order.
        resampled: draw shards forever; otherwise give every crop once.
        seed: of every shuffle.
        rank: this process.
        n_ranks: processes that share the data.
        n_workers: data processes for this rank; 0: read in this process.
        drop_last: leave out batches that are smaller.
        pin_memory: give the waveforms in page-locked memory; needs a GPU.
        clip_labels: read labels too, and give targets; None: neither.

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
    ) -> None:
        _check_at_least(1, batch_size=batch_size, chunk_samples=chunk_samples, sample_rate_hz=sample_rate_hz)
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
            batch_size=batch_size,
            chunk_samples=chunk_samples,
            sample_rate_hz=sample_rate_hz,
            shuffle_crops=shuffle_crops,
            is_resampled=resampled,
            is_last_dropped=drop_last,
            seed=seed,
            clip_labels=clip_labels,
        )
        self._rank, self._n_ranks, self._n_workers = rank, n_ranks, n_workers
        self._is_pinned = pin_memory
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
        self._positions: list[dict[str, Any] | None] = [None] * max(1, self._n_workers)
        self._next_worker = 0
        self._n_batches = 0
        self._is_over = False
        self._is_resuming = False

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was given; `torch.load(weights_only=True)` reads it."""
        return {
            "made_for": self._made_for(),
            "pass": self._pass,
            "positions": list(self._positions),
            "next_worker": self._next_worker,
            "n_batches": self._n_batches,
            "is_over": self._is_over,
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
        self._positions = list(state["positions"])
        self._next_worker = state["next_worker"]
        self._n_batches = state["n_batches"]
        self._is_over = state["is_over"]
        self.skipped_total = Counter(state["skipped_total"])
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
        if self._is_over:
            return
        last_words: list[Delivery] = []
        skipped: Counter[str] = Counter()
        for delivery in received(self._loader()):
            self._positions[delivery.worker] = delivery.position
            skipped.update(delivery.skipped)
            self.skipped_total.update(delivery.skipped)
            if delivery.failure:
                raise NoUsableAudio(delivery.failure)
            if delivery.batch is None:
                last_words.append(delivery)
                continue
            self._next_worker = (delivery.worker + 1) % len(self._positions)
            self._n_batches += 1
            delivery.batch.skipped = dict(skipped)
            skipped.clear()
            yield delivery.batch
        self._is_over = True
        if not self._n_batches and self._n_ranks == 1:
            raise NoUsableAudio(self._why_nothing(last_words))

    def _loader(self) -> DataLoader:
        plan, n_workers = self._plan, self._n_workers
        return DataLoader(
            Deliveries(
                plan, self._pass, self._rank, self._n_ranks, tuple(self._positions), self._next_worker
            ),
            batch_size=None,
            num_workers=n_workers,
            pin_memory=self._is_pinned,
            worker_init_fn=leave_signals_to_trainer if n_workers else None,
            generator=torch.Generator(),  # else each start would draw from the trainer's random numbers
        )

    def _why_nothing(self, last_words: Sequence[Delivery]) -> str:
        plan = self._plan
        if n_left_over := sum(delivery.n_left_over for delivery in last_words):
            return (
                f"the {n_left_over} crops in {len(plan.urls)} shards do not fill one batch of "
                f"{plan.batch_size} in any of {len(last_words)} data workers; lower batch_size, or use fewer "
                "workers"
            )
        example = next((delivery.last_example for delivery in last_words if delivery.last_example), "")
        return (
            f"no usable audio in {len(plan.urls)} shards ({plan.urls[0]}, ...): "
            f"{counts_in_words(self.skipped_total)}{'; for example ' if example else ''}{example}"
        )


def _check_at_least(low: int, **values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"{name} is {value!r}; it must be a whole number from {low} on")
