"""A HEAR task archive or folder -> `tasks/<task>`, resampled to the model's rate.

The public archives hold 48 kHz audio only and the models want 16 kHz, so everyone
has to resample. A task takes its place in `tasks/` when all clips of all its splits
are there; an interrupted import goes on where it stopped.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath

import click
import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from eval_recipes.archives import ImportProblem, Member, archive_members, folder_members

IN_FLIGHT_PER_WORKER = 4


def resample(content: bytes, rate_hz: int) -> bytes:
    """Convert a sound file to another rate, mono wav, keeping its sample format.

    Raises:
        soundfile.SoundFileError: the content cannot be decoded.
    """
    with soundfile.SoundFile(io.BytesIO(content)) as source:
        if source.samplerate == rate_hz and source.channels == 1 and source.format == "WAV":
            return content
        samples = source.read(dtype="float32", always_2d=True).mean(axis=1, dtype=np.float32)
        subtype = source.subtype if source.subtype in soundfile.available_subtypes("WAV") else "PCM_16"
        converted = soxr.resample(samples, source.samplerate, rate_hz, quality="VHQ")
    written = io.BytesIO()
    soundfile.write(written, converted, rate_hz, subtype=subtype, format="WAV")
    return written.getvalue()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


class TaskImport:
    """One task on its way into the tasks folder.

    Attributes:
        name: the task's folder name.
        is_complete: it was there, at this rate, before we came.
    """

    def __init__(self, name: str, out: Path, rate_hz: int, source: str) -> None:
        self.name, self.rate_hz = name, rate_hz
        self.final = out / name
        self.partial = out / f".importing-{name}-{rate_hz}"
        self.is_complete = (self.final / str(rate_hz)).is_dir() and not self.missing(self.final)
        self.source_rate_hz: int | None = None
        self.originals: set[Path] = set()  # clips that the source holds at our rate already
        self.writing = threading.Lock()
        if not self.is_complete:
            self._begin(source)

    def _begin(self, source: str) -> None:
        """Keep what an interrupted import of the same source left; discard another's."""
        origin = self.partial / ".source"
        if self.partial.is_dir() and (not origin.is_file() or origin.read_text() != source):
            shutil.rmtree(self.partial)
        self.partial.mkdir(parents=True, exist_ok=True)
        origin.write_text(source)

    def job(self, member: Member) -> Callable[[], None] | None:
        """What is to be done about a member, its bytes already read; None for nothing."""
        if self.is_complete:
            return None
        if member.rate_hz is None:
            content = member.read()
            return lambda: write_whole(self.partial / member.path, content)
        self.source_rate_hz = self.source_rate_hz or member.rate_hz
        if member.rate_hz not in (self.rate_hz, self.source_rate_hz):
            return None
        target = self.partial / str(self.rate_hz) / PurePosixPath(*member.path.parts[1:])
        is_original = member.rate_hz == self.rate_hz
        if target.exists() and not (is_original and self.source_rate_hz != self.rate_hz):
            return None
        content = member.read()

        if is_original:
            self.originals.add(target)

        def convert() -> None:
            try:
                converted = resample(content, self.rate_hz)
            except soundfile.SoundFileError as error:
                raise ImportProblem(f"{member.task}/{member.path} cannot be decoded: {error}") from error
            with self.writing:
                if is_original or target not in self.originals:
                    write_whole(target, converted)

        return convert

    def missing(self, folder: Path) -> list[str]:
        """What a task folder lacks: metadata, vocabulary, split lists, clips on the lists."""
        if not (folder / "task_metadata.json").is_file():
            return ["task_metadata.json"]
        metadata = json.loads((folder / "task_metadata.json").read_text())
        lists = [f"{split}.json" for split in metadata["splits"]]
        lacking = [name for name in ["labelvocabulary.csv", *lists] if not (folder / name).is_file()]
        for split in metadata["splits"]:
            if f"{split}.json" not in lacking:
                clips = json.loads((folder / f"{split}.json").read_text())
                audio = folder / str(self.rate_hz) / split
                lacking += [
                    f"{self.rate_hz}/{split}/{clip}" for clip in clips if not (audio / clip).is_file()
                ]
        return lacking

    def finish(self) -> None:
        """Give the complete task its place."""
        if self.is_complete:
            return
        if lacking := self.missing(self.partial):
            more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            raise ImportProblem(f"{self.name} is incomplete in its source: no {', '.join(lacking[:3])}{more}")
        (self.partial / ".source").unlink()
        if not self.final.exists():
            self.partial.rename(self.final)
            return
        audio = self.final / str(self.rate_hz)
        if audio.exists():
            shutil.rmtree(audio)
        (self.partial / str(self.rate_hz)).rename(audio)
        shutil.rmtree(self.partial)


def import_tasks(source: Path, out: Path, rate_hz: int, workers: int | None = None) -> list[Path]:
    """Bring all tasks of an archive or folder into `out`, resampled in parallel.

    Args:
        source: a tar (compressed or not), or a folder.
        out: the tasks folder.
        rate_hz: sample rate of the clips written, as `<task>/<rate>/<split>/<clip>.wav`.
        workers: threads; None for one a core.

    Returns:
        The task folders.

    Raises:
        ImportProblem: the source is damaged, unsafe or incomplete. Tasks that were
            there before are as they were, and what was converted is kept for the next try.
    """
    workers = workers or os.cpu_count() or 1
    stat = source.stat()
    origin = f"{source.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    imports: dict[str, TaskImport] = {}
    size = None if source.is_dir() else stat.st_size
    unit = {"unit": " files"} if source.is_dir() else {"unit": "B", "unit_scale": True}
    with tqdm(total=size, desc=source.name, **unit) as bar, ThreadPoolExecutor(workers) as pool:
        members = folder_members(source, bar) if source.is_dir() else archive_members(source, bar)
        pending: set[Future[None]] = set()
        try:
            for member in members:
                if member.task not in imports:
                    imports[member.task] = TaskImport(member.task, out, rate_hz, origin)
                if job := imports[member.task].job(member):
                    pending.add(pool.submit(job))
                if len(pending) >= workers * IN_FLIGHT_PER_WORKER:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
            for future in pending:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if not imports:
        raise ImportProblem(f"{source} holds no HEAR task")
    for task in imports.values():
        task.finish()
    return [task.final for task in imports.values()]


@click.group()
def tasks() -> None:
    """Bring HEAR tasks to this disk."""


@tasks.command("import")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--rate",
    "rate_hz",
    default=16_000,
    show_default=True,
    type=click.IntRange(8_000, 96_000),
    help="Sample rate to write, in Hz.",
)
@click.option("--out", default="tasks", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--workers", type=click.IntRange(1), help="Threads; one a core unless told.")
def import_command(source: Path, rate_hz: int, out: Path, workers: int | None) -> None:
    """Import SOURCE, a HEAR task archive (tar, tar.gz) or folder, resampled."""
    try:
        folders = import_tasks(source, out, rate_hz, workers)
    except ImportProblem as problem:
        raise click.ClickException(str(problem)) from problem
    for folder in folders:
        clips = sum(1 for _ in (folder / str(rate_hz)).rglob("*.wav"))
        click.echo(f"{folder}: {clips} clips at {rate_hz} Hz")
