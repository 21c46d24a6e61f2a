"""One data worker: shards -> members, shuffled -> crops, shuffled -> pieces of batches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from pretrain.reading.clip_labels import ClipLabels
from pretrain.reading.decode import UnusableAudio, decode_crops
from pretrain.reading.shard_order import Unit, drawn_units, units_of_pass
from pretrain.reading.shuffle_buffer import shuffled
from pretrain.reading.skip_log import SkipLog
from pretrain.reading.tar_members import MAX_MEMBER_BYTES, Member, ShardFault, audio_members

FILE_BUFFER_BYTES = 256 << 20
"""Of encoded audio that waits to be decoded; long recordings would otherwise fill the memory."""
SHARDS_IN_VAIN = 1000
"""Drawn in a row without an audio member (or three times all shards), before a stream gives up."""
MEMBERS_IN_VAIN = 1000
"""In a row without a usable crop, before a stream that draws shards gives up."""


@dataclass(frozen=True)
class StreamPlan:
    """What all streams of a run have in common.

    Attributes:
        urls: of the shards.
        labels: their names in keys and messages.
        weights: how often each is drawn, relative to the others.
        n_streams: data workers of all processes.
        piece_crops: crops that a stream sends at once.
        chunk_samples: samples of a crop.
        sample_rate_hz: of the crops.
        shuffle_crops: capacity of each shuffle buffer; 0: everything in order.
        is_resampled: shards are drawn forever, with replacement.
        seed: of all shuffles.
        restarted_at: the iteration at which the stream began again because its position was lost, else 0;
            part of every seed, so that the stream does not repeat its first crops.
        max_member_bytes: members of shards that are larger are skipped.
        clip_labels: what clips can be, if targets are wanted.
    """

    urls: tuple[str, ...]
    labels: tuple[str, ...]
    weights: tuple[float, ...]
    n_streams: int
    piece_crops: int
    chunk_samples: int
    sample_rate_hz: int
    shuffle_crops: int
    is_resampled: bool
    seed: int
    restarted_at: int = 0
    max_member_bytes: int = MAX_MEMBER_BYTES
    clip_labels: ClipLabels | None = None


class File(NamedTuple):
    """An audio member of a shard, encoded."""

    shard: int
    member: int
    name: str
    data: bytes
    target: Float[np.ndarray, " classes"] | None = None


class Crop(NamedTuple):
    """A crop of an audio member."""

    shard: int
    member: int
    number: int
    name: str
    samples: Float[np.ndarray, " samples"]
    target: Float[np.ndarray, " classes"] | None = None


Place = tuple[int, int, int]
"""Shard, member and number of a crop: where it is found again."""


class Piece(NamedTuple):
    """Consecutive crops of one stream, on their way to the training process.

    Attributes:
        places: of the crops.
        keys: their names, shard/member#number.
        waveforms: float32; one tensor of (crops, samples) in shared memory if it comes from a worker process,
            else an array of samples for each crop.
        targets: of shape (crops, classes), or an array of classes for each crop; None if no labels are read.
    """

    places: list[Place]
    keys: list[str]
    waveforms: Float[Tensor, "crops samples"] | list[Float[np.ndarray, " samples"]]
    targets: Float[Tensor, "crops classes"] | list[Float[np.ndarray, " classes"]] | None


class CropStream:
    """The crops of one stream. Its attributes are its exact position in them.

    Args:
        plan: what the streams have in common.
        stream: which of them this is.
        pass_index: which pass over the data; each is shuffled differently.

    Attributes:
        unit: the shard, or part of one, that is being read; None between two.
        n_units: how many were begun.
        next_member: index of the member in it that is being given, or else of the next.
        next_copy: how often that one was given already; clips of rare classes may be given again.
        files: members that wait to be decoded.
        open_file: the one whose crops are being taken; None between two.
        next_crop: number of its first crop that was not taken yet.
        crops: crops that wait to be given.
        rng: draws shards and picks from both buffers.
        skips: what could not be used.
    """

    def __init__(self, plan: StreamPlan, stream: int, pass_index: int) -> None:
        self.plan = plan
        self.chances = (plan.seed, pass_index, stream, plan.restarted_at)
        self.unit: Unit | None = None
        self.n_units = 0
        self.next_member = self.next_copy = 0
        self.files: list[File] = []
        self.open_file: File | None = None
        self.next_crop = 0
        self.crops: list[Crop] = []
        if plan.is_resampled:
            self.rng = np.random.default_rng([plan.seed, 0, 1 + stream, plan.restarted_at])
            self.units = drawn_units(np.array(plan.weights), self.rng)
            self.skips = SkipLog(max(SHARDS_IN_VAIN, 3 * len(plan.urls)), MEMBERS_IN_VAIN)
        else:
            self.rng = np.random.default_rng([plan.seed, pass_index, 1 + stream, plan.restarted_at])
            order = None
            if plan.shuffle_crops:  # the same for all streams
                order = np.random.default_rng([plan.seed, pass_index, 0, plan.restarted_at])
            self.units = iter(units_of_pass(len(plan.urls), plan.n_streams, stream, order))
            self.skips = SkipLog(math.inf, math.inf)

    def pieces(self) -> Iterator[Piece]:
        """Yield the rest of the stream in pieces; the last may be smaller.

        Raises:
            NoUsableAudio: there is nothing to give, and more shards would not help.
        """
        crops = shuffled(self._decoded(), self.crops, self.plan.shuffle_crops, self.rng)
        while True:
            self.skips.start_waiting()
            crops_of_piece = list(itertools.islice(crops, self.plan.piece_crops))
            if not crops_of_piece:
                return
            yield self.piece_of(crops_of_piece)

    def piece_of(self, crops: Sequence[Crop]) -> Piece:
        """Prepare crops for their way to the training process."""
        waveforms = [crop.samples for crop in crops]
        targets = None if self.plan.clip_labels is None else [crop.target for crop in crops]
        if get_worker_info() is not None:
            # In a worker, default_collate stacks tensors in memory that is shared with the training process.
            waveforms = default_collate([torch.from_numpy(row) for row in waveforms])
            if targets is not None:
                targets = default_collate([torch.from_numpy(row) for row in targets])
        keys = [f"{self.plan.labels[crop.shard]}/{crop.name}#{crop.number}" for crop in crops]
        return Piece([crop[:3] for crop in crops], keys, waveforms, targets)

    def crops_of(self, file: File) -> Iterator[Crop]:
        """Decode a file.

        Raises:
            UnusableAudio: it cannot be decoded, or no further.
        """
        samples = decode_crops(file.data, self.plan.chunk_samples, self.plan.sample_rate_hz)
        for number, crop in enumerate(samples):
            yield Crop(file.shard, file.member, number, file.name, crop, file.target)

    def _decoded(self) -> Iterator[Crop]:
        """Crops in the order of the shuffled files."""
        if self.open_file is not None:
            yield from self._rest_of_open_file()
        files = shuffled(
            self._members(),
            self.files,
            self.plan.shuffle_crops,
            self.rng,
            size=lambda file: len(file.data),
            max_size=FILE_BUFFER_BYTES,
        )
        for self.open_file in files:
            self.next_crop = 0
            yield from self._rest_of_open_file()

    def _rest_of_open_file(self) -> Iterator[Crop]:
        file = self.open_file
        try:
            for crop in itertools.islice(self.crops_of(file), self.next_crop, None):
                self.next_crop += 1
                self.skips.found_crop()
                yield crop
        except UnusableAudio as fault:
            self.skips.add("members", fault.reason, f"{self.plan.labels[file.shard]}/{file.name}", fault)
        self.open_file = None

    def _members(self) -> Iterator[File]:
        """Audio members in the order of the shards."""
        while True:
            if self.unit is None:
                self.unit = next(self.units, None)
                if self.unit is None:
                    return
                self.n_units += 1
                self.next_member = self.next_copy = 0
            yield from self._rest_of_unit(self.unit)
            self.unit = None

    def _rest_of_unit(self, unit: Unit) -> Iterator[File]:
        label, first = self.plan.labels[unit.shard], self.next_member
        try:
            for member in audio_members(
                self.plan.urls[unit.shard],
                lambda index: index >= first and index % unit.parts == unit.part,
                with_labels=self.plan.clip_labels is not None,
                max_bytes=self.plan.max_member_bytes,
            ):
                self.skips.found_member()
                if member.fault is not None:
                    self.next_member = member.index + 1
                    self.skips.add(
                        "members", member.fault.reason, f"{label}/{member.name}", member.fault.detail
                    )
                    continue
                file = self.file_of(unit.shard, member)
                self.next_member, copies = member.index, self._copies(file)
                while self.next_copy < copies:
                    self.next_copy += 1
                    yield file
                self.next_member, self.next_copy = member.index + 1, 0
        except ShardFault as fault:
            self.skips.add("shards", fault.reason, label, fault)

    def file_of(self, shard: int, member: Member) -> File:
        """A member with what its labels mean.

        Raises:
            UnusableLabels: they are missing, or mean nothing.
        """
        clip_labels, target = self.plan.clip_labels, None
        if clip_labels is not None:
            target = clip_labels.target(member.labels, f"{self.plan.labels[shard]}/{member.name}")
        return File(shard, member.index, member.name, member.data, target)

    def _copies(self, file: File) -> int:
        """How often a file is given: decided anew whenever its shard is read, and the same when resumed."""
        clip_labels = self.plan.clip_labels
        if clip_labels is None or clip_labels.repeats is None:
            return 1
        chance = np.random.default_rng([*self.chances, self.n_units, file.member]).random()
        return clip_labels.copies(file.target, chance)
