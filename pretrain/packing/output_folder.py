"""Which files of an output folder belong to a list, and who may write them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hear_dasheng.files.atomic import PARTIAL
from hear_dasheng.files.lock import Locked, locked
from pretrain.packing.manifest import ResumeProblem


class OutputFolder:
    """The files that one list has in an output folder.

    Attributes:
        path: the folder.
        stem: the list's name up to its last dot; all its files start with it.
    """

    def __init__(self, path: Path, list_path: Path) -> None:
        self.path, self.stem = path, list_path.stem

    @property
    def manifest(self) -> Path:
        """What is known of the shards."""
        return self.path / f"{self.stem}_manifest.json"

    @property
    def rejects(self) -> Path:
        """The files that are in no shard."""
        return self.path / f"{self.stem}_rejects.tsv"

    def shard(self, number: int, is_compressed: bool) -> Path:
        """A shard, named as the published tool does."""
        return self.path / f"{self.stem}_{number:07d}.tar{'.gz' if is_compressed else ''}"

    def shards(self) -> list[Path]:
        """All files that have the name of one of the list's shards."""
        name = re.compile(re.escape(self.stem) + r"_\d{7,}\.tar(\.gz)?")
        return sorted(path for path in self.path.iterdir() if name.fullmatch(path.name))

    @property
    def partial_prefix(self) -> str:
        """How temporary names of this list's files begin; runs for other lists may be writing beside it."""
        return f"{self.stem}."

    def clear_partials(self) -> None:
        """Delete what a killed run was writing."""
        name = re.compile(rf"\.{re.escape(self.partial_prefix)}[0-9a-f]{{16}}{re.escape(PARTIAL)}")
        for path in self.path.iterdir():
            if name.fullmatch(path.name):
                path.unlink()

    def delete_all(self) -> None:
        """Delete whatever an earlier run wrote."""
        # The manifest goes last: without it, what is left would count as somebody else's.
        for path in [*self.shards(), self.rejects, self.manifest]:
            path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs for a list of this name out.

        Raises:
            ResumeProblem: one is there.
        """
        try:
            with locked(self.path / f".{self.stem}.lock"):
                yield
        except Locked as error:
            raise ResumeProblem(
                f"another run is writing the shards of {self.stem} to {self.path}; "
                "wait for it, or choose another OUTDIR"
            ) from error
