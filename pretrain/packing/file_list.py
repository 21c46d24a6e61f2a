"""A table of audio files -> what each becomes in the shards: its key, its labels, its place.

The table is text, UTF-8, one header line, one file a line (published tool: TSV).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from hear_dasheng.files.names import UnsafeName, check_name

TRUTH_CELLS = {"True": True, "TRUE": True, "true": True, "False": False, "FALSE": False, "false": False}
INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
NUMBER = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
INT64_DIGITS = 18
"""Integers this long fit in 64 bits, whatever their digits."""

DIGEST_DIGITS = (16, 32, 64)
"""How much of a path's SHA-256 is tried to tell equal stems apart; 64 bits suffice for 10 million files."""

ROWS_PER_CHUNK = 500_000


class ListProblem(ValueError):
    """A file list that cannot be read, or lacks what is needed."""


@dataclass
class Column:
    """A column with each different cell stored once: row i holds `values[codes[i]]`."""

    codes: Int32[np.ndarray, " rows"]
    values: list[str | int | float | bool | None]


@dataclass(frozen=True)
class FileList:
    """A list of audio files; rows count from 0 here, from 1 wherever a person reads them.

    Attributes:
        path: where it was read.
        sha256: of the list's file.
        filenames: as written in the list.
        columns: all others by name.
        unusable: rows that no audio can come from, each with the reason.
        key_digits: hexadecimal digits of the path's hash in each row's key; 0 for most.
    """

    path: Path
    sha256: str
    filenames: list[str]
    columns: dict[str, Column]
    unusable: dict[int, str] = field(repr=False)
    key_digits: UInt8[np.ndarray, " rows"] = field(repr=False)

    def __len__(self) -> int:
        return len(self.filenames)

    def key(self, row: int) -> str:
        """The webdataset key of a row, unique in the list, without a dot or a slash."""
        return _key(self.filenames[row], int(self.key_digits[row]))

    def labels(self, row: int) -> bytes | None:
        """The other columns of a row as strict JSON; None if the list has no others."""
        if not self.columns:
            return None
        cells = {name: column.values[column.codes[row]] for name, column in self.columns.items()}
        return json.dumps(cells, allow_nan=False).encode()

    def order(self, seed: int | None) -> Int64[np.ndarray, " usable"]:
        """The usable rows, shuffled over the whole list; in the list's order if `seed` is None."""
        usable = np.ones(len(self), bool)
        usable[list(self.unusable)] = False
        rows = np.flatnonzero(usable)
        # RandomState's stream is frozen by numpy's policy; default_rng's may change between releases.
        return rows if seed is None else np.random.RandomState(seed).permutation(rows)

    @property
    def has_relative_paths(self) -> bool:
        """Whether any file is found only from a certain folder."""
        return any(name and not os.path.isabs(name) for name in self.filenames)


def read_file_list(path: Path, filename_column: str = "filename", delim: str = "\t") -> FileList:
    r"""Read a list of audio files.

    A column is stored as numbers if each of its cells is a number without leading
    zeros, as truth values if each is true or false, else as text: "007" stays text.
    Empty cells become None. All others keep their text, "NA", "None" and "nan" too, which may be
    labels; the published tool takes these for missing (NaN).

    Args:
        path: a table with a header line; `.gz`, `.bz2`, `.xz` and `.zst` are decompressed.
        filename_column: the column that names the files.
        delim: one character; the two characters `\t` are taken as a tab.

    Raises:
        ListProblem: not such a table, no such column, no rows.
        OSError: the file cannot be read.
    """
    delim = "\t" if delim == "\\t" else delim
    if len(delim) != 1 or delim in '"\r\n':
        raise ListProblem(f"--delim is {delim!r} but must be one character, for example ',' or a tab")
    filenames: list[str] = []
    growing: dict[str, _GrowingColumn] = {}
    for chunk in _chunks(path, filename_column, delim):
        filenames += chunk.pop(filename_column).tolist()
        for name in chunk:
            growing.setdefault(name, _GrowingColumn()).add(chunk[name])
    if not filenames:
        raise ListProblem(f"{path} lists no files: there is nothing below its header")
    unusable = _unusable(filenames)
    return FileList(
        path,
        _sha256(path),
        filenames,
        {name: column.finished() for name, column in growing.items()},
        unusable,
        _key_digits(path, filenames, unusable),
    )


