"""Atomic writes into a folder that others use: what a killed writer left is found and removed.

A folder of our own is cleaned by `remove_partials` under its lock. Beside a checkpoint or a picture, in a
folder of the user's, other writers may be busy, so each writer locks a file of its own as long as it writes.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hear_dasheng.files.atomic import PARTIAL, atomic_path, remove
from hear_dasheng.files.lock import Locked, locked
from hear_dasheng.files.write_errors import remembering_file

LOCK = ".lock"
MOST_NAME_BYTES = 100
"""Bytes of the target's name within the temporary names, which take 255 bytes."""


@contextmanager
def lone_atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name that becomes `path`, after removing what killed writers of `path` left.

    See `atomic_path`. What another process is still writing stays; so does everything on file systems
    without locks.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path)
    prefix = f"{_beginning(path)}-{secrets.token_hex(4)}"
    lock_file = path.with_name(f".{prefix}{LOCK}")
    with ExitStack() as stack:
        # A folder that cannot be written is reported by the write itself, which names `path`.
        with suppress(OSError, NotImplementedError):
            stack.enter_context(locked(lock_file))
            stack.callback(_remove_if_possible, lock_file)
        yield stack.enter_context(atomic_path(path, prefix=f"{prefix}."))


@contextmanager
def lone_atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that becomes `path`; see `lone_atomic_path`."""
    with lone_atomic_path(path) as partial, remembering_file(partial) as file:
        yield file


def remove_abandoned(path: Path) -> None:
    """Remove the temporary files and folders of writers of `path` that were killed.

    A writer holds the lock before its temporary file appears, so a lock that is free beside one is a dead
    writer's.
    """
    name = re.compile(rf"\.({re.escape(_beginning(path))}-[0-9a-f]{{8}})\.[0-9a-f]{{16}}{re.escape(PARTIAL)}")
    for left in list(path.parent.iterdir()):
        if not (match := name.fullmatch(left.name)):
            continue
        lock_file = path.with_name(f".{match[1]}{LOCK}")
        if not lock_file.exists():  # made where no locks are
            continue
        with suppress(Locked, OSError, NotImplementedError), locked(lock_file):
            remove(left)
            lock_file.unlink()


def _beginning(path: Path) -> str:
    return path.name.encode(errors="surrogateescape")[:MOST_NAME_BYTES].decode(errors="ignore")


def _remove_if_possible(lock_file: Path) -> None:
    with suppress(OSError):
        lock_file.unlink()
