"""A HEAR task archive or folder -> `tasks/<task>`, resampled to the model's rate.

The public archives hold 48 kHz audio only and the models want 16 kHz, so everyone
has to resample. A task takes its place in `tasks/` when all clips of all its splits
are there; an interrupted import resumes where it stopped. One process at a time imports a
task: the others are refused.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath

import soundfile
from tqdm import tqdm

from eval_recipes.archives import RATE_FOLDER, ImportProblem, Member, archive_members, folder_members
from eval_recipes.task_files import UnusableClip, lists_of, missing_files, resample
from eval_recipes.task_lists import read_vocabulary
from hear_dasheng.files.atomic import flush, remove_partials, write_atomically
from hear_dasheng.files.lock import Locked, locked

IN_FLIGHT_PER_WORKER = 4
IN_FLIGHT_BYTES = 1 << 29
"""Of clips that wait for a worker: ten minutes at 48 kHz are 115 MB in float32."""

Job = Callable[[], None]


def partial_folder(out: Path, name: str, rate_hz: int) -> Path:
    """Where a task grows before it takes its place in `out`."""
    return out / f".importing-{name}-{rate_hz}"


class TaskImport:
    """One task on its way into the tasks folder.

    Args:
        name: the task's folder name.
        out: the tasks folder.
        rate_hz: of the clips written.
        kept_hz: a rate whose clips are kept as they are, too.
        origin: what the source is known by, for resuming.
        held: keeps the task's lock until it is closed.

    Raises:
        ImportProblem: another process is importing the task.

    Attributes:
        name: the task's folder name.
        lacking_hz: the wanted rates that were not there, complete, before we came.
    """

    def __init__(
        self, name: str, out: Path, rate_hz: int, kept_hz: int | None, origin: str, held: ExitStack
    ) -> None:
        self.name, self.rate_hz, self.kept_hz = name, rate_hz, kept_hz
        try:
            held.enter_context(locked(out / f".{name}.lock"))
        except Locked as error:
            raise ImportProblem(
                f"another process is importing {name} into {out}; let it end, then run the command again"
            ) from error
        self.final = out / name
        self.partial = partial_folder(out, name, rate_hz)
        wanted = [rate_hz] if kept_hz in (None, rate_hz) else [rate_hz, kept_hz]
        self.lacking_hz = [rate for rate in wanted if missing_files(self.final, rate)]
        self.source_rate_hz: int | None = None
        self.originals: set[Path] = set()  # clips that the source holds at a wanted rate already
        self.writing = threading.Lock()
        if self.lacking_hz:
            self._begin(origin)
        elif self.partial.exists():
            shutil.rmtree(self.partial)  # of an import that was stopped, of a task that is complete

    def _begin(self, origin: str) -> None:
        """Keep what an interrupted import of the same source left; discard another's."""
        label = self.partial / ".source"
        if self.partial.is_dir() and (not label.is_file() or label.read_text() != origin):
            shutil.rmtree(self.partial)
        self.partial.mkdir(parents=True, exist_ok=True)
        write_atomically(label, origin)

    def jobs(self, member: Member) -> list[Job]:
        """What is to be done about a member, its bytes already read."""
        if not self.lacking_hz:
            return []
        if member.rate_hz is None:
            return [partial(write_atomically, self.partial / member.path, member.read(), is_durable=False)]
        self.source_rate_hz = self.source_rate_hz or member.rate_hz
        is_source = member.rate_hz == self.source_rate_hz
        targets: dict[Path, bool] = {}  # whether what the source holds there is at that rate
        if member.rate_hz in self.lacking_hz:
            original = self._place(member, member.rate_hz)
            if not (is_source and original.exists()):
                self.originals.add(original)
                targets[original] = True
        if is_source and member.rate_hz != self.rate_hz and self.rate_hz in self.lacking_hz:
            resampled = self._place(member, self.rate_hz)
            if not resampled.exists():
                targets[resampled] = False
        content = member.read() if targets else b""
        return [partial(self._convert, member, content, *target) for target in targets.items()]

    def _place(self, member: Member, rate_hz: int) -> Path:
        return self.partial / str(rate_hz) / PurePosixPath(*member.path.parts[1:])

    def _convert(self, member: Member, content: bytes, target: Path, is_original: bool) -> None:
        """Write a clip at the rate of its place; what the source holds at that rate wins."""
        try:
            converted = resample(content, member.rate_hz if is_original else self.rate_hz)
        except (soundfile.SoundFileError, UnusableClip) as error:
            raise ImportProblem(f"{member.task}/{member.path} cannot be decoded: {error}") from error
        except MemoryError as error:
            raise ImportProblem(
                f"{member.task}/{member.path} is too long for this machine's memory"
            ) from error
        with self.writing:
            if is_original or target not in self.originals:
                write_atomically(target, converted, is_durable=False)

    def finish(self) -> None:
        """Give the complete task its place.

        Raises:
            ImportProblem: the source lacked something, or the task that is there has
                other lists than the one that comes.
        """
        for rate_hz in self.lacking_hz:
            if lacking := missing_files(self.partial, rate_hz):
                more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
                raise ImportProblem(
                    f"{self.name} is incomplete in its source: no {', '.join(lacking[:3])}{more}"
                )
        if not self.lacking_hz:
            return
        read_vocabulary(self.partial)
        for folder in self.partial.iterdir():
            if (
                folder.is_dir()
                and RATE_FOLDER.fullmatch(folder.name)
                and int(folder.name) not in self.lacking_hz
            ):
                shutil.rmtree(folder)  # of an earlier import that wanted more
        remove_partials(self.partial)
        flush(self.partial)  # once for all clips, which were written without
        if self.final.exists():
            self._join()
        else:
            self.partial.rename(self.final)
            (self.final / ".source").unlink()

    def _join(self) -> None:
        """Add clips of a new rate to a task that is there."""
        lists = lists_of(self.partial)
        for name in lists:
            there = self.final / name
            if there.is_file() and there.read_bytes() != (self.partial / name).read_bytes():
                raise ImportProblem(
                    f"{there} is another than the source's: {self.final} is another version of the task; "
                    "move it away, or import into another folder"
                )
        for name in lists:
            write_atomically(self.final / name, (self.partial / name).read_bytes())
        for rate_hz in self.lacking_hz:
            audio = self.final / str(rate_hz)
            if audio.exists():
                shutil.rmtree(audio)
            (self.partial / str(rate_hz)).rename(audio)
        shutil.rmtree(self.partial)


