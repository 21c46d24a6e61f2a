"""A run that is killed, interrupted or out of space leaves whole shards, and goes on to the same bytes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from wavlist_cases import content, list_of_25, manifest_of, run

from pretrain.packing import pack as packing
from pretrain.packing.ordered_pool import IN_FLIGHT_PER_WORKER, WorkerDied, ordered_map
from pretrain.packing.pack import Options, pack
from pretrain.packing.transcode import Target

DRIVER = """
import json, multiprocessing, os, resource, signal, sys, time
import pandas, webdataset  # once for all runs, each of which is a fork
from pretrain.wavlist_to_tar import main

def run(arguments, name, occurrence, action):
    real, count = os.replace, 0
    def act():
        if action == "kill a worker":
            multiprocessing.active_children()[0].kill()
            time.sleep(0.5)
        elif action == "fill the disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))
        elif action == "Ctrl-C":
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGINT)
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)
        else:
            os.kill(os.getpid(), getattr(signal, action))
    def replace(source, target):
        nonlocal count
        count += str(target).endswith(name)
        if count == occurrence and not name:
            act()
        real(source, target)
        if count == occurrence:
            act()
    os.replace = replace
    main(arguments, prog_name="wavlist_to_tar")

for arguments, name, occurrence, action in json.load(sys.stdin):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writer, 2)
        os.close(reader)
        os.close(writer)
        try:
            run(arguments, name, occurrence, action)
        except SystemExit as end:
            os._exit(end.code)
        os._exit(77)
    os.close(writer)
    said = open(reader).read()  # ends when the last process that holds it does: workers, too
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said]))
"""


PROCESSES = ["-n", 2, "--format", "flac"]
THREADS = ["-n", 2]
ENDS = {
    "SIGKILL, processes": (PROCESSES, "SIGKILL", -signal.SIGKILL, ""),
    "SIGKILL, threads": (THREADS, "SIGKILL", -signal.SIGKILL, ""),
    "Ctrl-C, processes": (PROCESSES, "Ctrl-C", 130, "Stopped. "),
    "Ctrl-C, threads": (THREADS, "Ctrl-C", 130, "Stopped. "),
    "SIGTERM": (PROCESSES, "SIGTERM", 130, "Stopped. "),
    "a worker killed": (PROCESSES, "kill a worker", 1, "Error: a worker process was killed or crashed"),
    "disk full, processes": (PROCESSES, "fill the disk", 1, "File too large: "),
    "disk full, threads": (THREADS, "fill the disk", 1, "File too large: "),
}
"""A run's flags, what is done to it, and how it ends: exit code (minus the signal) and words."""


