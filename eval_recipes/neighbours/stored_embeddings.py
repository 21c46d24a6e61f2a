"""Embeddings of a list of clips on disk: whole or not there, and a stopped run goes on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Float

from eval_recipes import provenance

VECTORS, RECORD = "embeddings.npy", "embeddings.json"
PARTS, PART_RECORD = "embeddings.parts", "made_from.json"
PART_CLIPS, PART_S = 1024, 60.0
"""A part is written after so many clips or seconds; a killed run loses no more."""

Batches = Iterator[tuple[Sequence[int], Float[np.ndarray, "clips features"]]]
Embed = Callable[[list[Path]], Batches]
"""Files -> batches of their places in the list, with their embeddings, in any order."""


class StoredProblem(ValueError):
    """Embeddings that cannot be stored here, or that others are in the way of."""


def stored_embeddings(
    folder: Path,
    paths: Sequence[Path],
    embed: Embed,
    identity: dict[str, Any],
    *,
    redo: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Float[np.ndarray, "clips features"]:
    """Embeddings of all files, in their order: from `folder`, if they are there, else made and kept there.

    Args:
        folder: is made if need be.
        paths: the clips.
        embed: makes embeddings of those that lack.
        identity: what they are made from; it must be equal for embeddings to be used again.
        redo: replace embeddings of another identity.
        tell: gets a line on what was found.

    Returns:
        float32, mapped from disk (writing to it changes nothing there).

    Raises:
        StoredProblem: embeddings of another identity are there, another run is writing, or an embedding
            is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if (folder / VECTORS).is_file() and not redo:
            _require_same(folder / RECORD, identity, folder)
            tell(f"embeddings of {len(paths)} clips used again, from {folder / VECTORS}")
        else:
            started = time.monotonic()
            parts = _parts_folder(folder, identity, redo)
            done = _places_in(parts)
            if done:
                tell(f"{len(done)} of {len(paths)} clips were embedded before; going on with the others")
            _embed_the_others(paths, embed, parts, done)
            _join(parts, folder / VECTORS, len(paths))
            provenance.record(folder / RECORD, identity, time.monotonic() - started)
            shutil.rmtree(parts)
            tell(f"{len(paths) - len(done)} clips embedded, into {folder / VECTORS}")
    return np.load(folder / VECTORS, mmap_mode="c")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / ".embeddings.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise StoredProblem(f"another run is embedding into {folder}; let it end first") from error
    try:
        yield
    finally:
        lock.release()


def _require_same(record: Path, identity: dict[str, Any], folder: Path) -> None:
    if changed := provenance.difference(record, identity):
        raise StoredProblem(
            f"{folder} holds embeddings of something else ({changed}); --redo replaces them, "
            "another --out keeps both"
        )


def _parts_folder(folder: Path, identity: dict[str, Any], redo: bool) -> Path:
    """The parts of a run like this one; those of another are in the way unless it is redone."""
    parts = folder / PARTS
    if redo and (folder / VECTORS).is_file():
        (folder / RECORD).unlink(missing_ok=True)
        (folder / VECTORS).unlink()
        shutil.rmtree(parts, ignore_errors=True)
    if parts.is_dir() and provenance.difference(parts / PART_RECORD, identity):
        if not redo:
            _require_same(parts / PART_RECORD, identity, parts)
        shutil.rmtree(parts)
    if not parts.is_dir():
        parts.mkdir()
        provenance.write_json(parts / PART_RECORD, {"identity": identity})
    return parts


def _part_files(parts: Path) -> list[Path]:
    return sorted(parts.glob("part-*.npz"))


def _places_in(parts: Path) -> set[int]:
    places: set[int] = set()
    for file in _part_files(parts):
        with np.load(file) as part:
            places.update(part["places"].tolist())
    return places


def _embed_the_others(paths: Sequence[Path], embed: Embed, parts: Path, done: set[int]) -> None:
    places = [place for place in range(len(paths)) if place not in done]
    if not places:
        return
    number = len(_part_files(parts))
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    last = time.monotonic()
    try:
        for indices, vectors in embed([paths[place] for place in places]):
            own = np.array([places[index] for index in indices], np.int64)
            if not (is_fine := np.isfinite(vectors).all(1)).all():
                clip = paths[own[int(np.argmin(is_fine))]]
                raise StoredProblem(f"the module's embedding of {clip} is not finite")
            waiting.append((own, np.asarray(vectors, np.float32)))
            n_waiting = sum(len(own) for own, _ in waiting)
            if n_waiting >= PART_CLIPS or time.monotonic() - last >= PART_S:
                _write_part(parts, number, waiting)
                number, waiting, last = number + 1, [], time.monotonic()
    finally:  # also when stopped: what is embedded is kept
        if waiting:
            _write_part(parts, number, waiting)


def _write_part(parts: Path, number: int, batches: list[tuple[np.ndarray, np.ndarray]]) -> None:
    path = parts / f"part-{number:06}.npz"
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as opened:
        places, vectors = zip(*batches, strict=True)
        np.savez(opened, places=np.concatenate(places), vectors=np.concatenate(vectors))
    partial.replace(path)


def _join(parts: Path, path: Path, n_clips: int) -> None:
    """All parts as one array on disk, part by part."""
    partial = path.with_name(f".{path.name}.partial")
    joined, n_joined = None, 0
    for file in _part_files(parts):
        with np.load(file) as part:
            places, vectors = part["places"], part["vectors"]
        if joined is None:
            shape = (n_clips, vectors.shape[1])
            joined = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        joined[places] = vectors
        n_joined += len(places)
    if joined is None or n_joined != n_clips:
        raise StoredProblem(f"{n_joined} of {n_clips} clips were embedded; delete {parts} and start again")
    joined.flush()
    partial.replace(path)
