"""The commands of the campaign: a new one is one more row, and meets every fault."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from hostile.stage import MODULE

WITHOUT_SCORES = shutil.ignore_patterns("test.predicted-scores.json", "hear-dasheng.predictions.json")


@dataclass(frozen=True)
class Row:
    """A command that writes.

    Attributes:
        name: of the case.
        arguments: `{stage}` stands for the inputs, `{out}` for an empty folder that the command writes into.
        room: bytes that are free on a disk on which it fails at different places.
        copies: a folder of the stage that the command changes; it is copied into `{out}` first.
        is_killed: what it writes is the same after a kill and a second run.
    """

    name: str
    arguments: str
    room: tuple[int, ...] = (4096, 32_768)
    copies: str | None = None
    is_killed: bool = True

    def words(self, stage: Path, out: Path) -> list[str]:
        """Its arguments in full."""
        return [word.format(stage=stage, out=out) for word in self.arguments.split()]

    def prepare(self, stage: Path, out: Path) -> None:
        """Copy what it changes."""
        if self.copies:
            shutil.copytree(stage / self.copies, out, dirs_exist_ok=True, ignore=WITHOUT_SCORES)


DATA = "--dataset folder --data {stage}/data --k 1 --out {out}/knn"
ROWS = [
    Row("init", "init tiny {out}/new", (4096, 1 << 20)),
    Row("export", "export {stage}/tiny.pt {out}/new", (4096, 1 << 20)),
    Row("export pt", "export {stage}/tiny {out}/new.pt", (4096, 1 << 20)),
    Row(
        "tag json",
        "tag {stage}/a.wav {stage}/b.wav --model {stage}/tagger --step 0.1 --json {out}/tags.json",
        (4096,),
    ),
    Row("tag plot", "tag {stage}/a.wav --model {stage}/tagger --plot {out}/tags.png", (4096,)),
    Row("embed", f"embed {MODULE} --tasks-dir {{stage}}/tasks --out {{out}}/embeddings"),
    Row("knn", f"knn {MODULE} {DATA}", (4096, 16_384, 32_768)),
    Row("report", "report {stage}/embeddings/" + MODULE + " {stage}/knn --out {out}/report", (4096, 32_768)),
    Row("import", "tasks import {stage}/beeps.tar.gz --out {out}/tasks"),
    Row("score", "score {out} --grid faster --grid-points 1", (0,), f"embeddings/{MODULE}"),
]

READERS = [
    Row("help", "--help"),
    Row("info", "info {stage}/tiny"),
    Row("list", "tasks list"),
    Row("tag", "tag {stage}/a.wav --model {stage}/tagger"),
]
"""Commands that only print."""
