"""A data set as a list of labelled clips, checked against what its publisher tells."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hear_dasheng.files.failures import shown
from hear_dasheng.files.names import UnsafeName, check_relative_path

TRAIN, TEST = "train", "test"
ALL = ""
"""The part of clips that are in no split: each is asked for among all others."""

MISSING = "missing"
"""Why a clip is left out whose file is not there."""


NAMED = 10
"""Files that a message names; a result names all."""

Faults = Callable[[Mapping[str, Path]], Mapping[str, str]]
"""Files by their keys -> by these, why some cannot be used."""


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
        clips: those that are there and can be read, by part and path.
        deviations: how it differs from the publisher's, or from its own list; empty for a complete one.
        left_out: why each of the other clips is, by path.
        is_published: it is a publisher's data set, not one's own.
        sizes_bytes: of the files, in the order of the clips.
    """

    name: str
    folder: Path
    clips: tuple[Clip, ...]
    deviations: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    is_published: bool = False
    sizes_bytes: tuple[int, ...] = ()

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

    @property
    def files(self) -> dict[str, Path]:
        """Every clip's file by its key, which holds name and size: what an embedding is made from."""
        keys = (_key(clip, size) for clip, size in zip(self.clips, self.sizes_bytes, strict=True))
        return dict(zip(keys, self.paths, strict=True))

    def labels_hash(self) -> str:
        """Hash of names, labels and parts: what a score is of."""
        lines = [f"{clip.path}\t{clip.label}\t{clip.part}\n" for clip in self.clips]
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _key(clip: Clip, size_bytes: int) -> str:
    name = shown(clip.path)
    mark = "" if name == clip.path else "\tescaped"  # or a file with this name would have the same key
    return f"{name}\t{size_bytes}{mark}"


def checked_list(
    name: str,
    folder: Path,
    listed: Iterable[Clip],
    sizes: Sizes | None,
    allow_incomplete: bool = False,
    faults: Faults | None = None,
) -> ClipList:
    """Look whether all clips are there and can be read, and as many as the publisher has.

    Args:
        name: of the data set.
        folder: that the clips' paths are below.
        listed: clips as the data set's own lists have them.
        sizes: the publisher's; None for a data set of one's own.
        allow_incomplete: go on with the clips that are there; how they deviate is kept.
        faults: looks into the files that are there; None: they are not opened.

    Raises:
        DatasetProblem: something is missing, cannot be read, differs, or is listed twice.
    """
    clips = sorted(listed, key=lambda clip: (clip.part, clip.path))
    if sizes:  # a table of one's own may name files anywhere
        _require_inside(folder, clips)
    counts = Counter(clip.path for clip in clips)
    if len(counts) < len(clips):
        twice = next(path for path, count in counts.items() if count > 1)
        raise DatasetProblem(f"{folder} lists {twice!r} {counts[twice]} times")
    if not clips:
        raise DatasetProblem(f"{folder} holds no clips of {name}")
    there, left_out = _there(folder, clips, faults)
    deviations = _left_out(clips, left_out) + (_unlike(list(there), clips, sizes) if sizes else [])
    if deviations and not allow_incomplete:
        told = "".join(f"\n  - {deviation}" for deviation in deviations)
        raise DatasetProblem(
            f"{name} in {folder} is not complete:{told}\n"
            "Complete it, or go on with what is there by --allow-incomplete, which marks the result"
        )
    found = ClipList(
        name, folder, tuple(there), tuple(deviations), left_out, sizes is not None, tuple(there.values())
    )
    expected = {clip.part for clip in clips} | set(sizes.parts if sizes else ())
    if lost := sorted(expected - set(found.parts)):
        raise DatasetProblem(f"{name} in {folder} has no clip {_where(lost)} that can be used")
    if len(found.classes) < 2:
        raise DatasetProblem(f"{name} in {folder} has clips of one class left; two are needed")
    return found


def _require_inside(folder: Path, clips: Sequence[Clip]) -> None:
    """Raise if a publisher's list leads out of the data set's folder."""
    try:
        for clip in clips:
            check_relative_path(clip.path, f"{folder} lists a clip")
    except UnsafeName as error:
        raise DatasetProblem(f"{error}; unpack the data set again") from error


def _there(
    folder: Path, clips: Sequence[Clip], faults: Faults | None
) -> tuple[dict[Clip, int], dict[str, str]]:
    """Sizes in bytes of clips that can be used, and why others cannot, by their paths."""
    sizes: dict[Clip, int] = {}
    left_out: dict[str, str] = {}
    for clip in clips:
        path = folder / clip.path
        try:
            if path.is_file():
                sizes[clip] = path.stat().st_size
            else:
                left_out[clip.path] = MISSING
        except OSError as error:
            left_out[clip.path] = error.strerror or str(error)
        except ValueError as error:  # a NUL in its name
            left_out[clip.path] = str(error)
    if faults is not None:
        found = faults({_key(clip, size): folder / clip.path for clip, size in sizes.items()})
        left_out |= {
            clip.path: found[key] for clip, size in sizes.items() if (key := _key(clip, size)) in found
        }
    return {clip: size for clip, size in sizes.items() if clip.path not in left_out}, left_out


def _left_out(clips: Sequence[Clip], left_out: Mapping[str, str]) -> list[str]:
    return [
        f"it lists {len(clips)} clips, {len(names)} {what}: {some(names)}"
        for what, names in kinds_left_out(left_out).items()
        if names
    ]


def kinds_left_out(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    """Clips that are left out, by what is the matter with them; those that are there with the reason."""
    return {
        "missing": [shown(path) for path, reason in left_out.items() if reason == MISSING],
        "that cannot be read": [f"{shown(path)} ({why})" for path, why in left_out.items() if why != MISSING],
    }


def some(names: Sequence[str], most: int = NAMED) -> str:
    """The first names, and how many more there are.

    >>> some(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


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


def _where(parts: Sequence[str]) -> str:
    return f"of {', '.join(map(_part, parts))}" if parts != [ALL] else "at all"


def _part(name: str) -> str:
    return f"fold {name}" if name.isdigit() else f"the {name} split"
