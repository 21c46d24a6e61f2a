"""The folder that a task's embeddings go to: whose they are, what may be kept, one writer at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

from eval_recipes import provenance
from eval_recipes.embedding.layout import EMBEDDINGS_DONE, EMBEDDINGS_RECORD
from eval_recipes.task_checks import TaskProblem
from hear_dasheng.files.atomic import PARTIAL, remove_partials
from hear_dasheng.files.lock import Locked
from hear_dasheng.files.lock import locked as locked_file

BEGUN = ".hear-dasheng.begun.json"
"""In a folder of embeddings that are not finished: what they are made from, and whether by a `--redo`."""


class Found(Enum):
    """What there is of the embeddings that are wanted."""

    NOTHING = "nothing"
    PART = "some clips"
    ALL = "finished"
    OTHERS = "what is to be replaced"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep other runs out of a task's folder of embeddings; the lock lies beside it and stays.

    Raises:
        TaskProblem: another run has it.
        OSError: the folder cannot be written.
    """
    try:
        with locked_file(out.with_name(f".{out.name}.lock")):
            yield
    except Locked as error:
        raise TaskProblem(f"another run is embedding into {out}; let it end first") from error


def look_into(out: Path, identity: dict[str, Any], redo: bool) -> Found:
    """Tell what a folder holds, and change nothing.

    Args:
        out: the folder.
        identity: what the wanted embeddings are made from.
        redo: whether what is there may be replaced. What an earlier `--redo` of the same identity has begun
            is not replaced: it was stopped, and goes on.

    Raises:
        TaskProblem: it holds something else and may not be replaced.
    """
    if out.exists() and not out.is_dir():
        raise TaskProblem(f"{out} is a file, and a folder is to be made there; move it away")
    if not out.is_dir() or all(entry.name.endswith(PARTIAL) for entry in out.iterdir()):
        return Found.NOTHING
    is_done = (out / EMBEDDINGS_DONE).exists()
    if not is_done and not (out / BEGUN).is_file():
        if redo:
            return Found.OTHERS
        raise TaskProblem(
            f"{out} holds files that `embed` did not put there, perhaps of a heareval that still runs; "
            "--redo replaces them, another --out keeps both"
        )
    record = out / (EMBEDDINGS_RECORD if is_done else BEGUN)
    changed = provenance.difference(record, identity)
    if redo:
        goes_on = not is_done and not changed and json.loads(record.read_text()).get("by_redo")
        return Found.PART if goes_on else Found.OTHERS
    if changed:
        raise TaskProblem(
            f"{out} holds embeddings of something else ({changed}); "
            "--redo replaces them, another --out keeps both"
        )
    return Found.ALL if is_done else Found.PART


def begin(out: Path, identity: dict[str, Any], found: Found, redo: bool) -> None:
    """Make a folder ready for embeddings of an identity.

    Args:
        out: the folder, locked.
        identity: what they are made from.
        found: from `look_into`; a part is kept.
        redo: whether `--redo` was given.

    Raises:
        OSError: the folder cannot be written.
    """
    real = out.resolve()  # a link to another disk stays
    aside = real.with_name(f".{real.name}.replaced")
    if aside.exists():
        shutil.rmtree(aside)
    if found is Found.OTHERS:  # in one step: half of a finished folder would pass as all of it
        real.rename(aside)
    real.mkdir(parents=True, exist_ok=True)
    remove_partials(real)
    if found is not Found.PART:
        provenance.record(real / BEGUN, identity, 0, by_redo=redo)
    if aside.exists():
        shutil.rmtree(aside)
