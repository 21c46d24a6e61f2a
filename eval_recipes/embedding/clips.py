"""Audio files -> their embeddings: read ahead, batched by length, embedded, a batch at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from eval_recipes.embedding.module import Embedding, HearModule, ModuleProblem
from eval_recipes.modules.guard import told
from whole_audio import openable, rate_fault, shortfall

READERS = 2
BATCHES_AHEAD = 2
BATCH_S = {"cpu": 120.0, "cuda": 640.0}
"""Seconds of audio, padding included, that are embedded together unless asked otherwise."""


class ClipProblem(ValueError):
    """A clip cannot be read, the module refuses it, or its embedding is not finite."""


class RefusedClip(ClipProblem):
    """One clip cannot be embedded, because it cannot be read or the module refuses it; others can be.

    Attributes:
        path: the clip's file.
        reason: why, without the path.
    """

    def __init__(self, path: Path, reason: str, after_path: str = " ") -> None:
        super().__init__(f"{path}{after_path}{reason}")
        self.path, self.reason = path, reason


@dataclass(frozen=True)
class Clip:
    """An audio file and how long it is, so that batches can be planned before it is read."""

    path: Path
    seconds: float


def clips_of(paths: Sequence[Path]) -> list[Clip]:
    """Look at files' headers.

    Raises:
        ClipProblem: a file is missing, cut short, or no audio that soundfile knows.
    """
    clips = []
    for path in paths:
        try:
            header = soundfile.info(openable(path))
            lacking = shortfall(path)
        except (OSError, soundfile.SoundFileError) as error:
            raise RefusedClip(path, f"cannot be read: {error}") from error
        if lacking:
            raise RefusedClip(path, f"is cut short: it {lacking}; get that file anew")
        if fault := rate_fault(header.samplerate):
            raise RefusedClip(path, f"is damaged: {fault}")
        clips.append(Clip(path, header.duration))
    return clips


def read_clip(path: Path, rate_hz: int) -> np.ndarray:
    """Decode a file; mix its channels to one and resample it if need be.

    Returns:
        float32 (samples).

    Raises:
        ClipProblem: it cannot be decoded, or holds no samples.
    """
    try:
        with soundfile.SoundFile(openable(path)) as file:
            found_hz = file.samplerate
            if fault := rate_fault(found_hz):
                raise RefusedClip(path, f"is damaged: {fault}")
            samples = file.read(dtype="float32")
    except (OSError, soundfile.SoundFileError) as error:
        raise RefusedClip(path, f"cannot be read: {error}") from error
    except MemoryError as error:
        raise RefusedClip(path, f"is too long for the memory: {error}") from error
    n_read = len(samples)
    if samples.ndim == 2:
        samples = samples.mean(axis=1, dtype=np.float32)
    if found_hz != rate_hz:
        samples = soxr.resample(samples, found_hz, rate_hz, quality="VHQ")
    if not len(samples):
        raise RefusedClip(path, "holds no samples" if not n_read else f"has no sample left at {rate_hz} Hz")
    return samples


def plan_batches(clips: Sequence[Clip], batch_s: float) -> list[list[int]]:
    """Which clips (by index) share a batch, the longest first.

    A batch holds clips of near length, of at most `batch_s` seconds with their padding; a
    longer clip is a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(clips)), key=lambda i: (-clips[i].seconds, i)):
        if batches and (len(batches[-1]) + 1) * clips[batches[-1][0]].seconds <= batch_s:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def embed_clips(
    module: HearModule,
    clips: Sequence[Clip],
    batches: Sequence[Sequence[int]],
    *,
    over_time: bool = False,
) -> Iterator[list[tuple[int, Embedding]]]:
    """Embed planned batches, reading the next ones meanwhile.

    Args:
        module: from `load_module`.
        clips: all of them.
        batches: indices of the clips to embed, from `plan_batches`; a process may have a share of them.
        over_time: embed moments (`Embedding.timestamps_ms`), not scenes.

    Yields:
        For each batch its clips' indices and embeddings.

    Raises:
        ClipProblem: a clip cannot be read, is too long for the memory or refused by the module, or its
            embedding is not finite.
        ModuleProblem: see `HearModule`.
    """
    embed = module.moments if over_time else module.scenes
    waiting, ahead = iter(batches), deque[list[tuple[int, Future[np.ndarray]]]]()
    pool = ThreadPoolExecutor(READERS)
    try:
        for _ in batches:
            while len(ahead) < BATCHES_AHEAD and (coming := next(waiting, None)) is not None:
                ahead.append(
                    [(i, pool.submit(read_clip, clips[i].path, module.sample_rate_hz)) for i in coming]
                )
            audio = {index: future.result() for index, future in ahead.popleft()}
            found = []
            for group in _groups(audio, module.takes_lengths):
                samples, own = [audio[index] for index in group], [clips[index] for index in group]
                found += zip(group, _embed_what_fits(module.name, embed, samples, own), strict=True)
            for index, embedding in found:
                if not np.isfinite(embedding.values).all():
                    path = clips[index].path
                    raise ClipProblem(f"{path}: its embedding is not finite; look at that clip and the model")
            yield found
    finally:
        pool.shutdown(cancel_futures=True)


