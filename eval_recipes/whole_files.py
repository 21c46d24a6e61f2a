"""Files that are whole or not there: written under a temporary name of their own, then renamed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"
"""Ending of temporary names."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes its place when the block ends, and is not there if the block fails.

    Of two writers of one path the last to end wins; the temporary name is short, whatever the file's.

    Args:
        path: where it shall be, in a folder that exists.
    """
    partial = path.with_name(f".{secrets.token_hex(8)}{PARTIAL}")
    try:
        with partial.open("xb") as file:
            yield file
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, and make its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(content)


def remove_partial(folder: Path) -> None:
    """Remove what killed writers left below a folder; nobody may be writing there."""
    for left in folder.rglob(f".*{PARTIAL}"):
        left.unlink(missing_ok=True)