@pytest.fixture(scope="module")
def listed(tmp_path_factory) -> Path:
    return list_of_25(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def undisturbed(listed, tmp_path_factory) -> dict[Target, dict[str, bytes]]:
    """All files of runs that nothing stopped."""
    found = {}
    for target in (Target(), Target(format="flac")):
        out = tmp_path_factory.mktemp("undisturbed")
        pack(listed, out, Options(size_per_file=5, target=target), n_workers=1)
        found[target] = content(out)
    return found


def stopped_runs(runs: list[tuple[list, str, int, str]]) -> list[tuple[int, str]]:
    """Exit code (minus the signal if killed) and stderr of runs that are disturbed when they rename a file.

    Args:
        runs: each with its arguments, what the file's name ends with, how often such a file
            was renamed, and what happens then (for "" before the rename, else after it).
    """
    result = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps([[list(map(str, arguments)), *rest] for arguments, *rest in runs]),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return [tuple(json.loads(line)) for line in result.stdout.splitlines() if line.startswith("[")]


def is_shard(name: str) -> bool:
    return name.startswith("list_") and name.endswith(".tar")


def assert_goes_on(listed: Path, out: Path, target: Target, undisturbed: dict[str, bytes]) -> None:
    """What is there is whole, and the next run adds what is missing."""
    found = content(out)
    assert all(found[name] == undisturbed[name] for name in found if is_shard(name))
    n_known = len(manifest_of(out)["shards"]) if "list_manifest.json" in found else 0
    packed = pack(listed, out, Options(size_per_file=5, target=target), n_workers=1)
    assert packed.n_kept_shards == n_known
    assert content(out) == undisturbed


@pytest.fixture(scope="module")
def disturbed(listed, tmp_path_factory) -> dict[int | str, tuple[Path, int, str]]:
    """Folder, exit code and stderr of runs that are killed at the k-th rename, or end as in `ENDS`."""
    folder = tmp_path_factory.mktemp("disturbed")
    how = {
        **{k: (["-n", 1], "", k, "SIGKILL") for k in range(1, 20)},
        **{end: (flags, "list_manifest.json", 2, action) for end, (flags, action, _, _) in ENDS.items()},
    }
    runs = [([listed, folder / str(end), "-s", 5, *flags], *rest) for end, (flags, *rest) in how.items()]
    return {end: (folder / str(end), *seen) for end, seen in zip(how, stopped_runs(runs), strict=True)}


@pytest.mark.slow
def test_kill_9_before_any_rename_leaves_whole_shards(listed, undisturbed, disturbed):
    codes = [disturbed[k][1] for k in range(1, 20)]
    n_killed = codes.count(-signal.SIGKILL)
    assert codes == [-signal.SIGKILL] * n_killed + [0] * (len(codes) - n_killed)
    assert 2 * 5 + 2 < n_killed < len(codes)  # 5 shards, each with a manifest
    for k in range(1, 20):
        assert_goes_on(listed, disturbed[k][0], Target(), undisturbed[Target()])


@pytest.mark.parametrize("end", list(ENDS))
def test_a_run_with_workers_stops_cleanly(listed, undisturbed, disturbed, end):
    """It is disturbed once its first shard is recorded, and it ended only when its workers had."""
    out, code, said = disturbed[end]
    flags, action, expected_code, message = ENDS[end]
    assert code == expected_code
    assert message in said
    assert len(manifest_of(out)["shards"]) == 1
    if action != "SIGKILL":
        assert "Traceback" not in said
        assert not [name for name in content(out) if name.endswith(".partial")]
        assert said.endswith("The shards finished so far are kept; the same command goes on from them.\n")
    target = Target(format="flac") if flags is PROCESSES else Target()
    assert_goes_on(listed, out, target, undisturbed[target])


def test_files_that_a_worker_may_have_died_over_are_named(listed, tmp_path, monkeypatch):
    def dying(_, jobs, *rest):
        raise WorkerDied(list(jobs)[:7])
        yield

    monkeypatch.setattr(packing, "ordered_map", dying)
    code, output = run(listed, tmp_path, "-n", 4, "--no-shuffle")
    assert code == 1
    assert f"killed or crashed, perhaps over one of {listed.parent / '0.wav'}, " in output
    assert "4.wav and 2 more. If memory ran out, use fewer than 4 workers" in output


def test_a_worker_that_dies_is_an_error():
    with pytest.raises(WorkerDied) as caught:
        list(ordered_map(os._exit, [3] * 9, 2))
    assert 1 <= len(caught.value.in_flight) <= 2 * IN_FLIGHT_PER_WORKER


@pytest.mark.parametrize(("n_workers", "is_threaded"), [(0, False), (2, False), (2, True)])
def test_results_come_in_order_and_arguments_are_taken_as_needed(n_workers, is_threaded):
    taken = []
    numbers = (taken.append(number) or -number for number in range(100))
    results = ordered_map(abs, numbers, n_workers, is_threaded)
    assert next(results) == 0
    assert len(taken) <= max(1, n_workers * IN_FLIGHT_PER_WORKER)
    assert list(results) == list(range(1, 100))