class BoundedPool:
    """Threads whose queue is bounded in jobs and in bytes; the first failed job stops all."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.pool = ThreadPoolExecutor(workers)
        self.waiting: dict[Future[None], int] = {}

    def submit(self, job: Job, size_bytes: int) -> None:
        """Queue a job, once there is room."""
        while self.waiting and (
            len(self.waiting) >= self.workers * IN_FLIGHT_PER_WORKER
            or sum(self.waiting.values()) + size_bytes > IN_FLIGHT_BYTES
        ):
            self._collect(wait(self.waiting, return_when=FIRST_COMPLETED).done)
        self.waiting[self.pool.submit(job)] = size_bytes

    def _collect(self, done: set[Future[None]]) -> None:
        for future in done:
            del self.waiting[future]
            future.result()

    def drain(self) -> None:
        """Wait for all jobs."""
        self._collect(wait(self.waiting).done)

    def __enter__(self) -> BoundedPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)


def import_tasks(
    source: Path,
    out: Path,
    rate_hz: int,
    workers: int | None = None,
    *,
    kept_hz: int | None = None,
    origin: str | None = None,
) -> list[Path]:
    """Bring all tasks of an archive or folder into `out`, resampled in parallel.

    Args:
        source: a tar (compressed or not), or a folder.
        out: the tasks folder.
        rate_hz: sample rate of the clips written, as `<task>/<rate>/<split>/<clip>.wav`.
        workers: threads; None for one a core.
        kept_hz: a rate in the source whose clips are kept as they are, too.
        origin: what tells this source from others, for going on after an
            interruption; None for its path, size and time.

    Returns:
        The task folders.

    Raises:
        ImportProblem: the source is damaged, unsafe or incomplete, or another process is
            importing one of its tasks. Tasks that were
            there before are as they were, and what was converted is kept for the next try.
        OSError: a file cannot be written, as on a full disk; the same holds.
    """
    stat = source.stat()
    workers = workers or os.cpu_count() or 1
    origin = origin or f"{source.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    imports: dict[str, TaskImport] = {}
    size = None if source.is_dir() else stat.st_size
    unit = {"unit": " files"} if source.is_dir() else {"unit": "B", "unit_scale": True}
    with (
        ExitStack() as held,
        tqdm(total=size, desc=source.name, **unit) as bar,
        BoundedPool(workers) as pool,
    ):
        for member in folder_members(source, bar) if source.is_dir() else archive_members(source, bar):
            if member.task not in imports:
                imports[member.task] = TaskImport(member.task, out, rate_hz, kept_hz, origin, held)
            for job in imports[member.task].jobs(member):
                pool.submit(job, member.size_bytes)
        if not imports:
            raise ImportProblem(f"{source} holds no HEAR task")
        pool.drain()
        for task in imports.values():
            task.finish()
    return [task.final for task in imports.values()]
