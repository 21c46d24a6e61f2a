"""Fetching tasks from a server that interrupts, corrupts, throttles and refuses: whole tasks or none."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from fetch_cases import GUNSHOT, OPERA, archive_name, contents
from task_archives import SECONDS, sound, tar_of, task_files

from eval_recipes import disk_space
from eval_recipes.task_files import count_clips
from safe_download import patience


def archives_left(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "tasks.downloads").glob("*") if path.suffix in (".gz", ".part")]


def test_tasks_arrive_resampled_and_their_archives_go(fetch, task_server, tmp_path):
    result = fetch("gunshot_triangulation", "beijing opera percussion")
    assert result.exit_code == 0, result.output
    assert "to download, about" in result.output.splitlines()[0]
    assert "Needs at its fullest moment about" in result.output.splitlines()[2]
    assert f"tasks/{GUNSHOT}: 8 clips at 16000 Hz" in result.output
    assert sorted(path.name for path in (tmp_path / "tasks").glob("[!.]*")) == [OPERA, GUNSHOT]
    folder = tmp_path / "tasks" / GUNSHOT
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["16000"]
    samples, rate_hz = soundfile.read(folder / "16000" / "train" / "train_3.wav")
    assert (rate_hz, len(samples)) == (16_000, 8_000)
    assert abs(np.abs(np.fft.rfft(samples)).argmax() / SECONDS - 560) <= 2
    assert archives_left(tmp_path) == []


def test_a_complete_task_needs_no_network(fetch, task_server, tmp_path):
    assert fetch("gunshot_triangulation").exit_code == 0
    before = contents(tmp_path / "tasks")
    task_server.requests.clear()
    result = fetch("gunshot_triangulation")
    assert (result.exit_code, result.output.strip()) == (0, f"tasks/{GUNSHOT} is complete")
    assert (task_server.requests, contents(tmp_path / "tasks")) == ([], before)


def test_the_48_khz_clips_are_kept_as_they_are_or_added_later(fetch, task_server, tmp_path):
    files = task_files()
    assert fetch("beijing_opera", "--keep-48k", "--keep-archives").exit_code == 0
    folder = tmp_path / "tasks" / OPERA
    assert (folder / "48000/test/test_2.wav").read_bytes() == files["48000/test/test_2.wav"]
    assert archives_left(tmp_path) == [archive_name(OPERA)]

    assert fetch("gunshot_triangulation").exit_code == 0
    stamps = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "tasks" / GUNSHOT / "16000").rglob("*.wav")
    }
    result = fetch("gunshot_triangulation", "--keep-48k")
    assert "8 clips at 16000 and 48000 Hz" in result.output
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert contents(tmp_path / "tasks" / GUNSHOT) == contents(folder)


def test_another_rate_joins(fetch, tmp_path):
    assert fetch("gunshot_triangulation").exit_code == 0
    assert fetch("gunshot_triangulation", "--rate", "32000").exit_code == 0
    folder = tmp_path / "tasks" / GUNSHOT
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["16000", "32000"]
    assert [path.name for path in (tmp_path / "tasks").glob("[!.]*")] == [GUNSHOT]


def test_interrupted_connections_are_resumed(fetch, task_server, tmp_path):
    size = len(task_server.files[archive_name(GUNSHOT)])
    task_server.cut_after = [size // 5] * 3
    assert fetch("gunshot_triangulation").exit_code == 0
    starts = [f"bytes={size // 5 * number}-" for number in (1, 2, 3)]
    assert [wanted for _, wanted in task_server.file_requests] == [None, *starts]


def test_a_corrupt_byte_is_found_and_nothing_of_it_stays(fetch, task_server, tmp_path):
    name = archive_name(GUNSHOT)
    whole = task_server.files[name]
    task_server.checksums = {name: "md5:" + hashlib.md5(whole).hexdigest()}
    task_server.files[name] = whole[:2_000] + bytes([whole[2_000] ^ 1]) + whole[2_001:]
    result = fetch("gunshot_triangulation")
    assert result.exit_code == 1
    assert "arrived damaged" in result.output
    assert not list((tmp_path / "tasks").glob("*"))
    assert archives_left(tmp_path) == []
    task_server.files[name] = whole
    assert fetch("gunshot_triangulation").exit_code == 0


def test_a_truncated_file_is_no_file(fetch, task_server, tmp_path):
    name = archive_name(GUNSHOT)
    whole = task_server.files[name]
    task_server.sizes = {name: len(whole)}
    task_server.checksums = {name: "md5:" + hashlib.md5(whole).hexdigest()}
    task_server.files[name] = whole[:-10_000]
    result = fetch("gunshot_triangulation")
    assert result.exit_code == 1
    assert f"the server has {len(whole) - 10_000} bytes where {len(whole)} were announced" in result.output
    assert not list((tmp_path / "tasks").glob("*"))


@pytest.mark.parametrize(
    ("refusals", "requests"),
    [
        ([(500, {})] * 3, 4),
        ([(429, {"Retry-After": "30"}), (503, {"Retry-After": "5"})], 3),
    ],
)
def test_busy_servers_are_asked_again(fetch, task_server, refusals, requests):
    task_server.refusals = list(refusals)
    assert fetch("gunshot_triangulation").exit_code == 0
    assert len(task_server.file_requests) == requests


@pytest.mark.parametrize(
    ("status", "requests"), [(404, 1), (429, patience.ATTEMPTS), (500, patience.ATTEMPTS)]
)
def test_one_refused_task_stops_no_other(fetch, task_server, tmp_path, status, requests):
    task_server.refusals = [(status, {})] * requests
    result = fetch("gunshot_triangulation", "beijing_opera")
    assert result.exit_code == 1
    assert f"1 of 2 tasks are not done: {OPERA} (reasons above); the same command goes on" in result.output
    assert str(status) in result.output
    assert [path.name for path in (tmp_path / "tasks").glob("[!.]*")] == [GUNSHOT]
    assert fetch("all-of-them").exit_code == 1
    assert fetch("gunshot_triangulation", "beijing_opera").exit_code == 0


def test_an_archive_that_the_record_lacks_stops_no_other(fetch, task_server, tmp_path):
    del task_server.files[archive_name(OPERA)]
    task_server.files["hear2021-beijing_opera-v2.0-hear2021-full-48000.tar.gz"] = b""
    result = fetch("gunshot_triangulation", "beijing_opera")
    assert result.exit_code == 1
    assert "the nearest is hear2021-beijing_opera-v2.0-hear2021-full-48000.tar.gz" in result.output
    assert [path.name for path in (tmp_path / "tasks").glob("[!.]*")] == [GUNSHOT]


def test_unknown_names_fetch_nothing(fetch, task_server):
    result = fetch("gunshot_triangulation", "bejing_opera")
    assert result.exit_code == 1
    assert f"no task 'bejing_opera'; did you mean {OPERA}?" in result.output
    assert not task_server.requests


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.pop("48000/test/test_3.wav"), "no 16000/test/test_3.wav"),
        (lambda files: files.pop("train.json"), "no train.json"),
        (lambda files: files.update({"48000/test/test_0.wav": b"RIFF?"}), "test_0.wav cannot be decoded"),
    ],
)
def test_an_archive_that_lacks_something_is_no_task(fetch, task_server, tmp_path, change, message):
    files = task_files()
    change(files)
    task_server.files[archive_name(GUNSHOT)] = tar_of(files, GUNSHOT)
    result = fetch("gunshot_triangulation")
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "tasks" / GUNSHOT).exists()


def test_an_archive_of_another_task_is_told(fetch, task_server, tmp_path):
    task_server.files[archive_name(GUNSHOT)] = tar_of(task_files(), "esc50-v2.0.0-full")
    result = fetch("gunshot_triangulation")
    assert result.exit_code == 1
    assert f"holds tasks/esc50-v2.0.0-full, not {GUNSHOT}" in result.output


def test_an_archive_that_was_put_there_is_checked_and_used(fetch, task_server, tmp_path):
    (tmp_path / "tasks.downloads").mkdir()
    archive = tmp_path / "tasks.downloads" / archive_name(GUNSHOT)
    archive.write_bytes(task_server.files[archive.name])
    assert fetch("gunshot_triangulation", "--keep-archives").exit_code == 0
    assert not task_server.file_requests
    archive.write_bytes(b"another")
    assert fetch("gunshot_triangulation", "--rate", "8000").exit_code == 0
    assert len(task_server.file_requests) == 1


def test_tasks_that_do_not_fit_are_not_begun(fetch, task_server, tmp_path, monkeypatch):
    usage = SimpleNamespace(free=50 * 10**6)
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda path: usage)
    assert fetch("gunshot_triangulation").exit_code == 0
    task_server.requests.clear()
    task_server.sizes = {archive_name(OPERA): 49 * 10**6}
    result = fetch("beijing_opera")
    assert result.exit_code == 1
    assert "on the disk of tasks, where 50.0 MB are free: name fewer" in result.output
    assert not task_server.file_requests


def test_the_archives_own_rate_can_be_the_wanted_one(fetch, tmp_path):
    assert fetch("gunshot_triangulation", "--rate", "48000", "--keep-48k").exit_code == 0
    folder = tmp_path / "tasks" / GUNSHOT
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["48000"]
    assert (folder / "48000/train/train_1.wav").read_bytes() == task_files()["48000/train/train_1.wav"]


def test_clips_already_at_the_wanted_rate_are_what_the_archive_holds(fetch, task_server, tmp_path):
    files = task_files() | {"16000/train/train_0.wav": sound(16_000, 1_000)}
    task_server.files[archive_name(GUNSHOT)] = tar_of(files, GUNSHOT)
    assert fetch("gunshot_triangulation", "--keep-48k").exit_code == 0
    folder = tmp_path / "tasks" / GUNSHOT
    assert (folder / "16000/train/train_0.wav").read_bytes() == files["16000/train/train_0.wav"]
    assert (folder / "48000/train/train_0.wav").read_bytes() == files["48000/train/train_0.wav"]
    assert count_clips(folder) == 8
