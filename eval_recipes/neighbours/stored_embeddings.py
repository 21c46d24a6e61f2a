"""Embeddings of clips on disk, one by one: what is embedded stays so, whatever else comes or goes.

A folder holds one pair of files, `embeddings-<digest>.npy` and `.json`: vectors, and the record of what
they are made from and of which clip each row is. The digest is the record's, and the record is written
first, so whenever a process dies, vectors have the record that describes them or none. Beside them lie parts,
not joined yet, each with its own record inside.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from jaxtyping import Float

from eval_recipes import provenance
from eval_recipes.neighbours.embedded_parts import (
    PARTS,
    StoredProblem,
    opened_part,
    parts_of,
    require_same,
    write_part,
)
from hear_dasheng.files.atomic import atomic_file, remove_partials
from hear_dasheng.files.lock import Locked, locked

PART_CLIPS, PART_S = 1024, 60.0
"""A part is written after so many clips or seconds; a killed run loses no more."""

COPIED_ROWS = 4096
"""Vectors that are copied together into a new file."""

Batches = Iterator[tuple[Sequence[int], Float[np.ndarray, "clips features"]]]
Embed = Callable[[list[Path]], Batches]
"""Files -> batches of their places in the list, with their embeddings, in any order."""


def stored_embeddings(
    folder: Path,
    clips: Mapping[str, Path],
    embed: Embed,
    identity: dict[str, Any],
    *,
    redo: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Float[np.ndarray, "clips features"]:
    """Embeddings of all clips, in their order: from `folder` where it has them, else made and kept there.

    Args:
        folder: is made if need be.
        clips: files by their keys; what is kept under a key is used again for it.
        embed: makes embeddings of those that lack.
        identity: what they are made from; it must be equal for embeddings to be used again.
        redo: embed all anew, and drop what is there.
        tell: gets a line on what was found.

    Returns:
        float32; mapped from disk (writing to it changes nothing there) where the folder has them in this
        order, else in memory.

    Raises:
        StoredProblem: embeddings of another identity are there, another run is writing, a file is damaged, or
            an embedding is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if redo:
            _clear(folder)
        held, parts = _held(folder, identity), parts_of(folder, identity)
        kept = {*(held[1] if held else ()), *(key for keys in parts.values() for key in keys)}
        lacking = [key for key in clips if key not in kept]
        if held and not lacking and not parts:
            tell(f"embeddings of {len(clips)} clips used again, from {held[0]}")
        else:
            if len(lacking) < len(clips):
                n_kept = len(clips) - len(lacking)
                was = "was" if n_kept == 1 else "were"
                told = f"{n_kept} of {len(clips)} clips {was} embedded before"
                tell(f"{told}; going on with the others" if lacking else told)
            started = time.monotonic()
            _embed_into_parts(folder, {key: clips[key] for key in lacking}, embed, identity)
            held = _join(folder, held, parts_of(folder, identity), clips, identity, started)
            tell(f"{len(lacking)} clip{'s' * (len(lacking) != 1)} embedded, into {held[0]}")
        return _rows(*held, clips)


def stored_keys(folder: Path, identity: dict[str, Any]) -> set[str]:
    """Keys of the clips that are embedded in a folder.

    Raises:
        StoredProblem: they are of another identity, or a file is damaged.
    """
    held = _held(folder, identity)
    return {
        *(held[1] if held else ()),
        *(key for keys in parts_of(folder, identity).values() for key in keys),
    }


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        with locked(folder / ".embeddings.lock"):
            yield
    except Locked as error:
        raise StoredProblem(f"another run is embedding into {folder}; let it end first") from error


def _clear(folder: Path, but: Path | None = None) -> None:
    """Remove parts, then vectors, then records (but not one pair), so that no vectors lose theirs."""
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    for suffix in (".npy", ".json"):
        for file in folder.glob(f"embeddings-*{suffix}"):
            if but is None or file.stem != but.stem:
                file.unlink()
    remove_partials(folder)


def _digest(identity: dict[str, Any], keys: Sequence[str]) -> str:
    written = json.dumps([identity, list(keys)], sort_keys=True)
    return hashlib.sha256(written.encode()).hexdigest()[:16]


