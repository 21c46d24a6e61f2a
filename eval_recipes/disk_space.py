"""What fetching tasks takes of a disk at its fullest moment, told and checked before it begins."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from eval_recipes.task_table import HearTask

SAMPLE_BYTES = 2
"""ffmpeg's default, with which HEAR's preprocessing wrote; a few data sets may come in float32."""

FILE_BYTES = 4096
"""Header and the rest of the last block, for each clip."""

GIGABYTE, MEGABYTE = 10**9, 10**6


class TooLittleSpace(OSError):
    """The tasks do not fit on the disk."""


@dataclass(frozen=True)
class Need:
    """Bytes of one task, and how many of them are here already.

    Attributes:
        archive_bytes: the download.
        archive_here_bytes: of it, from an earlier try.
        clips_bytes: all clips that will stay, estimated.
        clips_here_bytes: of them, from an earlier try.
    """

    archive_bytes: int
    archive_here_bytes: int
    clips_bytes: int
    clips_here_bytes: int


def in_words(bytes_: int) -> str:
    """A size as people read it.

    >>> in_words(53_600_000_000), in_words(2_400_000)
    ('53.6 GB', '2.4 MB')
    """
    unit, name = (GIGABYTE, "GB") if bytes_ >= GIGABYTE else (MEGABYTE, "MB")
    return f"{bytes_ / unit:.1f} {name}"


def clips_bytes(task: HearTask, rate_hz: int) -> int:
    """Estimated bytes of a task's clips at a sample rate."""
    return round(task.hours * 3600 * rate_hz) * SAMPLE_BYTES + task.clips * FILE_BYTES


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; 0 if there is none."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def fullest(needs: Iterable[Need], keeps_archives: bool) -> tuple[int, int, int]:
    """Additional bytes at the fullest moment when tasks are fetched one after another.

    Returns:
        Of the archives alone, of the clips alone, and of both on one disk.

    >>> fullest([Need(5, 0, 2, 0), Need(4, 0, 3, 0)], keeps_archives=False)
    (5, 5, 9)
    """
    archives = clips = most_archives = most_both = 0
    for need in needs:
        archives += need.archive_bytes - need.archive_here_bytes
        clips += max(0, need.clips_bytes - need.clips_here_bytes)
        most_archives = max(most_archives, archives)
        most_both = max(most_both, archives + clips)
        if not keeps_archives:
            archives -= need.archive_bytes
    return most_archives, clips, most_both


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    return path if path.exists() else _existing(path.parent)


def require_space(needs: list[Need], out: Path, downloads: Path, keeps_archives: bool) -> str:
    """Say what is needed and what is free.

    Raises:
        TooLittleSpace: it does not fit.
    """
    archives, clips, both = fullest(needs, keeps_archives)
    if _existing(out).stat().st_dev == _existing(downloads).stat().st_dev:
        demands = [(out, both)]
    else:
        demands = [(out, clips), (downloads, archives)]
    lines = []
    for folder, bytes_ in demands:
        free = shutil.disk_usage(_existing(folder)).free
        said = f"about {in_words(bytes_)} on the disk of {folder}, where {in_words(free)} are free"
        if bytes_ > free:
            raise TooLittleSpace(
                f"this needs {said}: name fewer tasks, drop archives and 48 kHz clips, or give a folder on "
                "another disk (--out, --downloads)"
            )
        lines.append(said)
    return f"Needs at its fullest moment {'; '.join(lines)}"
