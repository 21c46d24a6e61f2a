"""Speech Commands, both versions, and Fluent Speech Commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from eval_recipes.datasets.clips import TEST, TRAIN, Clip
from eval_recipes.datasets.files import read_lines, read_table, root_with


def speech_commands_v1(data: Path) -> tuple[Path, list[Clip]]:
    """Speech Commands 0.01: folders of 30 words."""
    return _speech_commands(data, "v0.01")


def speech_commands_v2(data: Path) -> tuple[Path, list[Clip]]:
    """Speech Commands 0.02: folders of 35 words."""
    return _speech_commands(data, "v0.02")


def _speech_commands(data: Path, version: str) -> tuple[Path, list[Clip]]:
    """The test clips are `testing_list.txt`; those in training are in no list (the archive has none of them).

    Every word is a class; background noise is none. (The other test set, of twelve classes with silence
    and unknown words, is a data set of its own, a folder per class.)
    """
    root = root_with(data, "testing_list.txt", f"Speech Commands {version}'s archive", prefer=version)
    tested = read_lines(root / "testing_list.txt")
    held_out = {*tested, *read_lines(root / "validation_list.txt")}
    on_disk = (path.relative_to(root).as_posix() for path in root.glob("[!_.]*/*.wav"))
    trained = [path for path in on_disk if path not in held_out]
    return root, [
        Clip(path, path.partition("/")[0], part)
        for part, paths in ((TEST, tested), (TRAIN, trained))
        for path in paths
    ]


FLUENT_COLUMNS = ("path", "transcription", "action", "object", "location")


def fluent_speech_commands(data: Path) -> tuple[Path, list[Clip]]:
    """Fluent Speech Commands: an intent (action, object and location together) is a class."""
    return _fluent(data, lambda row: " / ".join(row[name] for name in ("action", "object", "location")))


def fluent_speech_wordings(data: Path) -> tuple[Path, list[Clip]]:
    """The same clips; a wording is a class, as X-ARES, by the paper's authors, has it."""
    return _fluent(data, lambda row: row["transcription"])


def _fluent(data: Path, label: Callable[[dict[str, str]], str]) -> tuple[Path, list[Clip]]:
    root = root_with(data, "data/train_data.csv", "Fluent Speech Commands' archive")
    return root, [
        Clip(row["path"], label(row), part)
        for part in (TRAIN, TEST)
        for row in read_table(root / f"data/{part}_data.csv", FLUENT_COLUMNS)
    ]