def _held(folder: Path, identity: dict[str, Any]) -> tuple[Path, list[str]] | None:
    """The file of vectors and its rows' keys; the largest, where a run died before it removed an older."""
    found = []
    for vectors in sorted(folder.glob("embeddings-*.npy")):
        record = vectors.with_suffix(".json")
        try:
            content = json.loads(record.read_text())
            recorded, keys = content["identity"], content["clips"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoredProblem(
                f"{vectors} has no record of what it is made from ({error}); --redo embeds anew"
            ) from error
        if vectors.stem != f"embeddings-{_digest(recorded, keys)}":
            raise StoredProblem(f"{record} is not the record of {vectors.name}; --redo embeds anew")
        require_same(recorded, identity, folder)
        found.append((vectors, keys))
    return max(found, key=lambda pair: len(pair[1]), default=None)


def _embed_into_parts(
    folder: Path, clips: Mapping[str, Path], embed: Embed, identity: dict[str, Any]
) -> None:
    if not clips:
        return
    keys, paths = list(clips), list(clips.values())
    waiting: list[tuple[list[str], np.ndarray]] = []
    last = time.monotonic()
    try:
        for places, vectors in embed(paths):
            is_fine = np.isfinite(vectors).all(1)
            if not is_fine.all():
                clip = paths[places[int(np.argmin(is_fine))]]
                raise StoredProblem(f"the module's embedding of {clip} is not finite")
            waiting.append(([keys[place] for place in places], np.asarray(vectors, np.float32)))
            n_waiting = sum(len(some) for some, _ in waiting)
            if n_waiting >= PART_CLIPS or time.monotonic() - last >= PART_S:
                write_part(folder, waiting, identity)
                waiting, last = [], time.monotonic()
    finally:  # also when stopped: what is embedded is kept
        if waiting:
            write_part(folder, waiting, identity)


def _join(
    folder: Path,
    held: tuple[Path, list[str]] | None,
    parts: Mapping[Path, Sequence[str]],
    clips: Mapping[str, Path],
    identity: dict[str, Any],
    started: float,
) -> tuple[Path, list[str]]:
    """All that is there as one pair: first the clips asked for, in their order, then others."""
    before = dict.fromkeys(key for keys in (held[1] if held else [], *parts.values()) for key in keys)
    if lacking := [key for key in clips if key not in before]:
        raise StoredProblem(f"the module gave no embedding of {clips[lacking[0]]}")
    keys = list(dict.fromkeys([*clips, *before]))
    row_of = {key: row for row, key in enumerate(keys)}
    path = folder / f"embeddings-{_digest(identity, keys)}.npy"
    if not keys:
        raise StoredProblem("there are no clips to embed")
    with atomic_file(path) as file:
        _write_rows(file, row_of, _pieces(held, parts))
        circumstances = provenance.circumstances(time.monotonic() - started)
        record = {"identity": identity, **circumstances, "clips": keys}
        provenance.write_json(path.with_suffix(".json"), record)
    _clear(folder, but=path)
    return path, keys


def _write_rows(
    file: BinaryIO, row_of: Mapping[str, int], pieces: Iterator[tuple[Sequence[str], np.ndarray]]
) -> None:
    """Write vectors as one `.npy` file, each in its row, in whatever order they come.

    They are written, not assigned to a memory map: a full disk then raises an `OSError` on every file system,
    where writing to a map would end the process with SIGBUS.

    Args:
        file: empty.
        row_of: rows by the clips' keys.
        pieces: keys and vectors, float32, all of one width.
    """
    start, shape = 0, (0, 0)
    for keys, vectors in pieces:
        if not start:
            shape = (len(row_of), vectors.shape[1])
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()
        if vectors.shape[1] != shape[1]:
            raise StoredProblem(
                f"the module's embeddings have {shape[1]} and {vectors.shape[1]} features; "
                "--redo embeds all clips again"
            )
        for key, vector in zip(keys, vectors, strict=True):
            file.seek(start + row_of[key] * vector.size * 4)
            file.write(np.ascontiguousarray(vector, "<f4"))


def _pieces(
    held: tuple[Path, list[str]] | None, parts: Mapping[Path, Sequence[str]]
) -> Iterator[tuple[Sequence[str], np.ndarray]]:
    if held:
        vectors = _mapped(*held, "r")
        for start in range(0, len(held[1]), COPIED_ROWS):
            yield held[1][start : start + COPIED_ROWS], vectors[start : start + COPIED_ROWS]
    for file, keys in parts.items():
        with opened_part(file) as part:
            yield keys, part["vectors"]


def _mapped(path: Path, keys: Sequence[str], mode: Literal["r", "c"]) -> np.ndarray:
    """Return a file's vectors, mapped.

    Raises:
        StoredProblem: they are not as many as their keys, or something else than vectors.
    """
    try:
        vectors = np.load(path, mmap_mode=mode)  # refuses pickled objects
        if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(keys):
            raise ValueError(f"it holds {vectors.dtype} of the shape {vectors.shape} for {len(keys)} clips")
    except (ValueError, EOFError) as error:
        raise StoredProblem(f"{path} is damaged ({error}); --redo embeds again") from error
    return vectors


def _rows(path: Path, keys: Sequence[str], clips: Mapping[str, Path]) -> np.ndarray:
    vectors = _mapped(path, keys, "c")
    if list(keys[: len(clips)]) == list(clips):
        return vectors[: len(clips)]
    row_of = {key: row for row, key in enumerate(keys)}
    return vectors[[row_of[key] for key in clips]]
