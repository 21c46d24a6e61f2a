"""A stream's exact position <-> a small record of numbers.

The record holds no audio: what waits in the shuffle buffers is read again from its shards. Of
the audio that was consumed, only the files of which crops still wait are decoded again.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pretrain.reading.crop_stream import Crop, CropStream, File, Place
from pretrain.reading.decode import UnusableAudio
from pretrain.reading.shard_order import Unit
from pretrain.reading.tar_members import ShardFault, audio_members


def position_of(stream: CropStream) -> dict[str, Any]:
    """Return the position after the last piece that the stream gave.

    Returns:
        Numbers and strings, about 10 kB with buffers of 512: it travels with each piece.
    """
    file = stream.open_file
    return {
        "n_units": stream.n_units,
        "unit": [] if stream.unit is None else list(stream.unit),
        "next_member": stream.next_member,
        "next_copy": stream.next_copy,
        "files": in_words([file[:2] for file in stream.files]),
        "open_file": [] if file is None else [file.shard, file.member, stream.next_crop],
        "crops": in_words([crop[:3] for crop in stream.crops]),
        "rng": generator_state(stream.rng),
    }


def go_to(stream: CropStream, position: dict[str, Any], places: Sequence[Place] = ()) -> list[Crop]:
    """Put a new stream where `position_of` was taken, and read crops that it has given before.

    Audio that cannot be found again is left out and counted.

    Args:
        stream: as it begins.
        position: from `position_of`.
        places: of the crops to read again, which wait in the training process.

    Returns:
        A crop for each place that was found, those that occur twice once.
    """
    if not stream.plan.is_resampled:
        next(itertools.islice(stream.units, position["n_units"], position["n_units"]), None)
    stream.n_units = position["n_units"]
    stream.unit = Unit(*position["unit"]) if position["unit"] else None
    stream.next_member, stream.next_copy = position["next_member"], position.get("next_copy", 0)
    files = from_words(position["files"])
    crops = from_words(position["crops"])
    *open_file, stream.next_crop = position["open_file"] or [0]
    found = _read_again(stream, files, tuple(open_file), crops, places)
    restore_generator(stream.rng, position["rng"])
    return found


def _read_again(
    stream: CropStream,
    files: list[tuple[int, ...]],
    open_file: tuple[int, ...],
    crops: list[tuple[int, ...]],
    given_crops: Sequence[Place],
) -> list[Crop]:
    """Fill the stream's buffers with the files and crops of these numbers; return crops that it had given."""
    file_numbers = {*files, open_file} - {()}
    crop_numbers: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for shard, member, number in [*crops, *given_crops]:
        crop_numbers[shard, member].add(number)
    found_files: dict[tuple[int, ...], File] = {}
    found_crops: dict[tuple[int, ...], Crop] = {}
    for file in _read_files(stream, {*file_numbers, *crop_numbers}):
        if file[:2] in file_numbers:
            found_files[file[:2]] = file
        for crop in _decode_again(stream, file, crop_numbers.get(file[:2], set())):
            found_crops[crop[:3]] = crop
    stream.files = [found_files[numbers] for numbers in files if numbers in found_files]
    stream.open_file = found_files.get(open_file)
    stream.crops = [found_crops[numbers] for numbers in crops if numbers in found_crops]
    given_again = [crop for place, crop in found_crops.items() if place in {*given_crops}]
    n_lost = len(files) + bool(open_file) + len(crops)
    n_lost -= len(stream.files) + (stream.open_file is not None) + len(stream.crops)
    n_lost += sum(place not in found_crops for place in given_crops)
    for _ in range(n_lost):
        stream.skips.add("members", "not found again", "a file or crop that waited", "its shard has changed")
    return given_again


def _read_files(stream: CropStream, numbers: Iterable[tuple[int, ...]]) -> Iterable[File]:
    members_of: dict[int, set[int]] = defaultdict(set)
    for shard, member in numbers:
        members_of[shard].add(member)
    for shard, members in sorted(members_of.items()):
        try:
            for member in audio_members(
                stream.plan.urls[shard],
                members.__contains__,
                stop=max(members) + 1,
                with_labels=stream.plan.clip_labels is not None,
                max_bytes=stream.plan.max_member_bytes,
            ):
                if member.fault is None:
                    yield stream.file_of(shard, member)
        except ShardFault as fault:
            stream.skips.add("shards", fault.reason, stream.plan.labels[shard], fault)


def _decode_again(stream: CropStream, file: File, numbers: set[int]) -> Iterable[Crop]:
    if not numbers:
        return
    try:
        for crop in itertools.islice(stream.crops_of(file), max(numbers) + 1):
            if crop.number in numbers:
                yield crop
    except UnusableAudio as fault:
        name = f"{stream.plan.labels[file.shard]}/{file.name}"
        stream.skips.add("members", fault.reason, name, fault)


def in_words(rows: Iterable[tuple[int, ...]]) -> str:
    """Write rows of numbers as a string, which is saved and sent faster than a list.

    >>> in_words([(1, 2), (3, 4)])
    '1,2 3,4'
    """
    return " ".join([",".join(map(str, row)) for row in rows])


def from_words(words: str) -> list[tuple[int, ...]]:
    """Read what `in_words` wrote."""
    return [tuple(map(int, word.split(","))) for word in words.split()]


def generator_state(rng: np.random.Generator) -> list[Any]:
    """Return the state of numpy's default generator; 128-bit numbers as text, which any format keeps."""
    bits = rng.bit_generator.state
    return [hex(bits["state"]["state"]), hex(bits["state"]["inc"]), bits["has_uint32"], bits["uinteger"]]


def restore_generator(rng: np.random.Generator, state: Sequence[Any]) -> None:
    """Set the state that `generator_state` returned."""
    value, increment, has_uint32, uinteger = state
    rng.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": int(value, 16), "inc": int(increment, 16)},
        "has_uint32": has_uint32,
        "uinteger": uinteger,
    }
