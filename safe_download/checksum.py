"""A file and the checksum that its publisher tells."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

BLOCK_BYTES = 1 << 20
KNOWN = ("md5", "sha1", "sha256", "sha512")


def parse_checksum(checksum: str) -> tuple[str, str]:
    """Algorithm and lower-case digits of `<algorithm>:<hex digits>`.

    Raises:
        ValueError: it is of another form or kind.

    >>> parse_checksum("md5:D41D8CD98F00B204E9800998ECF8427E")
    ('md5', 'd41d8cd98f00b204e9800998ecf8427e')
    """
    algorithm, _, digits = checksum.partition(":")
    if algorithm not in KNOWN or not re.fullmatch("[0-9a-fA-F]+", digits):
        raise ValueError(f"unknown checksum {checksum!r}; give md5, sha1, sha256 or sha512 in hex digits")
    return algorithm, digits.lower()


def has_checksum(path: Path, checksum: str) -> bool:
    """Whether a file's content has a checksum.

    Args:
        path: the file.
        checksum: `<algorithm>:<hex digits>`; md5, sha1, sha256 or sha512.

    Raises:
        ValueError: the checksum is of another kind.
    """
    algorithm, expected = parse_checksum(checksum)
    return digest_of(path, algorithm, is_shown=True) == expected


def blocks_of(path: Path) -> Iterator[bytes]:
    """A file's content, a block at a time."""
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def digest_of(path: Path, algorithm: str, is_shown: bool = False) -> str:
    """Hex digits of a file's hash, with a bar if it shall be shown."""
    digest = hashlib.new(algorithm)
    size = {"total": path.stat().st_size, "unit": "B", "unit_scale": True, "disable": not is_shown}
    with tqdm(desc=f"checking {path.name}", leave=False, **size) as bar:
        for block in blocks_of(path):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()