def scene_embeddings(
    module: HearModule, paths: Sequence[Path], batch_s: float | None = None
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Embed files of any format, rate and length.

    Args:
        module: from `load_module`.
        paths: of the files.
        batch_s: seconds of audio embedded together; None: as the device suggests (`BATCH_S`).

    Yields:
        Indices into `paths`, the longest clips first, and their embeddings, float32 (n, features).

    Raises:
        ClipProblem, ModuleProblem: see `embed_clips`.
    """
    clips = clips_of(paths)
    batches = plan_batches(clips, batch_s or batch_seconds(module))
    for found in embed_clips(module, clips, batches):
        yield [index for index, _ in found], np.stack([embedding.values for _, embedding in found])


def batch_seconds(module: HearModule) -> float:
    """How much audio to embed together where nobody says."""
    return BATCH_S.get(module.device.type, BATCH_S["cuda"])


def _groups(audio: dict[int, np.ndarray], takes_lengths: bool) -> list[list[int]]:
    """Indices that can share a call: all, or those of one length."""
    if takes_lengths:
        return [list(audio)]
    by_length = sorted(audio, key=lambda index: (len(audio[index]), index))
    return [list(group) for _, group in groupby(by_length, key=lambda index: len(audio[index]))]


def _embed_what_fits(
    name: str,
    embed: Callable[[list[np.ndarray]], list[Embedding]],
    audio: list[np.ndarray],
    clips: list[Clip],
) -> list[Embedding]:
    """Embed clips in one call, or in halves where the memory is too small for all or the module refuses one.

    Raises:
        ClipProblem: one clip alone is too much, or refused (by a ValueError).
        ModuleProblem: the module breaks HEAR's contract, exits, or raises any other error.
    """
    where = clips[0].path if len(clips) == 1 else f"{clips[0].path} and {len(clips) - 1} more"
    try:
        return embed(audio)
    except ModuleProblem as problem:
        raise ModuleProblem(f"{problem}; at {where}") from problem
    except Exception as error:  # whatever a foreign module raises becomes one line for its user
        is_memory_full = _is_memory_full(error)
        if not is_memory_full and not isinstance(error, ValueError):
            raise ModuleProblem(f"{name} fails: {told(error)}; at {where}") from error
        if len(audio) == 1:
            path, seconds = clips[0].path, clips[0].seconds
            why = "the module refuses it"
            if is_memory_full:
                why = f"its {seconds:.1f} s are too much for the memory"
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise RefusedClip(path, f"{why}: {reason}", ": ") from error
    torch.cuda.empty_cache()
    half = len(audio) // 2
    first = _embed_what_fits(name, embed, audio[:half], clips[:half])
    return first + _embed_what_fits(name, embed, audio[half:], clips[half:])


def _is_memory_full(error: Exception) -> bool:
    """Whether a GPU's or the machine's memory is too small; torch has no class of errors for the latter."""
    said = ("can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        part in told(error) for part in said
    )
