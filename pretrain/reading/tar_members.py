"""A tar shard -> its audio members, however it was made and wherever it breaks off."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import NamedTuple

from pretrain.reading.open_shard import describe, open_shard

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
COMPRESSIONS = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}
"""How compressed archives begin."""


class ShardFault(Exception):
    """A shard cannot be read, or not to its end.

    Attributes:
        reason: what such shards are counted under.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Member(NamedTuple):
    """An audio file in a shard.

    Attributes:
        index: its number among the shard's audio members.
        name: its path in the shard.
        data: its bytes; None for a link, which has none.
    """

    index: int
    name: str
    data: bytes | None


def audio_members(url: str, is_wanted: Callable[[int], bool], stop: int | None = None) -> Iterator[Member]:
    """Read the audio members of a tar, which may be compressed by gzip, bzip2 or xz.

    Members with another suffix than wav, flac, ogg or mp3 are no audio, nor are the `._` files
    that macOS adds. Where the shard can seek, members that are not wanted are jumped over.

    Args:
        url: what `open_shard` takes.
        is_wanted: tells by its index whether a member is to be read.
        stop: the index after which none is wanted.

    Raises:
        ShardFault: for the reason "shard unreadable" (not one member could be read), "shard truncated"
            (it breaks off or is damaged; the members before that have been given) or
            "shard without audio".
    """
    n_headers = n_audio = 0
    try:
        with open_shard(url) as file, _open_tar(file) as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # or they would add up
                n_headers += 1
                if not _is_audio(info):
                    continue
                if is_wanted(n_audio):
                    yield Member(n_audio, _readable(info.name), _data(archive, info))
                n_audio += 1
                if stop is not None and n_audio >= stop:
                    return
    except Exception as error:  # tarfile, zlib, lzma, the system and every protocol have their own
        reason = "shard truncated" if n_headers else "shard unreadable"
        raise ShardFault(reason, f"{describe(error)} after {n_audio} audio members") from error
    if not n_audio:
        raise ShardFault(
            "shard without audio", f"none of its {n_headers} members is {'/'.join(AUDIO_SUFFIXES)}"
        )


class _Damage(Exception):
    """The archive does not go on as one should."""


class _Header(tarfile.TarInfo):
    """Tells of damage between members, which tarfile takes for the archive's end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            if archive.offset == 0:  # tarfile's own message is better: this is no tar
                raise
            raise _Damage(f"{error} at byte {archive.offset}") from error


def _open_tar(file: io.BufferedReader) -> tarfile.TarFile:
    start = file.peek(max(map(len, COMPRESSIONS)))
    # Left to find it out, tarfile takes a server's failure for "not a gzip file" and asks again.
    compression = next((name for magic, name in COMPRESSIONS.items() if start.startswith(magic)), "")
    options = {"tarinfo": _Header, "encoding": "utf-8", "errors": "surrogateescape"}
    if file.seekable():
        return tarfile.open(fileobj=file, mode=f"r:{compression}", **options)
    stream = SimpleNamespace(read=file.read1)  # read would lose what came just before a failure
    return tarfile.open(fileobj=stream, mode=f"r|{compression}", **options)


def _is_audio(info: tarfile.TarInfo) -> bool:
    name = os.path.basename(info.name)
    is_file = info.isfile() or info.islnk() or info.issym()
    return is_file and name.lower().endswith(AUDIO_SUFFIXES) and not name.startswith("._")


def _data(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes | None:
    if not info.isfile():
        return None
    data = archive.extractfile(info).read()
    if len(data) < info.size:
        raise _Damage(f"{info.name} holds {len(data)} of {info.size} bytes")
    return data


def _readable(name: str) -> str:
    """Names need not be UTF-8, but logs and metrics must be."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
