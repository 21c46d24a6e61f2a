"""Full disks, read-only folders, outputs that are gone, kills: one line, no loss, the same results after."""

import hashlib
import json
import random
import re
import shutil
import time

import pytest

from hostile.commands import READERS, ROWS
from hostile.faults import Fault, run

TIMES = {"seconds", "command", "time_elapsed", "time_in_min", "versions"}
OF_THE_LAST_RUN = {"clips", "clips_kept_from_before", "audio_seconds"}
"""Amounts in `embed`'s profile, which counts only what the last run embedded."""
VOLATILE = TIMES | OF_THE_LAST_RUN
FULL = re.compile(r"/out\S*: (No space left on device|File too large); ")
READ_ONLY = re.compile(r"/out\S*: (Read-only file system|Permission denied|Operation not permitted); ")


def ids(row):
    return row.name if hasattr(row, "name") else str(row)


def check_fails_in_a_line(outcome, reason):
    assert outcome.code == 1, outcome
    assert "Traceback" not in outcome.err
    told = [line for line in outcome.err.splitlines() if reason.search(line)]
    assert told, outcome.err


@pytest.mark.parametrize(("row", "room"), [(row, room) for row in ROWS for room in row.room], ids=ids)
def test_full_disk(stage, place, row, room):
    work, out = place
    row.prepare(stage, out)
    outcome = run(row.words(stage, out), work, out, Fault(full=room))
    check_fails_in_a_line(outcome, FULL)


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_read_only_folder(stage, place, row):
    work, out = place
    row.prepare(stage, out)
    before = content_of(out)
    outcome = run(row.words(stage, out), work, out, Fault(is_read_only=True))
    check_fails_in_a_line(outcome, READ_ONLY)
    assert content_of(out) == before


@pytest.mark.parametrize("row", [*ROWS, *READERS], ids=ids)
def test_closed_pipe(stage, place, row):
    work, out = place
    row.prepare(stage, out)
    outcome = run(row.words(stage, out), work, out, Fault(stdout="closed pipe"))
    assert outcome.code in (0, 1), outcome
    assert not re.search(r"Traceback|Error|disk|space|pipe", outcome.err), outcome.err


@pytest.mark.parametrize("row", [*ROWS, *READERS], ids=ids)
def test_full_output(stage, place, row):
    work, out = place
    row.prepare(stage, out)
    outcome = run(row.words(stage, out), work, out, Fault(stdout="/dev/full"))
    assert outcome.code == 1, outcome
    assert "Traceback" not in outcome.err
    assert "the output cannot be written: No space left on device" in outcome.err


def without_circumstances(value):
    if isinstance(value, dict):
        return {key: without_circumstances(inner) for key, inner in value.items() if key not in VOLATILE}
    return [without_circumstances(inner) for inner in value] if isinstance(value, list) else value


def content_of(folder):
    """Hashes of all files, without what tells when and how they were made."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or name.endswith(".lock"):
            continue
        content = path.read_bytes()
        if path.suffix == ".json":
            content = json.dumps(without_circumstances(json.loads(content)), sort_keys=True).encode()
        if path.suffix == ".html":
            content = re.sub(rb"\(\d+ s\)", b"", content)
        found[name] = hashlib.sha256(content).hexdigest()
    return found


@pytest.mark.parametrize("row", [row for row in ROWS if row.is_killed], ids=ids)
def test_kills_leave_the_same_results(stage, place, row):
    work, out = place
    row.prepare(stage, out)
    start = time.monotonic()
    assert run(row.words(stage, out), work, out).code == 0
    duration_s = time.monotonic() - start
    expected = content_of(out)
    chance = random.Random(row.name)
    for _ in range(2):
        shutil.rmtree(out)
        out.mkdir()
        row.prepare(stage, out)
        killed = run(row.words(stage, out), work, out, kill_after_s=chance.uniform(0.2, 1) * duration_s)
        again = run(row.words(stage, out), work, out)
        is_done_before = killed.code == 0 or "exists already" in again.err
        assert again.code == 0 or is_done_before, again
        assert content_of(out) == expected
