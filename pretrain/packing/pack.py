"""A list of audio files -> shards in a folder, in as many runs as it takes.

A run fills one shard after the other from the list's files in a fixed order, so a
shard's bytes depend on the list and the options alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64
from tqdm import tqdm

from pretrain.packing.file_list import FileList, read_file_list
from pretrain.packing.manifest import REMEDY, Manifest, Rejects, ResumeProblem, Shard
from pretrain.packing.ordered_pool import ordered_map
from pretrain.packing.output_folder import OutputFolder
from pretrain.packing.shard_file import Sample, write_shard
from pretrain.packing.transcode import UNTOUCHED, Audio, Job, Target, audio_for_shard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """All that decides, besides the list, what the shards hold.

    Attributes:
        size_per_file: audio files in each shard but the last.
        filename_column: the list's column that names them.
        delim: what separates the list's columns.
        is_compressed: write `.tar.gz`.
        seed: shuffles the whole list; None keeps its order.
        target: what audio is transcoded to.
    """

    size_per_file: int = 10_000
    filename_column: str = "filename"
    delim: str = "\t"
    is_compressed: bool = False
    seed: int | None = 0
    target: Target = UNTOUCHED

    def as_json(self) -> dict[str, Any]:
        """The manifest's record: a run that differs in any of it cannot go on with these shards."""
        return {
            "size_per_file": self.size_per_file,
            "filename_column": self.filename_column,
            "delim": self.delim,
            "compress": self.is_compressed,
            "seed": self.seed,
            "rate": self.target.rate_hz,
            "format": self.target.suffix,
        }


@dataclass(frozen=True)
class Packed:
    """What is in the output folder after a run."""

    manifest: Manifest
    rejects: Rejects
    n_kept_shards: int


class Gap(NamedTuple):
    """Places first..stop of the run's order that are in no finished shard yet.

    Attributes:
        number: of the shard that they fill, or the first of the shards.
        is_one_shard: they fill one shard, whatever its size: one that was finished and is gone.
    """

    number: int
    first: int
    stop: int
    is_one_shard: bool


def pack(
    list_path: Path,
    out: Path,
    options: Options = Options(),  # noqa: B008 (frozen)
    n_workers: int = 4,
    is_overwriting: bool = False,
) -> Packed:
    """Write a list's audio files to shards; go on where an earlier run stopped.

    Args:
        list_path: the table of files, see `read_file_list`.
        out: the folder; made if it is not there.
        options: see there.
        n_workers: processes that transcode, or threads that copy; fewer than 2 mean neither.
            Processes are spawned, so a script needs its `if __name__ == "__main__"`.
        is_overwriting: first delete all that an earlier run for a list of this name wrote.

    Raises:
        ListProblem: the list cannot be read.
        ResumeProblem: `out` holds shards of another list or of other options.
        WorkerDied: a process was killed or crashed.
        OSError: the disk is full, or no place to write.
        The last two leave all shards finished so far, and nothing half-written.
    """
    files = read_file_list(list_path, options.filename_column, options.delim)
    out.mkdir(parents=True, exist_ok=True)
    folder = OutputFolder(out, list_path)
    with folder.locked():
        if is_overwriting:
            folder.delete_all()
        return _Run(files, folder, options).finish(n_workers)


