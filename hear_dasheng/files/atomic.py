"""Atomic writes: a path holds its old content or all of the new, whatever interrupts the writer.

Content is written under a temporary name in the same folder, flushed to the disk, and renamed. Names left by
killed processes are removed by `remove_partials`, which a command calls once it holds the folder's lock.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hear_dasheng.files.write_errors import remembering_file, system_error

PARTIAL = ".partial"
"""Ending of the names of unfinished files and folders."""
REPLACED = ".replaced"
"""Ending of the name of a folder while another takes its place."""


@contextmanager
def atomic_path(path: Path, *, is_durable: bool = True, prefix: str = "") -> Iterator[Path]:
    """Yield a temporary name for a file or folder that becomes `path` when the block ends without an error.

    A file or folder at `path` is replaced. If the block fails, the temporary name vanishes and `path` stays.
    Of two writers of one path, the last one to finish wins.

    Args:
        path: the final name; its folder is created.
        is_durable: flush to the disk before renaming, so that not even a power failure leaves an empty file
            under the final name. Without it many small files are written faster.
        prefix: begins the temporary name, so that a writer who shares the folder with others knows its own.

    Raises:
        OSError: the disk is full or cannot be written; `filename` is `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{prefix}{secrets.token_hex(8)}{PARTIAL}")
    try:
        yield partial
        if is_durable:
            flush(partial)
        _replace(partial, path)
        if is_durable:
            _flush_entry(path.parent)
    except BaseException as error:
        remove(partial)
        if (cause := system_error(error)) is None:
            raise
        if cause.filename not in (None, str(partial)):
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error  # a failed write names no file


@contextmanager
def atomic_file(path: Path, *, is_durable: bool = True, prefix: str = "") -> Iterator[BinaryIO]:
    """Yield a binary file that becomes `path` when the block ends without an error; see `atomic_path`."""
    with (
        atomic_path(path, is_durable=is_durable, prefix=prefix) as partial,
        remembering_file(partial) as file,
    ):
        yield file
        file.flush()


def write_atomically(path: Path, content: bytes | str, *, is_durable: bool = True) -> None:
    """Write a small file atomically; text is encoded as UTF-8."""
    with atomic_file(path, is_durable=is_durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def remove_partials(folder: Path, *, is_recursive: bool = True) -> None:
    """Remove what killed writers left below a folder, and restore a folder that was being replaced.

    No other process may be writing there.

    Args:
        folder: where to look; it need not exist.
        is_recursive: also look in its subfolders.
    """
    find = folder.rglob if is_recursive else folder.glob
    for left in [*find(f".*{PARTIAL}")]:
        if re.fullmatch(r"\.[0-9a-f]{16}\.partial", left.name):  # other programs use this ending too
            remove(left)
    for aside in [*find(f".*{REPLACED}")]:
        named = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.replaced", aside.name)
        if named is None:
            continue
        original = aside.with_name(named.group(1))
        if original.exists():
            remove(aside)
        else:
            aside.rename(original)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; do nothing if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _replace(partial: Path, path: Path) -> None:
    """Rename, also over an existing folder, which `os.replace` refuses."""
    if not (path.is_dir() and not path.is_symlink()):
        os.replace(partial, path)
        return
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{REPLACED}")
    path.rename(aside)
    try:
        os.replace(partial, path)
    except BaseException:
        aside.rename(path)
        raise
    remove(aside)


def flush(path: Path) -> None:
    """Flush a file, or each file and folder of a tree, to the disk; quick where they are there already."""
    if not path.is_dir():
        _flush_entry(path)
        return
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            _flush_entry(Path(folder, name))
        _flush_entry(Path(folder))


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot flush folders; the rename is atomic all the same.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP, errno.EBADF)):
            raise
    finally:
        os.close(descriptor)
