"""Strict reading of JSON files that other programs wrote.

`json` accepts more than JSON does: the last of two equal keys wins, `NaN` and `1e999` become numbers without
a meaning, lone surrogates become strings that cannot be printed, and deep nesting ends in a RecursionError.
`read_json` refuses all of these with one error that names the file.
"""

from __future__ import annotations

import json
import math
import re
import stat
from pathlib import Path
from typing import Any

LARGEST_BYTES = 1 << 26
"""Default bound of a file: four times the longest split list of HEAR (NSynth 50h, 300 000 clips)."""
DEEPEST = 64
"""Default bound of nesting; score files, the deepest that we write, have 6 levels."""
LARGEST_INTEGER = 2**64
SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


class JsonProblem(ValueError):
    """A file or text that is not strict JSON; the message is one line and begins with its name."""


def read_json(
    path: Path, *, allow_nan: bool = False, largest_bytes: int = LARGEST_BYTES, deepest: int = DEEPEST
) -> Any:
    """Return the value of a strict JSON file.

    Args:
        path: a regular file, UTF-8 with or without a byte order mark.
        allow_nan: return `NaN`, `Infinity` and floats beyond the range of float64 as Python floats.
        largest_bytes: larger files are refused before they are read.
        deepest: the most levels of lists and objects inside one another.

    Raises:
        JsonProblem: it is not a regular file, is too large, or is not strict JSON; see `parse_json`.
        OSError: it cannot be read.
    """
    path = Path(path)
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a FIFO would block, /dev/zero would never end
        raise JsonProblem(f"{path} is not a regular file")
    if found.st_size > largest_bytes:
        raise JsonProblem(f"{path} has {found.st_size} bytes; at most {largest_bytes} are read")
    with path.open("rb") as file:
        content = file.read(largest_bytes + 1)  # it may have grown since
    if len(content) > largest_bytes:
        raise JsonProblem(f"{path} has more than {largest_bytes} bytes")
    return parse_json(content, str(path), allow_nan=allow_nan, deepest=deepest)


def read_json_object(path: Path, **limits: Any) -> dict[str, Any]:
    """Return the value of a strict JSON file that must hold an object.

    Args:
        path: the file.
        **limits: see `read_json`.

    Raises:
        JsonProblem: it holds something else; see also `read_json`.
        OSError: it cannot be read.
    """
    value = read_json(path, **limits)
    if not isinstance(value, dict):
        raise JsonProblem(f"{path} holds {json_type(value)} where a JSON object is expected")
    return value


def parse_json(content: bytes | str, origin: str, *, allow_nan: bool = False, deepest: int = DEEPEST) -> Any:
    """Return the value of a strict JSON text.

    Args:
        content: the text; bytes are decoded as UTF-8, with or without a byte order mark.
        origin: what messages call it: a file, an option.
        allow_nan: return `NaN`, `Infinity` and floats beyond the range of float64 as Python floats.
        deepest: the most levels of lists and objects inside one another.

    Raises:
        JsonProblem: it is not UTF-8 or not JSON, an object has one key twice, a string holds a lone
            surrogate, an integer has more than 64 bits, a number is not finite, or the nesting is too deep.

    >>> parse_json('{"a": 1, "a": 2}', "x")
    Traceback (most recent call last):
    ...
    hear_dasheng.files.strict_json.JsonProblem: x is not strict JSON: the key 'a' occurs twice in an object
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        value = json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_int=_integer,
            parse_float=float if allow_nan else _finite,
            parse_constant=float if allow_nan else _refused_constant,
        )
        if _depth(value) > deepest:
            raise ValueError(_too_deep(deepest))
        if not isinstance(content, bytes) or SURROGATE_ESCAPE.search(text):
            _refuse_surrogates(value)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise JsonProblem(f"{origin} is not UTF-8: byte {error.start} is {byte:#04x}") from error
    except RecursionError as error:
        raise JsonProblem(f"{origin} is not strict JSON: {_too_deep(deepest)}") from error
    except ValueError as error:
        raise JsonProblem(f"{origin} is not strict JSON: {error}") from error
    return value


def json_type(value: Any) -> str:
    """Return the name of a value's JSON type, with its article.

    >>> json_type([1]), json_type(None), json_type(True), json_type(0.5)
    ('a list', 'null', 'a boolean', 'a number')
    """
    if value is None:
        return "null"
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return kinds.get(type(value), "an object")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {_short(twice)} occurs twice in an object")
    return found


def _integer(digits: str) -> int:
    if len(digits) > 21 or abs(int(digits)) > LARGEST_INTEGER:
        raise ValueError(f"the integer {_short(digits)} has more than 64 bits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {_short(digits)} is beyond the range of float64")
    return number


def _refused_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _too_deep(deepest: int) -> str:
    return f"it is nested more than {deepest} levels deep"


def _depth(value: Any) -> int:
    """Return how many levels of lists and objects a value has; a number or a string has 0."""
    depth, level = 0, [value] if isinstance(value, dict | list) else []
    while level:
        depth += 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return depth


def _refuse_surrogates(value: Any) -> None:
    """Raise if a string or a key cannot be encoded as UTF-8: half of a pair of `\\ud83d\\ude00`."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"the string {_short(value)} holds a lone surrogate") from error
    elif isinstance(value, dict):
        for key, inner in value.items():
            _refuse_surrogates(key)
            _refuse_surrogates(inner)
    elif isinstance(value, list):
        for inner in value:
            _refuse_surrogates(inner)


def _short(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:37]}...")