class _Run:
    """One run's state: what is finished, what is rejected, and the place it is at."""

    def __init__(self, files: FileList, folder: OutputFolder, options: Options) -> None:
        self.files, self.folder, self.options = files, folder, options
        self.order: Int64[np.ndarray, " usable"] = files.order(options.seed)
        self.list_folder = files.path.parent.resolve()
        relative_to = [str(Path.cwd()), str(self.list_folder)] if files.has_relative_paths else None
        source = {"path": str(files.path), "rows": len(files), "sha256": files.sha256}
        self.manifest = Manifest(
            folder.manifest,
            source,
            options.as_json() | {"relative_to": relative_to},
            partial_prefix=folder.partial_prefix,
        )
        self.rejects = Rejects(folder.rejects, files.filenames, files.unusable, folder.partial_prefix)
        self.place, self.hours = 0, 0.0
        if folder.manifest.exists():
            self.manifest.take_over()
        elif there := folder.shards():
            raise ResumeProblem(f"{there[0]} is there, but no {folder.manifest.name} that knows it; {REMEDY}")
        folder.clear_partials()

    def finish(self, n_workers: int) -> Packed:
        """Fill all gaps."""
        gaps = self._gaps()
        n_kept = len(self.manifest.shards) - sum(gap.is_one_shard for gap in gaps)
        if gaps:
            self._write_state()
        jobs = (self._job(place) for gap in gaps for place in range(gap.first, gap.stop))
        n_kept_files = len(self.order) - sum(gap.stop - gap.first for gap in gaps)
        is_threaded = self.options.target == UNTOUCHED  # copying waits for disks
        with (
            tqdm(total=len(self.order), initial=n_kept_files, desc=self.files.path.stem, unit="file") as bar,
            closing(ordered_map(audio_for_shard, jobs, n_workers, is_threaded)) as audio,
        ):
            for gap in gaps:
                self._fill(gap, audio, bar)
        self.manifest.is_complete = True
        self._write_state()
        return Packed(self.manifest, self.rejects, n_kept)

    def _gaps(self) -> list[Gap]:
        """What is to do; takes over the rejects of what is not."""
        earlier = self.rejects.earlier()
        is_rejected = np.zeros(len(self.files), bool)
        is_rejected[list(earlier)] = True
        gaps, end = [], 0
        for number, shard in self.manifest.shards.items():
            path = self.folder.path / shard.file
            rows = self.order[shard.first : shard.stop]
            rejected = rows[is_rejected[rows]].tolist()
            end = shard.stop
            has_all_rejects = len(rejected) == shard.stop - shard.first - shard.written.samples
            if has_all_rejects and path.is_file() and path.stat().st_size == shard.written.bytes:
                self.rejects.reasons |= {row: earlier[row] for row in rejected}
            else:
                gaps.append(Gap(number, shard.first, shard.stop, is_one_shard=True))
        if end < len(self.order):
            gaps.append(Gap(len(self.manifest.shards), end, len(self.order), is_one_shard=False))
        return gaps

    def _fill(self, gap: Gap, audio: Iterator[Audio | str], bar: tqdm) -> None:
        """Write the shards of a gap."""
        samples = self._samples(gap, audio, bar)
        self.place, number = gap.first, gap.number
        while self.place < gap.stop:
            path = self.folder.shard(number, self.options.is_compressed)
            first = self.place
            some = samples if gap.is_one_shard else islice(samples, self.options.size_per_file)
            written = write_shard(path, some, self.options.is_compressed, self.folder.partial_prefix)
            if written:
                self._record(number, Shard(path.name, first, self.place, written))
            elif gap.is_one_shard:
                raise ResumeProblem(f"{path} is gone, and so are all of its audio files; {REMEDY}")
            number += 1

    def _record(self, number: int, shard: Shard) -> None:
        before = self.manifest.shards.get(number)
        if before and before.written.sha256 != shard.written.sha256:
            log.warning("%s was made anew and differs: its audio files changed meanwhile", shard.file)
        self.manifest.shards[number] = shard
        self._write_state()

    def _samples(self, gap: Gap, audio: Iterator[Audio | str], bar: tqdm) -> Iterator[Sample]:
        """The gap's usable files, one by one; the others go to the rejects."""
        for place, found in zip(range(gap.first, gap.stop), audio, strict=False):
            row = int(self.order[place])
            self.place = place + 1
            is_usable = isinstance(found, Audio)
            if is_usable:
                self.hours += found.seconds / 3600
            else:
                self.rejects.reasons[row] = found
            speed = self.hours / (bar.format_dict["elapsed"] or 1)
            bar.set_postfix_str(f"{speed:.3g} h/s, {len(self.rejects)} rejected", refresh=False)
            bar.update()
            if is_usable:
                yield Sample(self.files.key(row), found, self.files.labels(row))

    def _job(self, place: int) -> Job:
        filename = self.files.filenames[self.order[place]]
        return Job(filename, self.list_folder, self.options.target)

    def _write_state(self) -> None:
        self.rejects.write()
        self.manifest.write(len(self.rejects))
