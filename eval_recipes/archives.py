"""A HEAR task archive or folder -> its files, each with its task and its place inside it.

Archives come in two layouts, `tasks/<task>/...` and `hear-2021.0.6/tasks/<task>/...`.
Nothing in an archive can reach outside the task: links, devices and paths that
lead elsewhere are refused. Nor can it fill the memory: members, and the headers between
them, are bounded before they are read.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from hear_dasheng.files.names import UnsafeName, check_name

JUNK_PREFIX = "."
"""Hidden files and macOS resource forks (`._x`)."""

COMPRESSIONS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
"""By a file's first bytes. These readers check the checksums inside; tarfile's streams do not."""

BLOCK_BYTES = 1 << 20

LARGEST_CLIP_BYTES = 1 << 30
"""Largest audio file: an hour of stereo at 48 kHz and 24 bits; HEAR's longest clips have 10 minutes."""
LARGEST_LIST_BYTES = 1 << 26
"""Largest file of any other kind; see `hear_dasheng.files.strict_json`."""
LARGEST_HEADERS_BYTES = 1 << 20
"""Between two members: their headers, long names and extended headers, and the padding of the first."""
RATE_FOLDER = re.compile("[1-9][0-9]{3,5}")
"""A sample rate in Hz, as HEAR names its folders of audio."""


class ImportProblem(ValueError):
    """An archive or folder that cannot become a HEAR task."""


@dataclass(frozen=True)
class Member:
    """A file of a task: its task, its path inside the task, its size, and its content on demand."""

    task: str
    path: PurePosixPath
    size_bytes: int
    read: Callable[[], bytes]

    @property
    def rate_hz(self) -> int | None:
        """Sample rate of the folder that an audio file stands in; None for other files."""
        first = self.path.parts[0]
        return int(first) if RATE_FOLDER.fullmatch(first) and len(self.path.parts) > 2 else None

    def require_bounded(self, source: Path, number: int) -> None:
        """Raise if the file is too large to be read whole.

        Args:
            source: the archive or folder.
            number: of the member in it, from 1 on.

        Raises:
            ImportProblem: it is larger than any clip or list.
        """
        largest = LARGEST_LIST_BYTES if self.rate_hz is None else LARGEST_CLIP_BYTES
        if not 0 <= self.size_bytes <= largest:
            raise ImportProblem(
                f"refused: member {number} of {source}, {self.task}/{self.path}, has {self.size_bytes} "
                f"bytes; at most {largest} are read"
            )


def inside_task(name: str) -> tuple[str, PurePosixPath] | None:
    """Split an archive's path into task and path inside it; None for what is no part of a task.

    Both layouts exist: `tasks/<task>/...` and `hear-2021.0.6/tasks/<task>/...`.

    Raises:
        ImportProblem: the path leads out of the archive, or is of no HEAR layout.

    >>> inside_task("hear-2021.0.6/tasks/esc50-v2.0.0-full/48000/fold00/a.wav")
    ('esc50-v2.0.0-full', PurePosixPath('48000/fold00/a.wav'))
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise ImportProblem(f"refused: the archive wants to write {name!r}, outside the task folder")
    parts = path.parts
    try:
        for part in parts:
            check_name(part, "refused: the archive")
    except UnsafeName as error:
        raise ImportProblem(str(error)) from error
    if any(part.startswith(JUNK_PREFIX) for part in parts):
        return None
    depth = next((index for index in (0, 1) if parts[index : index + 1] == ("tasks",)), None)
    if depth is None:
        raise ImportProblem(
            f"{name!r} is not of a HEAR task; expected tasks/<task>/... or hear-<version>/tasks/<task>/..."
        )
    if len(parts) < depth + 3:
        return None
    return parts[depth + 1], PurePosixPath(*parts[depth + 2 :])


@contextmanager
def _damage_told(archive: Path) -> Iterator[None]:
    """Turn what a broken tar raises, wherever it breaks, into one clear error."""
    try:
        yield
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise ImportProblem(
            f"{archive} is damaged or truncated ({error}); fetch it again; what is converted stays"
        ) from error


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    """The content of a file that may be compressed."""
    first = file.read(8)
    file.seek(0)
    opens = next((opens for magic, opens in COMPRESSIONS.items() if first.startswith(magic)), None)
    return opens(file) if opens else file


class _Budgeted:
    """A stream of which no more is read than what the members seen so far account for.

    `tarfile` reads extended headers whole, whatever size they claim, and each kind of them (pax, long names,
    maps of sparse files) in a way of its own; all must pass here.
    """

    def __init__(self, file: IO[bytes], archive: Path) -> None:
        self.file, self.archive = file, archive
        self.left_bytes = LARGEST_HEADERS_BYTES

    def allow(self, content_bytes: int) -> None:
        """Let one member's content be read, and the headers after it."""
        self.left_bytes = content_bytes + LARGEST_HEADERS_BYTES

    def read(self, size: int) -> bytes:
        content = self.file.read(size)
        self.left_bytes -= len(content)
        if self.left_bytes < 0:
            raise ImportProblem(
                f"refused: {self.archive} has more than {LARGEST_HEADERS_BYTES} bytes of headers before a "
                "member, or far more padding after the last"
            )
        return content