def typed(cells: list[str]) -> list[str | int | float | bool | None]:
    """The cells of one column as what all of them are; see `read_file_list`.

    >>> typed(["1", "", "-20"]), typed(["1", "2.5"]), typed(["007", "8"]), typed(["NA", ""])
    ([1, None, -20], [1.0, 2.5], ['007', '8'], ['NA', None])
    """
    present = [cell for cell in cells if cell]
    convert = str
    if all(cell in TRUTH_CELLS for cell in present):
        convert = TRUTH_CELLS.__getitem__
    elif all(len(cell) <= INT64_DIGITS and INTEGER.fullmatch(cell) for cell in present):
        convert = int
    elif all(NUMBER.fullmatch(cell) and math.isfinite(float(cell)) for cell in present) and not any(
        len(cell) > INT64_DIGITS and INTEGER.fullmatch(cell) for cell in present
    ):
        convert = float
    return [convert(cell) if cell else None for cell in cells]


def _chunks(path: Path, filename_column: str, delim: str) -> Iterator:
    """DataFrames of text cells."""
    import pandas as pd

    options = {"sep": delim, "dtype": str, "na_filter": False, "index_col": False, "encoding": "utf-8"}
    try:
        with warnings.catch_warnings():
            # The only trace that pandas leaves of lines with more cells than the header.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            columns = list(pd.read_csv(path, nrows=0, **options).columns)
            if filename_column not in columns:
                raise ListProblem(
                    f"{path} has no column {filename_column!r}; split at {delim!r}, its columns are "
                    f"{', '.join(map(repr, columns))}; choose with --filename_column or --delim"
                )
            with pd.read_csv(path, chunksize=ROWS_PER_CHUNK, **options) as reader:
                yield from reader
    except pd.errors.EmptyDataError as error:
        raise ListProblem(f"{path} is empty; give a table with the column {filename_column!r}") from error
    except UnicodeDecodeError as error:
        raise ListProblem(
            f"{path} is not UTF-8 text ({error}); convert it, for example with iconv"
        ) from error
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise ListProblem(f"{path} is no table split at {delim!r}: {str(error).strip()}") from error


class _GrowingColumn:
    """Collects a column chunk by chunk, each different cell once."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}
        self.codes: list[Int32[np.ndarray, " rows"]] = []

    def add(self, cells) -> None:
        import pandas as pd

        codes, different = pd.factorize(cells)
        table = np.array([self.index.setdefault(cell, len(self.index)) for cell in different], np.int32)
        self.codes.append(table[codes])

    def finished(self) -> Column:
        return Column(np.concatenate(self.codes), typed(list(self.index)))


def _key(filename: str, digits: int) -> str:
    name = os.path.basename(filename)
    stem, _, ending = name.rpartition(".")
    stem = (stem if stem and ending else name).replace(".", "_")
    return f"{stem}_{_path_digest(filename)[:digits]}" if digits else stem


def _path_digest(filename: str) -> str:
    return hashlib.sha256(os.path.normpath(filename).encode()).hexdigest()


def _unusable(filenames: list[str]) -> dict[int, str]:
    """Rows without a name, and rows whose file stands in the list before."""
    unusable: dict[int, str] = {}
    first_rows: dict[str, int] = {}
    for row, filename in enumerate(filenames):
        if not filename:
            unusable[row] = "no file name"
            continue
        try:
            check_name(_key(filename, 0), "its key")
        except UnsafeName as error:  # unpacking the shard would write elsewhere, or fail
            unusable[row] = str(error)
            continue
        first = first_rows.setdefault(os.path.normpath(filename), row)
        if first != row:
            unusable[row] = f"listed twice: the same file as row {first + 1}"
    return unusable


def _key_digits(path: Path, filenames: list[str], unusable: dict[int, str]) -> UInt8[np.ndarray, " rows"]:
    import pandas as pd

    rows = np.array([row for row in range(len(filenames)) if row not in unusable], int)
    keys = np.array([_key(filenames[row], 0) for row in rows], object)
    digits = np.zeros(len(filenames), np.uint8)
    for more_digits in (*DIGEST_DIGITS, None):
        is_shared = pd.Series(keys).duplicated(keep=False).to_numpy()
        if not is_shared.any():
            break
        if more_digits is None:
            names = ", ".join(repr(filenames[row]) for row in rows[is_shared][:2])
            raise ListProblem(f"{path} holds names made to collide, among them {names}; rename one of them")
        digits[rows[is_shared]] = more_digits
        keys[is_shared] = [_key(filenames[row], more_digits) for row in rows[is_shared]]
    return digits


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
