"""Where a data set's folder is, and its tables, with errors that say what was looked for."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from eval_recipes.datasets.clips import DatasetProblem

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}


def root_with(data: Path, marker: str, what: str, prefer: str = "") -> Path:
    """The folder that holds `marker`: `data`, or one at most two levels below it.

    Args:
        data: what the user gave.
        marker: a file or folder at the top of the data set.
        what: the data set, for the message.
        prefer: part of the folder's name, where several hold the marker.

    Raises:
        DatasetProblem: there is none, or more than one.
    """
    found = [data] if (data / marker).exists() else []
    for pattern in ("*", "*/*"):
        found = found or sorted(folder for folder in data.glob(pattern) if (folder / marker).exists())
    if len(found) > 1 and prefer:
        found = [folder for folder in found if prefer in folder.name] or found
    if not found:
        raise DatasetProblem(
            f"{data} holds no {marker}, nor does a folder in it; --data is the folder that {what} unpacks to"
        )
    if len(found) > 1:
        raise DatasetProblem(f"{marker} is in {found[0]} and {found[1]}; let --data name one of them")
    return found[0]


def read_table(path: Path, columns: Sequence[str], delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a CSV or TSV file with a header.

    Raises:
        DatasetProblem: the file or one of the `columns` is not there, it cannot be read, or a row is short of
            cells.
    """
    if not path.is_file():
        raise DatasetProblem(f"{path} is not there")
    try:
        with reading(path), path.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, delimiter=delimiter)
            rows, header = list(reader), reader.fieldnames or []
    except csv.Error as error:
        raise DatasetProblem(f"{path} is no table: {error}; save it as CSV or TSV in UTF-8") from error
    if lacking := [column for column in columns if column not in header]:
        raise DatasetProblem(
            f"{path} has no column {lacking[0]!r}; it has: {', '.join(header)}{_unsplit(header, delimiter)}"
        )
    for number, row in enumerate(rows, 2):
        if empty := [column for column in columns if not row[column]]:
            raise DatasetProblem(f"{path}, row {number}: {empty[0]!r} is empty")
    return rows


def _unsplit(header: Sequence[str], delimiter: str) -> str:
    """What to say where a header's cells look as if separated by something else."""
    found = next(
        (mark for mark in SEPARATORS if mark != delimiter and any(mark in cell for cell in header)), ""
    )
    if not found:
        return ""
    return (
        f". It was split at {SEPARATORS[delimiter]}, and holds {SEPARATORS[found]}: separate columns by "
        "commas, or by tabs in a file whose name ends in .tsv"
    )


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        DatasetProblem: the file is not there, cannot be read, or is not in UTF-8.
    """
    if not path.is_file():
        raise DatasetProblem(f"{path} is not there")
    with reading(path):
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say of a file or folder why it cannot be read.

    Raises:
        DatasetProblem: the system does not let it be read, or it is not in UTF-8.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise DatasetProblem(
            f"{path} is not in UTF-8: at byte {error.start} it holds {error.object[error.start]:#04x}; "
            "unpack the data set anew, or save the file as UTF-8"
        ) from error
    except OSError as error:
        raise DatasetProblem(
            f"{path} cannot be read: {error.strerror or error}; look at its permissions and its disk"
        ) from error


def is_audio(path: Path) -> bool:
    """Whether a file's name says that it is sound, and is not hidden."""
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")
