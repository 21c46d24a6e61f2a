"""A data set as a list of labelled clips, checked against what its publisher tells."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

TRAIN, TEST = "train", "test"
ALL = ""
"""The part of clips that are in no split: each is asked for among all others."""


class DatasetProblem(ValueError):
    """A folder that is not, or not quite, the data set it should be."""


@dataclass(frozen=True)
class Clip:
    """One labelled file.

    Attributes:
        path: below the data set's folder, with forward slashes (or absolute).
        label: its class.
        part: `train`, `test`, a fold's name, or `ALL`.
    """

    path: str
    label: str
    part: str


@dataclass(frozen=True)
class Sizes:
    """What a publisher tells of a data set: how many classes, and clips by part."""

    classes: int
    parts: Mapping[str, int]


@dataclass(frozen=True)
class ClipList:
    """A data set on this disk.

    Attributes:
        name: of the data set.
        folder: that paths are below.
        clips: those that are there, by part and path.
        deviations: how it differs from the publisher's; empty for a complete one.
    """

    name: str
    folder: Path
    clips: tuple[Clip, ...]
    deviations: tuple[str, ...] = ()

    @property
    def parts(self) -> list[str]:
        """Names of the parts, folds in the order of their numbers."""
        return sorted(
            {clip.part for clip in self.clips}, key=lambda name: (not name.isdigit(), len(name), name)
        )

    @property
    def classes(self) -> list[str]:
        """All labels, sorted."""
        return sorted({clip.label for clip in self.clips})

    @property
    def paths(self) -> list[Path]:
        """Every clip's file."""
        return [self.folder / clip.path for clip in self.clips]

    def files_hash(self) -> str:
        """Hash of the files' names and sizes: what embeddings are made from."""
        lines = [f"{clip.path}\t{(self.folder / clip.path).stat().st_size}\n" for clip in self.clips]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def labels_hash(self) -> str:
        """Hash of names, labels and parts: what a score is of."""
        lines = [f"{clip.path}\t{clip.label}\t{clip.part}\n" for clip in self.clips]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def checked_list(
    name: str, folder: Path, listed: Iterable[Clip], sizes: Sizes | None, allow_incomplete: bool = False
) -> ClipList:
    """Look whether all clips are there, and as many as the publisher has.

    Args:
        name: of the data set.
        folder: that the clips' paths are below.
        listed: clips as the data set's own lists have them.
        sizes: the publisher's; None for a data set of one's own.
        allow_incomplete: go on with the clips that are there; how they deviate is kept.

    Raises:
        DatasetProblem: something is missing, differs, or is listed twice.
    """
    clips = sorted(listed, key=lambda clip: (clip.part, clip.path))
    counts = Counter(clip.path for clip in clips)
    if len(counts) < len(clips):
        twice = next(path for path, count in counts.items() if count > 1)
        raise DatasetProblem(f"{folder} lists {twice!r} {counts[twice]} times")
    if not clips:
        raise DatasetProblem(f"{folder} holds no clips of {name}")
    there = [clip for clip in clips if (folder / clip.path).is_file()]
    deviations = _missing(clips, there) + (_unlike(there, clips, sizes) if sizes else [])
    if deviations and not allow_incomplete:
        found = "".join(f"\n  - {deviation}" for deviation in deviations)
        raise DatasetProblem(
            f"{name} in {folder} is not complete:{found}\n"
            "Complete it, or go on with what is there by --allow-incomplete, which marks the result"
        )
    found = ClipList(name, folder, tuple(there), tuple(deviations))
    expected = {clip.part for clip in clips} | set(sizes.parts if sizes else ())
    if lost := sorted(expected - set(found.parts)):
        raise DatasetProblem(f"{name} in {folder} has no clip of {', '.join(map(_part, lost))}")
    return found


def _missing(clips: list[Clip], there: list[Clip]) -> list[str]:
    if len(there) == len(clips):
        return []
    is_there = set(there)
    first = next(clip.path for clip in clips if clip not in is_there)
    return [f"it lists {len(clips)} clips, {len(clips) - len(there)} missing, first: {first}"]


def _unlike(there: list[Clip], listed: list[Clip], sizes: Sizes) -> list[str]:
    deviations = []
    classes = len({clip.label for clip in listed})
    if classes != sizes.classes:
        deviations.append(f"it has {classes} classes, the publisher's {sizes.classes}")
    counts = Counter(clip.part for clip in there)
    for part in sorted({*counts, *sizes.parts}):
        if counts[part] != sizes.parts.get(part, 0):
            published = sizes.parts.get(part, 0)
            deviations.append(f"{_part(part)} has {counts[part]} clips here, the publisher's {published}")
    return deviations


def _part(name: str) -> str:
    return f"fold {name}" if name.isdigit() else f"the {name} split"
