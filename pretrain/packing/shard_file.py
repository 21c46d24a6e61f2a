"""Samples -> one webdataset shard, written atomically, its bytes fixed by its samples."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from hear_dasheng.files.atomic import atomic_file
from pretrain.packing.transcode import Audio

GZIP_LEVEL = 6
"""Audio hardly shrinks: level 9, the published tool's, takes longer for the same size."""


@dataclass(frozen=True)
class Sample:
    """One audio file on its way into a shard."""

    key: str
    audio: Audio
    labels: bytes | None

    def members(self) -> dict[str, str | bytes]:
        """What webdataset's writer takes."""
        labels = {} if self.labels is None else {"json": self.labels}
        return {"__key__": self.key, self.audio.suffix: self.audio.content, **labels}


@dataclass(frozen=True)
class WrittenShard:
    """What is known of a shard once it is written; `bytes` is the file's size."""

    samples: int
    seconds: float
    bytes: int
    sha256: str


def write_shard(
    path: Path, samples: Iterator[Sample], is_compressed: bool, prefix: str = ""
) -> WrittenShard | None:
    """Write a shard; without any sample, write nothing and return None.

    Owner, mode and times in the headers are constants, so equal samples give equal
    bytes.

    Args:
        path: of the shard.
        samples: in order.
        is_compressed: by gzip.
        prefix: of the file's temporary name.

    Raises:
        OSError: the disk is full or cannot be written; nothing stays under `path`.
    """
    from webdataset import TarWriter

    first = next(samples, None)
    if first is None:
        return None
    n_samples, seconds = 0, 0.0
    with atomic_file(path, prefix=prefix) as file:
        hashed = _HashedFile(file)
        with ExitStack() as closing:
            stream = hashed
            if is_compressed:
                # tarfile's own compression would store the time.
                gzipped = gzip.GzipFile("", "wb", GZIP_LEVEL, hashed, mtime=0)
                stream = closing.enter_context(gzipped)
            tar = closing.enter_context(TarWriter(stream, encoder=False, compress=False, mtime=0))
            for sample in chain([first], samples):
                tar.write(sample.members())
                n_samples += 1
                seconds += sample.audio.seconds
    return WrittenShard(n_samples, seconds, hashed.n_bytes, hashed.sha256.hexdigest())


class _HashedFile:
    """Passes writes on and keeps their hash."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.n_bytes = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.n_bytes += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()
