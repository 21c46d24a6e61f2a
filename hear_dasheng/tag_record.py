"""Tags of files -> a table to read, and a JSON file that says what it was made from."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from hear_dasheng import __version__
from hear_dasheng.checkpoint_files import CONFIG_FILE, WEIGHTS_FILE
from hear_dasheng.download import locate
from hear_dasheng.files.abandoned import lone_atomic_file
from hear_dasheng.files.failures import shown
from hear_dasheng.files.strict_json import JsonProblem, read_json
from hear_dasheng.tagger import Tagger, Tags
from safe_download.checksum import digest_of

PACKAGES = ("torch", "numpy", "soundfile", "soxr")
SAVE_EVERY_S = 2.0
LARGEST_BYTES = 1 << 31
"""Largest JSON file of an earlier run: a year of audio."""
NAME_WIDTH = 26
"""Characters of a label in a table."""


def what_tags(
    model: str, tagger: Tagger, step_s: float | None, top: int, options: Mapping[str, Any]
) -> dict[str, Any]:
    """All that probabilities depend on beside the audio: checkpoint, options, our version."""
    path = locate(model)
    parts = [path / CONFIG_FILE, path / WEIGHTS_FILE] if path.is_dir() else [path]
    return {
        "checkpoint": model,
        "sha256": {part.name: digest_of(part, "sha256") for part in parts if part.is_file()},
        "classes": len(tagger.class_names),
        "step_s": tagger.window_s if step_s is None else step_s,
        "top": top,
        **{name: value for name, value in options.items() if name != "device"},
        "hear_dasheng": __version__,
    }


class Record:
    """The JSON file: strict, replaced as a whole, and taken up where a stopped run left it.

    Args:
        path: the file; None: none is written.
        made_by: see `what_tags`.
        top: labels that are kept of each step.

    Attributes:
        files: an entry for each file that was tagged.
        not_tagged: why the others were not.

    Raises:
        ValueError: the file exists and is of something else.
        OSError: its folder cannot be made.
    """

    def __init__(self, path: Path | None, made_by: dict[str, Any], top: int) -> None:
        self.path, self.made_by, self.top = path, made_by, top
        self.files: dict[str, dict[str, Any]] = {}
        self.not_tagged: dict[str, str] = {}
        self._save_at = time.monotonic() + SAVE_EVERY_S
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self.files = {entry["file"]: entry for entry in _earlier(path, made_by)}

    def entry_of(self, file: Path) -> dict[str, Any] | None:
        """What an earlier run found in a file, if its content is still the same."""
        entry = self.files.get(shown(file))
        if entry is None or not file.is_file() or entry["sha256"] != digest_of(file, "sha256"):
            return None
        return entry

    def new_entry(self, file: Path, tags: Tags, class_names: Sequence[str]) -> dict[str, Any]:
        """The likeliest labels of a file, whose content is read once more."""
        edges_s = [round(edge, 3) for edge in tags.edges_s.tolist()]
        return {
            "file": shown(file),
            "sha256": digest_of(file, "sha256") if self.path else "",
            "seconds": round(tags.seconds, 3),
            "whole": likeliest(tags.whole, class_names, self.top),
            "steps": [
                {"start_s": start, "end_s": end, "labels": likeliest(row, class_names, self.top)}
                for start, end, row in zip(edges_s[:-1], edges_s[1:], tags.steps, strict=True)
            ],
        }

    def enter(self, entry: dict[str, Any]) -> None:
        """Keep what was found in a file.

        Raises:
            OSError: the JSON cannot be written.
        """
        self.files[entry["file"]] = entry
        self.not_tagged.pop(entry["file"], None)
        self._save_now_and_then()

    def enter_failure(self, file: Path, reason: str) -> None:
        """Keep why a file was not tagged; errors are those of `enter`."""
        self.files.pop(shown(file), None)
        self.not_tagged[shown(file)] = shown(reason)
        self._save_now_and_then()

    def _save_now_and_then(self) -> None:
        if time.monotonic() >= self._save_at:
            start = time.monotonic()
            self.save()
            now = time.monotonic()
            self._save_at = now + max(SAVE_EVERY_S, 20 * (now - start))

    def save(self) -> None:
        """Write all entries."""
        if self.path is None:
            return
        content = {
            "made_by": self.made_by,
            "command": shown(" ".join(sys.argv)),
            "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
            "files": list(self.files.values()),
            "not_tagged": [{"file": file, "reason": reason} for file, reason in self.not_tagged.items()],
        }
        text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
        with lone_atomic_file(self.path) as file:
            file.write(f"{text}\n".encode())


def _earlier(path: Path, made_by: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of an earlier run with the same checkpoint and options."""
    remedy = "delete it or choose another name"
    try:
        content = read_json(path, largest_bytes=LARGEST_BYTES)
    except JsonProblem as error:
        raise ValueError(f"{error}; the file exists and is no JSON of tags; {remedy}") from error
    if not _holds_tags(content):
        raise ValueError(f"{path} exists and holds no tags; {remedy}")
    before, entries = content["made_by"], content["files"]
    for name in made_by:
        if name != "checkpoint" and before.get(name) != made_by[name]:
            what = "checkpoint" if name == "sha256" else name
            raise ValueError(
                f"{path} holds tags of another {what} ({_short(before.get(name))}, "
                f"now {_short(made_by[name])}); {remedy}"
            )
    return entries


