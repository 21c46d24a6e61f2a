"""Is a WAVE file what its header promises? Decoders take what is there of a cut one without a word.

Other formats are left alone: decoders complain of cut FLAC, and MP3 and streams promise nothing.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

ORDERS = {b"RIFF": "<", b"RF64": "<", b"BW64": "<", b"RIFX": ">"}
"""How numbers are stored, by a file's first four bytes."""

PLACEHOLDERS = (range(1), range(0x7FFF0000, 0x80000001), range(0xFFFF0000, 1 << 32), range(1 << 63, 1 << 64))
"""Sizes that writers of streams leave, who cannot come back to write the true one: nothing is promised."""

SLACK_BYTES = 44
"""Some writers count the header into the data; so much that is missing is no cut."""

MAX_CHUNKS = 1000
FRAME_FORMATS = (1, 3, 6, 7, 0xFFFE)
"""Integers, floats, A-law, µ-law, and what a longer header tells: a block is one frame."""

RATES_HZ = (1000, 1_000_000)
"""Lowest and highest sample rate of audio files; a damaged header would make hours of noise out of a clip."""


def openable(path: str | Path) -> str | bytes:
    """Return a path as soundfile opens it, which cannot encode names that are not UTF-8 itself."""
    name = os.fspath(path)
    return os.fsencode(name) if any("\ud800" <= letter <= "\udfff" for letter in name) else name


def rate_fault(rate_hz: int) -> str:
    """Return why a header's sample rate cannot be right; an empty string for a possible one.

    >>> rate_fault(1), rate_fault(44_100)
    ('its header states a sample rate of 1 Hz; possible are 1000 to 1000000 Hz', '')
    """
    lowest, highest = RATES_HZ
    if lowest <= rate_hz <= highest:
        return ""
    return f"its header states a sample rate of {rate_hz} Hz; possible are {lowest} to {highest} Hz"


class _Promise(NamedTuple):
    """What the header says of the data: how much, from which byte on, and how much of it is a second."""

    n_bytes: int
    start: int
    bytes_per_s: int


def shortfall(sound: Path | bytes) -> str:
    """How much less audio a WAVE file (RIFF, RIFX, RF64 or BW64) holds than its header promises.

    Args:
        sound: the file, or its content.

    Returns:
        `holds 0.008 s of the 1 s that its header promises`; empty if it is whole, promises no length (as
        streams do), or is of another format or not understood, which decoders tell better.

    Raises:
        OSError: it cannot be opened or read.
    """
    with io.BytesIO(sound) if isinstance(sound, bytes) else sound.open("rb") as file:
        promise = _promise(file)
        if promise is None:
            return ""
        held = max(0, file.seek(0, io.SEEK_END) - promise.start)
    if promise.n_bytes - held <= SLACK_BYTES:
        return ""
    return f"holds {_amounts(held, promise)} that its header promises"


def _amounts(held: int, promise: _Promise) -> str:
    """Both in seconds, unless these are not known or look the same."""
    if promise.bytes_per_s:
        some, all_of_it = (
            f"{n_bytes / promise.bytes_per_s:.3f}".rstrip("0").rstrip(".")
            for n_bytes in (held, promise.n_bytes)
        )
        if some != all_of_it:
            return f"{some} s of the {all_of_it} s"
    return f"{held} of the {promise.n_bytes} bytes of audio"


def _promise(file: BinaryIO) -> _Promise | None:
    """Walk the chunks up to the data; None if there is none or its length is not told."""
    head = file.read(12)
    order = ORDERS.get(head[:4])
    if order is None or head[8:] != b"WAVE":
        return None
    long_size, bytes_per_s = 0, 0
    for _ in range(MAX_CHUNKS):
        chunk = file.read(8)
        if len(chunk) < 8:
            return None
        name, size = chunk[:4], struct.unpack(f"{order}I", chunk[4:])[0]
        start = file.tell()
        if name == b"data":
            n_bytes = long_size if long_size and size == 0xFFFFFFFF else size
            is_told = not any(n_bytes in sizes for sizes in PLACEHOLDERS)
            return _Promise(n_bytes, start, bytes_per_s) if is_told else None
        if name == b"fmt " and len(body := file.read(16)) == 16:
            kind, _, rate_hz, bytes_per_s, block_bytes, _ = struct.unpack(f"{order}HHIIHH", body)
            if kind in FRAME_FORMATS:
                bytes_per_s = rate_hz * block_bytes
        elif name == b"ds64" and len(body := file.read(16)) == 16:
            long_size = struct.unpack(f"{order}8xQ", body)[0]
        file.seek(start + size + size % 2)  # a chunk of an odd size is followed by a byte
    return None
