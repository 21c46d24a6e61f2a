"""A tar shard -> its audio members and their labels, however it was made and wherever it breaks off."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

from pretrain.reading.open_shard import describe, open_shard

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
LABELS_SUFFIX = ".json"
MAX_MEMBER_BYTES = 1 << 30
"""Largest member that is read by default: an hour and a half of 16-bit stereo at 44.1 kHz.

A small archive can claim a member of terabytes, and hold one if it is compressed. Members are read whole, so
without a bound one of them would end the process.
"""
MAX_PASSED_OVER = 16
"""Times that bound are decompressed to get past a member; at a larger one the archive is given up."""
MAX_HEADER_BYTES = 1 << 20
"""Largest extended header (long names, pax records); tarfile reads them whole as well."""
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


class MemberFault(NamedTuple):
    """Why a member is not used: the reason it is counted under, and details for the log."""

    reason: str
    detail: str


LINK = MemberFault("link", "its audio is under another name")


class Member(NamedTuple):
    """An audio file in a shard.

    Attributes:
        index: its number among the shard's audio members.
        name: its path in the shard.
        data: its bytes; None if they were not asked for, or cannot be used.
        labels: the bytes of the JSON file of its name beside it, if asked for and there.
        fault: why it cannot be used: it is a link, or it or its labels are too large.
    """

    index: int
    name: str
    data: bytes | None
    labels: bytes | None = None
    fault: MemberFault | None = None


def audio_members(
    url: str,
    is_wanted: Callable[[int], bool],
    stop: int | None = None,
    *,
    with_labels: bool = False,
    with_audio: bool = True,
    max_bytes: int = MAX_MEMBER_BYTES,
) -> Iterator[Member]:
    """Read the audio members of a tar, which may be compressed by gzip, bzip2 or xz.

    Members with another suffix than wav, flac, ogg or mp3 are no audio, nor are the `._` files
    that macOS adds. Where the shard can seek, members that are not wanted are jumped over.
    Labels stand next to their audio, before or after it, as webdataset has a sample's files.

    Args:
        url: what `open_shard` takes.
        is_wanted: tells by its index whether a member is to be read.
        stop: the index after which none is wanted.
        with_labels: read labels too. Audio after which a shard breaks off, so that its labels may be
            lost, is not given.
        with_audio: read the audio; otherwise `data` is None.
        max_bytes: larger members, audio or labels, are not read; their audio is given with a fault.

    Raises:
        ShardFault: for the reason "shard unreadable" (not one member could be read), "shard truncated"
            (it breaks off or is damaged; the members before that have been given) or
            "shard without audio".
    """
    n_headers = n_audio = 0
    pairs = _Pairs()
    try:
        with open_shard(url) as file, _open_tar(file) as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # or they would add up
                n_headers += 1
                if with_labels and _is_labels(info):
                    labels, fault = _content(archive, info, max_bytes)
                    yield from pairs.add_labels(_readable(info.name), labels, fault)
                elif _is_audio(info):
                    yield from pairs.release()
                    if is_wanted(n_audio):
                        data, fault = _content(archive, info, max_bytes, is_wanted=with_audio)
                        member = Member(n_audio, _readable(info.name), data, fault=fault)
                        yield from pairs.add_audio(member, with_labels)
                    n_audio += 1
                _check_passable(archive, info, max_bytes)
                if stop is not None and n_audio >= stop and pairs.audio is None:
                    return
            yield from pairs.release()
    except Exception as error:  # tarfile, zlib, lzma, the system and every protocol have their own
        reason = "shard truncated" if n_headers else "shard unreadable"
        raise ShardFault(reason, f"{describe(error)} after {n_audio} audio members") from error
    if not n_audio:
        raise ShardFault(
            "shard without audio", f"none of its {n_headers} members is {'/'.join(AUDIO_SUFFIXES)}"
        )


class _Pairs:
    """Audio and labels of one name, whichever comes first.

    Attributes:
        audio: waits for labels that may come.
    """

    def __init__(self) -> None:
        self.audio: Member | None = None
        self._labels: tuple[str, bytes | None, MemberFault | None] = ("", None, None)

    def add_audio(self, member: Member, has_labels: bool) -> Iterator[Member]:
        """Give the audio at once, if it needs or has no labels to wait for."""
        stem = self._labels[0]
        if not has_labels:
            yield member
        elif stem == os.path.splitext(member.name)[0]:
            yield self._united(member)
        else:
            self.audio = member

    def add_labels(self, name: str, labels: bytes | None, fault: MemberFault | None) -> Iterator[Member]:
        """Give the audio that has waited for these labels; or keep them."""
        self._labels = (os.path.splitext(name)[0], labels, fault)
        if self.audio is not None and os.path.splitext(self.audio.name)[0] == self._labels[0]:
            self.audio = self._united(self.audio)
        yield from self.release()

    def _united(self, member: Member) -> Member:
        _, labels, fault = self._labels
        return member._replace(labels=labels, fault=member.fault or fault)

    def release(self) -> Iterator[Member]:
        """Give the audio that waits, with labels or without."""
        if self.audio is not None:
            yield self.audio
        self.audio = None


class _Damage(Exception):
    """The archive does not go on as one should."""


EXTENDED_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class _Header(tarfile.TarInfo):
    """Tells of damage between members, which tarfile takes for the archive's end."""

    @classmethod
    def frombuf(cls, *args: Any) -> tarfile.TarInfo:
        header = super().frombuf(*args)
        if header.type in EXTENDED_HEADERS and header.size > MAX_HEADER_BYTES:
            raise _Damage(
                f"an extended header claims {_size(header.size)}; the most is {_size(MAX_HEADER_BYTES)}"
            )
        return header

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


def _is_labels(info: tarfile.TarInfo) -> bool:
    name = os.path.basename(info.name)
    return info.isfile() and name.lower().endswith(LABELS_SUFFIX) and not name.startswith("._")


def _is_audio(info: tarfile.TarInfo) -> bool:
    name = os.path.basename(info.name)
    is_file = info.isfile() or info.islnk() or info.issym()
    return is_file and name.lower().endswith(AUDIO_SUFFIXES) and not name.startswith("._")


def _content(
    archive: tarfile.TarFile, info: tarfile.TarInfo, max_bytes: int, is_wanted: bool = True
) -> tuple[bytes | None, MemberFault | None]:
    """Return a member's bytes, or why it has none that can be used."""
    if not info.isfile():
        return None, LINK
    if info.size > max_bytes:
        detail = (
            f"{_readable(info.name)} has {_size(info.size)}, but members may have {_size(max_bytes)}; "
            "cut it into shorter files, or raise max_member_mib"
        )
        return None, MemberFault("too large", detail)
    if not is_wanted:
        return None, None
    data = archive.extractfile(info).read()
    if len(data) < info.size:
        raise _Damage(f"{info.name} holds {len(data)} of {info.size} bytes")
    return data, None


def _check_passable(archive: tarfile.TarFile, info: tarfile.TarInfo, max_bytes: int) -> None:
    """Stop at a member that would take hours to get past.

    Raises:
        _Damage: the archive cannot jump over it, and it is very large.
    """
    can_jump = isinstance(
        archive.fileobj, io.BufferedReader
    )  # else it is decompressed, or a command's output
    if not can_jump and info.size > MAX_PASSED_OVER * max_bytes:
        raise _Damage(
            f"{_readable(info.name)} claims {_size(info.size)}, too much to decompress only to get past it; "
            f"members may have {_size(max_bytes)}"
        )


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.6g} MiB"


def _readable(name: str) -> str:
    """Names need not be UTF-8, but logs and metrics must be."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
