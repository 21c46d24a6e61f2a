"""Locks that keep a second process out of a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class Locked(RuntimeError):
    """Another process holds the lock."""


@contextmanager
def locked(lock_file: Path) -> Iterator[None]:
    """Hold a lock, which the operating system releases when this process ends in whatever way.

    The lock file stays: removing it would let two processes lock two files of one name.

    Args:
        lock_file: the file to lock; its folder is created.

    Raises:
        Locked: another process holds it.
        OSError: the file cannot be created or locked.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise Locked(f"{lock_file} is locked by another process") from error
    try:
        yield
    finally:
        lock.release()
