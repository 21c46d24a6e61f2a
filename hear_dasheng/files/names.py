"""Names that other programs wrote, checked before they become a part of a path.

A name in a list, a table or an archive is the name of one file or folder, never a way to another place:
joined to a folder unchecked, `../../x.wav` or `/etc/x` would be read or written outside of it.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

LONGEST_BYTES = 255
"""The longest name of a file on Linux, macOS and (in UTF-16 units) Windows."""
SEPARATORS = re.compile(r"[/\\]")
DRIVE = re.compile(r"[A-Za-z]:")
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line separators, and surrogates, which no file system that stores UTF-8 can hold."""


class UnsafeName(ValueError):
    """A name that cannot be joined to a folder; the message is one line and begins with its origin."""


def check_name(name: Any, origin: str, longest_bytes: int = LONGEST_BYTES) -> str:
    """Return a name that is safe to join to a folder.

    Args:
        name: from a file that we did not write.
        origin: that file, for the message.
        longest_bytes: in UTF-8; less than 255 where endings are added to the name.

    Raises:
        UnsafeName: it is not a string, is empty, `.` or `..`, holds a separator, a drive letter, a control
            character or a surrogate, or is too long.

    >>> check_name("Köter, 12:30 $_.wav", "fold00.json")
    'Köter, 12:30 $_.wav'
    >>> check_name("../a.wav", "fold00.json")
    Traceback (most recent call last):
    ...
    hear_dasheng.files.names.UnsafeName: fold00.json: '../a.wav' is a path where a name is expected
    """
    if not isinstance(name, str):
        raise UnsafeName(f"{origin}: {_short(name)} is not a string where a name is expected")
    if name in ("", ".", ".."):
        raise UnsafeName(f"{origin}: {name!r} is not a name")
    if UNPRINTABLE.search(name):
        raise UnsafeName(f"{origin}: the name {_short(name)} holds control characters")
    if SEPARATORS.search(name) or DRIVE.match(name):
        raise UnsafeName(f"{origin}: {_short(name)} is a path where a name is expected")
    if (size := len(name.encode())) > longest_bytes:
        raise UnsafeName(
            f"{origin}: the name {_short(name)} has {size} bytes; at most {longest_bytes} are allowed"
        )
    return name


def check_relative_path(path: Any, origin: str) -> PurePosixPath:
    """Return a path that stays below the folder that it is joined to: names, separated by `/`.

    Args:
        path: from a file that we did not write.
        origin: that file, for the message.

    Raises:
        UnsafeName: it is absolute, or one of its parts is not a name; see `check_name`.

    >>> check_relative_path("fold00/a.wav", "meta.csv")
    PurePosixPath('fold00/a.wav')
    """
    if not isinstance(path, str) or not path:
        return PurePosixPath(check_name(path, origin))
    if path.startswith("/"):
        raise UnsafeName(f"{origin}: {_short(path)} is an absolute path")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for part in parts or [path]:
        if part == "..":
            raise UnsafeName(f"{origin}: {_short(path)} leads out of its folder")
        check_name(part, origin)
    return PurePosixPath(*parts)


def _short(value: Any) -> str:
    """Return a value for a message: printable, in one line, of bounded length."""
    text = ascii(value) if not isinstance(value, str) or UNPRINTABLE.search(value) else repr(value)
    return text if len(text) <= 80 else f"{text[:50]}...{text[-20:]}"
