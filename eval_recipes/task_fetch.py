"""Names of HEAR tasks -> `tasks/<task>`, from the archives at Zenodo.

One task after another: its archive is downloaded and checked against the record's
checksum, then read as a stream from which clips are resampled in parallel, then
deleted unless it is to be kept. A task is there whole or not at all, whatever
stops the process, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import difflib
import logging
from dataclasses import dataclass
from pathlib import Path

import click
from filelock import FileLock

from eval_recipes.archives import ImportProblem
from eval_recipes.disk_space import Need, clips_bytes, folder_bytes, in_words, require_space
from eval_recipes.task_files import count_clips, faintness, missing_files
from eval_recipes.task_import import import_tasks, partial_folder
from eval_recipes.task_table import ARCHIVE_RATE_HZ, ZENODO_RECORD, HearTask
from safe_download.checksum import has_checksum
from safe_download.http_file import download
from safe_download.patience import DownloadError
from safe_download.zenodo import RecordFile, record_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetch:
    """What is to become of the tasks.

    Attributes:
        out: the tasks folder.
        downloads: where archives are while they are needed.
        rate_hz: of the clips that models will read.
        keeps_48k: also keep the archive's own clips.
        keeps_archives: do not delete an archive after its task is complete.
        host: of the Zenodo record.
        workers: threads; None for one a core.
    """

    out: Path
    downloads: Path
    rate_hz: int
    keeps_48k: bool
    keeps_archives: bool
    host: str
    workers: int | None

    @property
    def rates_hz(self) -> list[int]:
        """Of all clips that will be there."""
        return sorted({self.rate_hz, ARCHIVE_RATE_HZ} if self.keeps_48k else {self.rate_hz})

    def is_done(self, task: HearTask) -> bool:
        """Whether all clips of all splits are there, at all rates."""
        return not any(missing_files(self.out / task.folder, rate_hz) for rate_hz in self.rates_hz)

    def archive(self, task: HearTask) -> Path:
        """Where the task's archive is while it is needed."""
        return self.downloads / task.archive


def absence(task: HearTask, files: dict[str, RecordFile]) -> str:
    """What to say about a task whose archive the record does not have."""
    near = difflib.get_close_matches(task.archive, files, n=1)
    there = f"the nearest is {near[0]}" if near else f"it has {len(files)} other files"
    return f"record {ZENODO_RECORD} has no {task.archive}; {there}"


def need_of(task: HearTask, file: RecordFile, fetch: Fetch) -> Need:
    """Disk space that a task takes, and what of it is taken already."""
    archive = fetch.archive(task)
    part = archive.with_name(archive.name + ".part")
    here = next((path.stat().st_size for path in (archive, part) if path.is_file()), 0)
    wanted = sum(clips_bytes(task, rate) for rate in fetch.rates_hz)
    there = sum(folder_bytes(fetch.out / task.folder / str(rate)) for rate in fetch.rates_hz)
    growing = folder_bytes(partial_folder(fetch.out, task.folder, fetch.rate_hz))
    return Need(file.size_bytes, min(here, file.size_bytes), wanted, there + growing)


def fetch_task(task: HearTask, file: RecordFile, fetch: Fetch) -> Path:
    """Bring one task to its folder.

    Raises:
        DownloadError: the archive cannot be had.
        ImportProblem: it does not hold the whole task.
        OSError: it cannot be written.
    """
    archive = fetch.archive(task)
    fetch.downloads.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{archive}.lock"):  # of this task; the empty lock files stay
        if fetch.is_done(task):  # another process was faster
            return fetch.out / task.folder
        if archive.is_file() and not has_checksum(archive, file.checksum):
            logger.warning("%s is not what the record holds; downloading it again", archive)
            archive.unlink()
        download(file.url, archive, file.checksum, file.size_bytes)
        kept_hz = ARCHIVE_RATE_HZ if fetch.keeps_48k else None
        folders = import_tasks(
            archive, fetch.out, fetch.rate_hz, fetch.workers, kept_hz=kept_hz, origin=file.checksum
        )
        if fetch.out / task.folder not in folders:
            raise ImportProblem(f"{archive} holds {', '.join(map(str, folders))}, not {task.folder}")
        if not fetch.keeps_archives:
            archive.unlink()
    return fetch.out / task.folder


def _say_plan(needs: dict[HearTask, Need], fetch: Fetch) -> None:
    for task, need in needs.items():
        rates = " and ".join(f"{rate / 1000:g} kHz" for rate in fetch.rates_hz)
        click.echo(
            f"  {task.folder:<36} {in_words(need.archive_bytes):>8} to download, "
            f"about {in_words(need.clips_bytes):>8} at {rates}"
        )
    click.echo(require_space(list(needs.values()), fetch.out, fetch.downloads, fetch.keeps_archives))


def _say_done(task: HearTask, folder: Path, fetch: Fetch) -> None:
    clips = count_clips(folder)
    click.echo(f"{folder}: {clips} clips at {' and '.join(map(str, fetch.rates_hz))} Hz")
    if warning := faintness(folder, fetch.rate_hz):
        logger.warning("%s: %s", folder, warning)
    if clips != task.clips:
        logger.warning("%s lists %d clips where HEAR's table has %d", folder, clips, task.clips)


def fetch_tasks(tasks: list[HearTask], fetch: Fetch) -> None:
    """Bring tasks to their folders; one that fails stops no other.

    Raises:
        DownloadError: the record's metadata cannot be had.
        TooLittleSpace: the tasks do not fit on the disk; nothing was begun.
        OSError: the disk cannot be written any more.
        click.ClickException: some tasks failed, which are named.
    """
    done = {task: fetch.is_done(task) for task in tasks}
    for task in tasks:
        if done[task]:
            click.echo(f"{fetch.out / task.folder} is complete")
    todo = [task for task in tasks if not done[task]]
    if not todo:
        return
    files = record_files(ZENODO_RECORD, fetch.host)
    failed = {task.folder: absence(task, files) for task in todo if task.archive not in files}
    for problem in failed.values():
        click.echo(f"  not to be had: {problem}", err=True)
    there = {task: files[task.archive] for task in todo if task.archive in files}
    _say_plan({task: need_of(task, file, fetch) for task, file in there.items()}, fetch)
    for number, (task, file) in enumerate(there.items(), 1):
        click.echo(f"[{number}/{len(there)}] {task.folder}")
        try:
            _say_done(task, fetch_task(task, file, fetch), fetch)
        except (DownloadError, ImportProblem) as problem:
            failed[task.folder] = str(problem)
            click.echo(f"  not done: {problem}", err=True)
    if failed:
        raise click.ClickException(
            f"{len(failed)} of {len(todo)} tasks are not done: {', '.join(failed)} (reasons above); "
            "the same command goes on from here"
        )