def _require_regular(path: Path) -> None:
    """Raise if reading a path could block or never end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a FIFO" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise ImportProblem(f"{path} is {kind}, not a file; give a HEAR archive or a folder")


def archive_members(archive: Path, bar: tqdm) -> Iterator[Member]:
    """Members of a tar in order; a member must be read before the next is taken.

    The last step reads the file to its end, where the compression's checksum stands.
    """

    def read(info: tarfile.TarInfo) -> bytes:
        with _damage_told(archive):
            return tar.extractfile(info).read()

    _require_regular(archive)
    number = 0
    with archive.open("rb") as file, _decompressed(file) as content:
        budgeted = _Budgeted(content, archive)
        try:
            tar = tarfile.open(fileobj=budgeted, mode="r|")  # noqa: SIM115 (closed with its file)
        except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise ImportProblem(
                f"{archive} is no tar archive, plain or compressed ({error}); give a HEAR archive or a folder"
            ) from error
        while True:
            with _damage_told(archive):
                info = tar.next()
            tar.members.clear()  # or the headers of millions of members would add up
            bar.update(file.tell() - bar.n)
            if info is None:
                break
            number += 1
            if info.isdir():
                budgeted.allow(0)
                continue
            if not info.isfile() or info.issparse():
                raise ImportProblem(f"refused: {info.name!r} in {archive} is a link or device, not a file")
            place = inside_task(info.name)
            member = Member(*(place or ("", PurePosixPath(info.name))), info.size, read=partial(read, info))
            member.require_bounded(archive, number)
            budgeted.allow(info.size)
            if place:
                yield member
        with _damage_told(archive):
            budgeted.allow(LARGEST_LIST_BYTES)
            while budgeted.read(BLOCK_BYTES):
                bar.update(file.tell() - bar.n)


def folder_members(folder: Path, bar: tqdm) -> Iterator[Member]:
    """Members of a task folder, of a folder of tasks, or of an unpacked archive."""
    roots = [folder, folder / "tasks", *sorted(folder.glob("*/tasks"))]
    tasks = [folder] if (folder / "task_metadata.json").is_file() else []
    tasks += [
        entry
        for root in roots
        if root.is_dir()
        for entry in sorted(root.iterdir())
        if (entry / "task_metadata.json").is_file()
    ]
    if not tasks:
        raise ImportProblem(f"{folder} holds no HEAR task (a folder with task_metadata.json)")
    entries = [(task, entry) for task in tasks for entry in sorted(task.rglob("*")) if entry.exists()]
    files = [(task, entry) for task, entry in entries if not entry.is_dir()]
    bar.reset(total=len(files))
    for number, (task, file) in enumerate(files, 1):
        bar.update()
        relative = PurePosixPath(file.relative_to(task).as_posix())
        if not any(part.startswith(JUNK_PREFIX) for part in relative.parts):
            _require_regular(file)
            member = Member(task.resolve().name, relative, file.stat().st_size, read=file.read_bytes)
            member.require_bounded(folder, number)
            yield member
