"""A HEAR task archive or folder -> its files, each with its task and its place inside it.

Archives come in two layouts, `tasks/<task>/...` and `hear-2021.0.6/tasks/<task>/...`.
Nothing an archive says can reach outside the task: links, devices and paths that
lead elsewhere are refused.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

JUNK_PREFIX = "."
"""Hidden files and macOS resource forks (`._x`)."""

COMPRESSIONS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
"""By a file's first bytes. These readers check the checksums inside; tarfile's streams do not."""

BLOCK_BYTES = 1 << 20


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
        return int(first) if first.isdigit() and len(self.path.parts) > 2 else None


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
    if path.name.startswith(JUNK_PREFIX):
        return None
    parts = path.parts
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


def archive_members(archive: Path, bar: tqdm) -> Iterator[Member]:
    """Members of a tar in order; a member must be read before the next is taken.

    The last step reads the file to its end, where the compression's checksum stands.
    """

    def read(info: tarfile.TarInfo) -> bytes:
        with _damage_told(archive):
            return tar.extractfile(info).read()

    with archive.open("rb") as file, _decompressed(file) as content:
        try:
            tar = tarfile.open(fileobj=content, mode="r|")  # noqa: SIM115 (closed with its file)
        except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise ImportProblem(
                f"{archive} is no tar archive, plain or compressed ({error}); give a HEAR archive or a folder"
            ) from error
        while True:
            with _damage_told(archive):
                info = tar.next()
            bar.update(file.tell() - bar.n)
            if info is None:
                break
            if info.isdir():
                continue
            if not info.isfile():
                raise ImportProblem(f"refused: {info.name!r} in {archive} is a link or device, not a file")
            if place := inside_task(info.name):
                yield Member(*place, info.size, read=partial(read, info))
        with _damage_told(archive):
            while content.read(BLOCK_BYTES):
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
    files = [(task, file) for task in tasks for file in sorted(task.rglob("*")) if file.is_file()]
    bar.reset(total=len(files))
    for task, file in files:
        bar.update()
        relative = PurePosixPath(file.relative_to(task).as_posix())
        if not relative.name.startswith(JUNK_PREFIX):
            yield Member(task.resolve().name, relative, file.stat().st_size, read=file.read_bytes)
