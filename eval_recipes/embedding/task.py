"""One HEAR task's audio -> its folder of embeddings; a run that was stopped goes on where it was."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import torch
from tqdm import tqdm

from eval_recipes import provenance
from eval_recipes.embedding import layout
from eval_recipes.embedding.clips import Clip, ClipProblem, batch_seconds, embed_clips, plan_batches
from eval_recipes.embedding.module import HearModule, ModuleProblem
from eval_recipes.embedding.output_folder import BEGUN, Found, begin, locked, look_into
from eval_recipes.embedding.processes import Processes
from eval_recipes.results import SCORES
from eval_recipes.task_checks import TaskProblem, check_task_audio
from eval_recipes.task_lists import read_metadata, read_splits, read_vocabulary
from hear_dasheng.files.atomic import flush


class TaskEmbedder:
    """Embeds tasks with one module.

    Args:
        module: loaded.
        processes: that share the clips.
        identity: what embeddings depend on, beside the task: module, checkpoint, options.
        batch_s: seconds of audio embedded together; None: as the device suggests.
    """

    def __init__(
        self, module: HearModule, processes: Processes, identity: dict[str, Any], batch_s: float | None = None
    ) -> None:
        self.module = module
        self.processes = processes
        self.identity = identity
        self.batch_s = batch_s or batch_seconds(module)

    def embed(self, task_dir: Path, out: Path, redo: bool = False) -> str:
        """Embed a task.

        Args:
            task_dir: with audio at the module's sample rate.
            out: the task's folder of embeddings.
            redo: replace what is there already, but go on with what a stopped `--redo` has begun.

        Returns:
            What happened, for people.

        Raises:
            TaskProblem: a file of the task is missing or broken, an embedding is not finite, or `out` holds
                something else or is another run's. What was embedded before stays, and is not embedded again.
        """
        with ExitStack() as held:
            return self._embed(task_dir, out, redo, held)

    def is_finished(self, task_dir: Path, out: Path) -> bool:
        """Return whether `out` has all embeddings of this task by this module."""
        try:
            return look_into(out, self._identity_of(task_dir), redo=False) is Found.ALL
        except TaskProblem:  # it holds something else, which is to be replaced
            return False

    def _embed(self, task_dir: Path, out: Path, redo: bool, held: ExitStack) -> str:
        start = time.monotonic()

        def prepare() -> dict[str, dict[str, float]] | None:
            held.enter_context(locked(out))
            return self._prepare(task_dir, out, redo)

        seconds = self.processes.first_does(prepare, TaskProblem)
        if seconds is None:
            return "already embedded"
        splits = read_splits(out)
        todo = [(split, clip) for split, clips in splits.items() for clip in clips if clip in seconds[split]]
        audio = task_dir / str(self.module.sample_rate_hz)
        clips = [Clip(audio / split / clip, seconds[split][clip]) for split, clip in todo]
        over_time = read_metadata(out).get("embedding_type") == "event"
        self.processes.each_does(lambda: self._embed_share(out, splits, todo, clips, over_time), TaskProblem)
        self.processes.first_does(lambda: self._finish(task_dir, out, splits, clips, start), TaskProblem)
        kept = sum(map(len, splits.values())) - len(clips)
        said = f" ({kept} clips kept from a run that was stopped)" if kept else ""
        return f"embedded in {time.monotonic() - start:.0f} s{said}: {out}"

    def _identity_of(self, task_dir: Path) -> dict[str, Any]:
        return {**self.identity, "task": provenance.task_identity(task_dir)}

    def _prepare(self, task_dir: Path, out: Path, redo: bool) -> dict[str, dict[str, float]] | None:
        """Check everything that can be checked beforehand; give the seconds of each clip still to embed."""
        identity = self._identity_of(task_dir)
        found = look_into(out, identity, redo)
        if found is Found.ALL:
            return None
        read_vocabulary(task_dir)
        frames = check_task_audio(task_dir, self.module.sample_rate_hz)
        if found is Found.OTHERS and (out / SCORES).exists():
            click.echo(f"  the scores in {out} go with the embeddings that they are of", err=True)
        begin(out, identity, found, redo)
        splits = layout.copy_task_files(task_dir, out)
        rate_hz = self.module.sample_rate_hz
        return {
            split: {
                clip: frames[split][clip] / rate_hz
                for clip in clips
                if not layout.is_written(out, split, clip)
            }
            for split, clips in splits.items()
        }

    def _embed_share(
        self,
        out: Path,
        splits: dict[str, dict[str, Any]],
        todo: list[tuple[str, str]],
        clips: list[Clip],
        over_time: bool,
    ) -> None:
        """Embed each batch whose turn is this process's, and write its clips while the next is embedded."""
        batches = plan_batches(clips, self.batch_s)[self.processes.index :: self.processes.count]
        bar = tqdm(
            total=sum(len(batch) for batch in batches),
            desc="  embedding",
            unit=" clips",
            leave=False,
            disable=None if self.processes.is_first else True,
        )
        written: Future[None] | None = None
        with bar, ThreadPoolExecutor(1) as writer:
            try:
                for found in embed_clips(self.module, clips, batches, over_time=over_time):
                    if written:
                        written.result()
                    written = writer.submit(self._write, out, splits, todo, found)
                    bar.update(len(found))
                if written:
                    written.result()
            except (ClipProblem, ModuleProblem) as error:
                raise TaskProblem(str(error)) from error

    @staticmethod
    def _write(
        out: Path, splits: dict[str, dict[str, Any]], todo: list[tuple[str, str]], found: list[Any]
    ) -> None:
        for index, embedding in found:
            split, clip = todo[index]
            layout.write_clip(out, split, clip, embedding, splits[split][clip])

    def _finish(
        self,
        task_dir: Path,
        out: Path,
        splits: dict[str, dict[str, Any]],
        clips: list[Clip],
        start: float,
    ) -> None:
        layout.join_splits(out, splits)
        seconds = time.monotonic() - start
        on_gpu = self.module.device.type == "cuda"
        profile = {
            "time_elapsed": seconds,
            "gpu_max_mem": torch.cuda.max_memory_reserved() / 2**30 if on_gpu else None,
            "gpu_device_name": torch.cuda.get_device_name() if on_gpu else "cpu",
            "processes": self.processes.count,
            "clips": len(clips),
            "clips_kept_from_before": sum(map(len, splits.values())) - len(clips),
            "audio_seconds": round(sum(clip.seconds for clip in clips), 3),
        }
        provenance.write_json(out / layout.PROFILE, profile)
        provenance.record(out / layout.EMBEDDINGS_RECORD, self._identity_of(task_dir), seconds)
        flush(out)  # once for all clips, which were written without, before the task is marked as done
        (out / layout.EMBEDDINGS_DONE).touch()
        (out / BEGUN).unlink(missing_ok=True)