def _holds_tags(content: Any) -> bool:
    """Whether a JSON value is what `Record.save` writes, as far as a run that goes on needs it."""
    if not isinstance(content, dict) or not isinstance(content.get("made_by"), dict):
        return False
    entries = content.get("files")
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and {"file", "sha256", "seconds", "whole", "steps"} <= entry.keys()
        for entry in entries
    )


def _short(value: Any) -> str:
    """A value for a message; of a file's hash the first digits."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {digest[:12]}..." for name, digest in value.items())
    return repr(value)


def likeliest(
    probabilities: Float[np.ndarray, " classes"], class_names: Sequence[str], top: int
) -> list[dict[str, Any]]:
    """The `top` classes of highest probability, highest first.

    >>> likeliest(np.array([0.25, 0.75, 0.5]), ["dog", "cat", "rain"], 1)
    [{'index': 1, 'label': 'cat', 'probability': 0.75}]
    """
    order = np.argsort(-probabilities, kind="stable")[:top].tolist()
    return [
        {
            "index": index,
            "label": class_names[index],
            "probability": round(float(probabilities[index]), 6),
        }
        for index in order
    ]


def table(entry: Mapping[str, Any]) -> str:
    """A file's labels: one line for the whole, one for each step if there are several."""
    rows = [("whole", entry["whole"])]
    steps = entry["steps"]
    if len(steps) > 1:
        decimals = 0 if all(float(step["start_s"]).is_integer() for step in steps) else 2
        rows += [
            (f"{clock(step['start_s'], decimals)} - {clock(step['end_s'], decimals)}", step["labels"])
            for step in steps
        ]
    cells = [[_cell(label) for label in labels if _is_shown(label, labels)] for _, labels in rows]
    widths = [max(map(len, column)) for column in zip_longest(*cells, fillvalue="")]
    time_width = max(len(time) for time, _ in rows)
    lines = [
        "  ".join([f"  {time:<{time_width}}", *map(str.ljust, row, widths)]).rstrip()
        for (time, _), row in zip(rows, cells, strict=True)
    ]
    return "\n".join([f"{entry['file']}  ({clock(entry['seconds'], 1)})", *lines])


def _is_shown(label: Mapping[str, Any], labels: Sequence[Mapping[str, Any]]) -> bool:
    """Not if it reads 0.00; but one is."""
    return label["probability"] >= 0.005 or label is labels[0]


def _cell(label: Mapping[str, Any]) -> str:
    name = label["label"]
    name = name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 3].rstrip() + "..."
    return f"{label['probability']:.2f} {name}"


def clock(seconds: float, decimals: int) -> str:
    """Minutes and seconds, and hours where there are any.

    >>> clock(3725.5, 1), clock(9.996, 2), clock(59.96, 1)
    ('1:02:05.5', '0:10.00', '1:00.0')
    """
    scale = 10**decimals
    ticks = round(seconds * scale)
    minutes, rest = divmod(ticks, 60 * scale)
    hours, minutes = divmod(minutes, 60)
    width = 3 + decimals if decimals else 2
    second = f"{rest / scale:0{width}.{decimals}f}"
    return f"{hours}:{minutes:02d}:{second}" if hours else f"{minutes}:{second}"
