"""Fetching that is killed, or stopped by the disk: the next run goes on, and no half task is a task."""

import errno
import os
import random
import signal
import subprocess
import time
from pathlib import Path

from fetch_cases import GUNSHOT, archive_name, contents, start
from task_archives import tar_of, task_files

from hear_dasheng.files import atomic


def test_a_disk_that_fills_up_is_told_and_nothing_is_lost(fetch, task_server, tmp_path, monkeypatch):
    rename, written = os.replace, []

    def fills_up(path, target):
        if Path(target).suffix == ".wav":
            if len(written) == 5:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            written.append(path)
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(atomic.os, "replace", fills_up)
        result = fetch("gunshot_triangulation", "beijing_opera")
    assert result.exit_code == 1
    assert "No space left on device" in result.output
    assert not [path for path in (tmp_path / "tasks").iterdir() if not path.name.startswith(".")]
    requests = len(task_server.file_requests)
    assert fetch("gunshot_triangulation", "beijing_opera").exit_code == 0
    assert len(task_server.file_requests) == requests + 1  # the first archive was there already


def test_what_an_earlier_try_wanted_more_is_not_left_half_done(fetch, tmp_path, monkeypatch):
    rename, written = os.replace, []

    def stops(path, target):
        if Path(target).suffix == ".wav":
            if len(written) == 7:
                raise OSError(errno.EIO, "Input/output error", str(path))
            written.append(path)
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(atomic.os, "replace", stops)
        assert fetch("gunshot_triangulation", "--keep-48k").exit_code == 1
    assert fetch("gunshot_triangulation").exit_code == 0
    assert [path.name for path in (tmp_path / "tasks" / GUNSHOT).iterdir() if path.is_dir()] == ["16000"]


def test_two_processes_fetch_a_task_once(task_server, tmp_path):
    processes = [start(task_server, tmp_path) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(task_server.file_requests) == 1
    assert len(list((tmp_path / "tasks" / GUNSHOT).rglob("*.wav"))) == 8


def kill_when(process: subprocess.Popen, is_time) -> None:
    deadline = time.monotonic() + 60
    while not is_time():
        assert process.poll() is None, "the process ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_process_killed_while_downloading_is_resumed(fetch, task_server, tmp_path):
    size = len(task_server.files[archive_name(GUNSHOT)])
    task_server.bytes_per_s = size // 4
    part = tmp_path / "tasks.downloads" / f"{archive_name(GUNSHOT)}.part"
    kill_when(start(task_server, tmp_path), lambda: part.exists() and part.stat().st_size > size // 4)
    assert not list((tmp_path / "tasks").glob("*"))
    have, task_server.bytes_per_s = part.stat().st_size, None
    assert fetch("gunshot_triangulation").exit_code == 0
    assert task_server.file_requests[-1][1] == f"bytes={have}-"


def test_a_process_killed_while_resampling_keeps_what_it_did(fetch, task_server, tmp_path):
    task_server.files[archive_name(GUNSHOT)] = tar_of(task_files(clips=500), GUNSHOT)
    growing = tmp_path / "tasks" / f".importing-{GUNSHOT}-16000"
    kill_when(start(task_server, tmp_path), lambda: len(list(growing.rglob("t*.wav"))) > 50)
    assert not (tmp_path / "tasks" / GUNSHOT).exists()
    kept = {path: path.stat().st_mtime_ns for path in growing.rglob("t*.wav")}
    assert fetch("gunshot_triangulation").exit_code == 0
    assert len(task_server.file_requests) == 1
    folder = tmp_path / "tasks" / GUNSHOT
    assert len(list(folder.rglob("*.wav"))) == 1_000
    assert not [path for path in folder.rglob(".*") if path.is_file()]
    assert {(folder / path.relative_to(growing)).stat().st_mtime_ns for path in kept} == set(kept.values())


def test_whenever_it_is_killed_the_task_is_whole_or_not_there(fetch, task_server, tmp_path, monkeypatch):
    task_server.files[archive_name(GUNSHOT)] = tar_of(task_files(clips=60), GUNSHOT)
    undisturbed = tmp_path / "undisturbed"
    assert fetch("gunshot_triangulation", "--keep-48k", "--out", str(undisturbed)).exit_code == 0
    expected = contents(undisturbed)
    task_server.bytes_per_s = len(task_server.files[archive_name(GUNSHOT)])  # about a second
    moments = random.Random(0)
    for _ in range(5):
        process = start(task_server, tmp_path, "--keep-48k")
        try:
            process.wait(moments.uniform(0.8, 2.5))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if (tmp_path / "tasks" / GUNSHOT).exists():
            assert contents(tmp_path / "tasks") == expected
    task_server.bytes_per_s = None
    assert fetch("gunshot_triangulation", "--keep-48k").exit_code == 0
    assert contents(tmp_path / "tasks") == expected
