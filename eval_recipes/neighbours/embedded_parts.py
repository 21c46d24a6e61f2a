"""What is embedded but not joined yet: files of keys and vectors, each with its own record inside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from hear_dasheng.files.atomic import atomic_file

PARTS = "embeddings.parts"


class StoredProblem(ValueError):
    """Embeddings that cannot be stored here, or that others are in the way of."""


def require_same(recorded: dict[str, Any], identity: dict[str, Any], folder: Path) -> None:
    """Refuse embeddings that are made from something else.

    Raises:
        StoredProblem: naming what differs, and the remedies.
    """
    changed = [name for name in identity if recorded.get(name) != identity[name]]
    if changed:
        told = "; ".join(f"{name} was {recorded.get(name)!r}, now {identity[name]!r}" for name in changed)
        raise StoredProblem(
            f"{folder} holds embeddings of something else ({told}); --redo replaces them, "
            "another --out keeps both (or another --name, of data of your own)"
        )


def parts_of(folder: Path, identity: dict[str, Any]) -> dict[Path, list[str]]:
    """Keys of each part's clips, by its file.

    Raises:
        StoredProblem: a part is of another identity, or damaged.
    """
    found = {}
    for file in sorted((folder / PARTS).glob("part-*.npz")):
        with opened_part(file) as part:
            recorded, keys = json.loads(str(part["identity"])), part["keys"].tolist()
        require_same(recorded, identity, folder)
        found[file] = keys
    return found


@contextmanager
def opened_part(file: Path) -> Iterator[Any]:
    """A part's arrays: `identity` (JSON), `keys`, `vectors`.

    Raises:
        StoredProblem: it is damaged.
    """
    try:
        with np.load(file) as part:
            yield part
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise StoredProblem(f"{file} is damaged ({error}); delete it, its clips are embedded anew") from error


def write_part(
    folder: Path, batches: Sequence[tuple[list[str], np.ndarray]], identity: dict[str, Any]
) -> None:
    """Write keys and vectors of some batches as one more part, whole or not at all."""
    parts = folder / PARTS
    parts.mkdir(exist_ok=True)
    last = max((int(file.stem.removeprefix("part-")) for file in parts.glob("part-*.npz")), default=-1)
    path = parts / f"part-{last + 1:06}.npz"
    keys = np.array([key for some, _ in batches for key in some])
    vectors = np.concatenate([vectors for _, vectors in batches])
    with atomic_file(path) as opened:
        np.savez(opened, identity=np.array(json.dumps(identity)), keys=keys, vectors=vectors)
