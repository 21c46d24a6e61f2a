"""What an output folder holds: `LIST_manifest.json` about the shards, `LIST_rejects.tsv` about the rest.

Both are rewritten whole after each shard, so a run that was stopped goes on from them.
Neither holds a date: the same list gives the same files, however often it was stopped.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import soundfile

from hear_dasheng.files.atomic import atomic_file
from pretrain.packing.shard_file import WrittenShard

LAYOUT = 2
"""Raised when the same options would give other bytes."""
REMEDY = "choose another OUTDIR, or --overwrite to delete what is there"


class ResumeProblem(ValueError):
    """The output folder holds something that this run would mix with or destroy."""


@dataclass(frozen=True)
class Shard:
    """A finished shard.

    Attributes:
        file: its name in the output folder.
        first: place, in the run's order, of the first file it was filled from.
        stop: the place after the last. All of first..stop are in it or rejected.
        written: its samples, seconds, bytes and hash.
    """

    file: str
    first: int
    stop: int
    written: WrittenShard

    def as_json(self) -> dict[str, Any]:
        """The manifest's entry."""
        places = {"first_place": self.first, "stop_place": self.stop}
        return {"file": self.file, **asdict(self.written), **places}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Shard:
        """Read the manifest's entry."""
        written = WrittenShard(entry["samples"], entry["seconds"], entry["bytes"], entry["sha256"])
        return cls(entry["file"], entry["first_place"], entry["stop_place"], written)


@dataclass
class Manifest:
    """All finished shards of a run, and what decides their bytes.

    Attributes:
        path: the JSON file.
        source: the list: its path, rows and sha256.
        options: all that decides a shard's bytes, as JSON values.
        shards: by number.
        is_complete: the whole list is dealt with.
        partial_prefix: of the file's temporary name.
    """

    path: Path
    source: dict[str, Any]
    options: dict[str, Any]
    shards: dict[int, Shard] = field(default_factory=dict)
    is_complete: bool = False
    partial_prefix: str = ""

    @property
    def in_order(self) -> list[Shard]:
        """The shards by number."""
        return [self.shards[number] for number in sorted(self.shards)]

    @property
    def samples(self) -> int:
        """Files in all shards."""
        return sum(shard.written.samples for shard in self.in_order)

    @property
    def seconds(self) -> float:
        """Seconds of audio in all shards."""
        return sum(shard.written.seconds for shard in self.in_order)

    def write(self, n_rejected: int) -> None:
        """Write the file."""
        totals = {
            "shards": len(self.shards),
            "samples": self.samples,
            "rejected": n_rejected,
            "seconds": self.seconds,
            "bytes": sum(shard.written.bytes for shard in self.in_order),
        }
        content = {
            "layout": LAYOUT,
            "is_complete": self.is_complete,
            "list": self.source,
            "options": self.options,
            "made_with": made_with(),
            "totals": totals,
            "shards": [shard.as_json() for shard in self.in_order],
        }
        with atomic_file(self.path, prefix=self.partial_prefix) as file:
            file.write(json.dumps(content, indent=1).encode() + b"\n")

    def take_over(self) -> None:
        """Read the shards that an earlier run finished.

        Raises:
            ResumeProblem: it had another list or other options, or the file is damaged.
        """
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            shards = {index: Shard.from_json(entry) for index, entry in enumerate(content["shards"])}
            theirs = {"layout": content["layout"], "list": content["list"]["sha256"], **content["options"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ResumeProblem(f"{self.path} is damaged ({error!r}); {REMEDY}") from error
        ours = {"layout": LAYOUT, "list": self.source["sha256"], **self.options}
        different = [
            "the list's content differs"
            if name == "list"
            else f"{name} was {theirs.get(name)!r}, is {value!r}"
            for name, value in ours.items()
            if theirs.get(name) != value
        ]
        if different:
            raise ResumeProblem(
                f"{self.path.parent} holds shards of another run: {'; '.join(different)}; {REMEDY}"
            )
        self.shards = shards


class Rejects:
    """The files that are in no shard, by row (from 0), each with the reason."""

    COLUMNS = ("filename", "reason", "row")

    def __init__(
        self, path: Path, filenames: list[str], reasons: dict[int, str], partial_prefix: str = ""
    ) -> None:
        self._partial_prefix = partial_prefix
        self.path, self.filenames, self.reasons = path, filenames, dict(reasons)
        self._n_written: int | None = None

    def __len__(self) -> int:
        return len(self.reasons)

    def write(self) -> None:
        """Write the table, in the list's order; `row` 1 is the first below the list's header."""
        if self._n_written == len(self):
            return
        table = io.StringIO()
        rows = csv.writer(table, delimiter="\t", lineterminator="\n")
        rows.writerow(self.COLUMNS)
        rows.writerows((self.filenames[row], self.reasons[row], row + 1) for row in sorted(self.reasons))
        with atomic_file(self.path, prefix=self._partial_prefix) as file:
            file.write(table.getvalue().encode())
        self._n_written = len(self)

    def earlier(self) -> dict[int, str]:
        """What an earlier run wrote; lines that do not fit the list are left out.

        Raises:
            ResumeProblem: it is no table of text.
        """
        if not self.path.exists():
            return {}
        reasons = {}
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                for line in csv.reader(file, delimiter="\t"):
                    row = int(line[2]) - 1 if len(line) == 3 and line[2].isdecimal() else -1
                    if 0 <= row < len(self.filenames) and self.filenames[row] == line[0]:
                        reasons[row] = line[1]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ResumeProblem(f"{self.path} is damaged ({error}); {REMEDY}") from error
        return reasons

    def summary(self) -> str:
        """How many files for which kind of reason (what stands before the colon)."""
        kinds = Counter(reason.partition(":")[0] for reason in self.reasons.values())
        return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def made_with() -> dict[str, str]:
    """Versions of all that has a say in a shard's bytes."""
    versions = {name: version(name) for name in ("numpy", "pandas", "soundfile", "soxr", "webdataset")}
    return {**versions, "libsndfile": soundfile.__libsndfile_version__}
