"""One's own data: a folder per class, or a table of files and labels."""

from __future__ import annotations

from pathlib import Path

from eval_recipes.datasets.clips import ALL, TEST, TRAIN, Clip, DatasetProblem
from eval_recipes.datasets.files import AUDIO_SUFFIXES, is_audio, read_table, reading
from hear_dasheng.files.failures import shown

FILE_COLUMNS = ("filename", "file", "path", "fname")
PART_NAMES = {"train": TRAIN, "training": TRAIN, "test": TEST, "testing": TEST, "eval": TEST}
UNUSED_PARTS = ("valid", "validation", "dev", "val")


def folder_per_class(data: Path) -> tuple[Path, list[Clip]]:
    """`<class>/...` (each clip is asked for among all others), or `train/<class>/...` and `test/<class>/...`.

    Raises:
        DatasetProblem: there are not two classes.
    """
    parts = [part for part in (TRAIN, TEST) if (data / part).is_dir()]
    if len(parts) == 1:
        other = TEST if parts == [TRAIN] else TRAIN
        raise DatasetProblem(
            f"{data} holds {parts[0]} but no {other}; a folder per class has both or neither"
        )
    with reading(data):
        clips = [
            Clip(path.relative_to(data).as_posix(), shown(folder.name), part)
            for part in parts or [ALL]
            for folder in sorted((data / part).iterdir())
            if folder.is_dir() and not folder.name.startswith(".")
            for path in folder.rglob("*")
            if is_audio(path)
        ]
        if not clips:
            raise DatasetProblem(_no_clips(data))
    return data, _with_classes(data, clips)


def _no_clips(data: Path) -> str:
    loose = sum(is_audio(path) for path in data.iterdir())
    said = f"{loose} audio files of its own, but " if loose else ""
    return (
        f"{data} holds {said}no folder with audio files ({', '.join(AUDIO_SUFFIXES)}) in it; "
        "--dataset folder wants a folder for each class, <class>/*.wav, or train/<class>/*.wav and "
        "test/<class>/*.wav. "
        "Files in one folder with labels in a table: --dataset list"
    )


def table(data: Path, label_column: str = "label") -> tuple[Path, list[Clip]]:
    """A CSV file, or a TSV file by its ending, with files (relative to it, or absolute) and labels.

    Files are in the first of the columns `filename`, `file`, `path`, `fname` that there is. A column `split`
    tells training from test (validation is left out), else a column `fold` the folds; without
    either, each clip is asked for among all others.

    Raises:
        DatasetProblem: a column is not there, a split is unknown, or there are not two classes.
    """
    delimiter = "\t" if data.suffix.lower() in (".tsv", ".tab") else ","
    rows = read_table(data, (label_column,), delimiter)
    header = rows[0] if rows else {}
    files = next((column for column in FILE_COLUMNS if column in header), None)
    if files is None:
        raise DatasetProblem(f"{data} has no column of files; it can be {', '.join(FILE_COLUMNS)}")
    column = next((name for name in ("split", "fold") if name in header), None)
    rows = read_table(data, [name for name in (files, label_column, column) if name], delimiter)
    clips = []
    for number, row in enumerate(rows, 2):
        part = ALL if column is None else row[column]
        if column == "split":
            if part.lower() in UNUSED_PARTS:
                continue
            if part.lower() not in PART_NAMES:
                known = ", ".join((*PART_NAMES, *UNUSED_PARTS))
                raise DatasetProblem(f"{data}, row {number}: split is {part!r}; it can be {known}")
            part = PART_NAMES[part.lower()]
        clips.append(Clip(row[files], row[label_column], part))
    return data.parent, _with_classes(data, clips)


def _with_classes(data: Path, clips: list[Clip]) -> list[Clip]:
    classes = {clip.label for clip in clips}
    if len(classes) < 2:
        only = "".join(f", {label!r}" for label in classes)
        raise DatasetProblem(
            f"{data} holds {len(clips)} clip{'s' * (len(clips) != 1)} of {len(classes)} "
            f"class{'es' * (len(classes) != 1)}{only}; two are needed"
        )
    parts = {clip.part for clip in clips}
    if len(parts) == 1 and parts != {ALL}:
        raise DatasetProblem(f"{data} has one part, {parts.pop()!r}; there must be two at least, or none")
    return clips
