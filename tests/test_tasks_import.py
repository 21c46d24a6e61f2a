"""Archives of both layouts and any rate become tasks; unsafe, damaged and partial ones do not."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import soundfile
from conftest import run_command
from hypothesis import given, settings
from hypothesis import strategies as st
from task_archives import NAME, SECONDS, sound, task_files, write_tar

from eval_recipes import task_import
from eval_recipes.archives import ImportProblem
from eval_recipes.task_files import faintness, resample
from eval_recipes.task_import import import_tasks


@pytest.mark.parametrize("prefix", ["tasks/", "hear-2021.0.6/tasks/", "./tasks/"])
def test_both_layouts_arrive_resampled(tmp_path, prefix):
    archive = write_tar(tmp_path / "a.tar.gz", task_files(), prefix)
    [folder] = import_tasks(archive, tmp_path / "tasks", 16_000)
    assert folder == tmp_path / "tasks" / NAME
    assert sorted(entry.name for entry in (tmp_path / "tasks").iterdir()) == [f".{NAME}.lock", NAME]
    assert {entry.name for entry in folder.iterdir()} == {
        "16000",
        "task_metadata.json",
        "labelvocabulary.csv",
        "train.json",
        "test.json",
    }
    for index in range(4):
        path = folder / "16000" / "train" / f"train_{index}.wav"
        samples, rate_hz = soundfile.read(path)
        assert (rate_hz, len(samples)) == (16_000, 8_000)
        assert soundfile.info(path).subtype == "PCM_16"
        spectrum = np.abs(np.fft.rfft(samples))
        assert abs(spectrum.argmax() / SECONDS - (440 + 40 * index)) <= 2
        expected = 0.5 * np.sin(2 * np.pi * (440 + 40 * index) * np.arange(8_000) / 16_000)
        assert np.abs(samples - expected)[200:-200].max() < 1e-3


def test_a_folder_an_unpacked_archive_and_a_bare_task_work_too(tmp_path):
    archive = write_tar(tmp_path / "a.tar.gz", task_files(), "hear-2021.0.6/tasks/")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    root = tmp_path / "unpacked"
    for number, source in enumerate(
        [root, root / "hear-2021.0.6" / "tasks", root / "hear-2021.0.6/tasks" / NAME]
    ):
        [folder] = import_tasks(source, tmp_path / str(number), 16_000)
        assert len(list(folder.rglob("*.wav"))) == 8


def test_audio_of_the_wanted_rate_is_taken_as_it_is(tmp_path):
    files = task_files((48_000, 16_000, 44_100))
    [folder] = import_tasks(write_tar(tmp_path / "a.tar.gz", files), tmp_path / "tasks", 16_000)
    clip = folder / "16000" / "train" / "train_0.wav"
    assert clip.read_bytes() == files["16000/train/train_0.wav"]
    assert [entry.name for entry in folder.iterdir() if entry.is_dir()] == ["16000"]


def test_a_second_rate_joins_the_first(tmp_path):
    archive = write_tar(tmp_path / "a.tar.gz", task_files())
    import_tasks(archive, tmp_path / "tasks", 16_000)
    [folder] = import_tasks(archive, tmp_path / "tasks", 32_000)
    assert {entry.name for entry in folder.iterdir() if entry.is_dir()} == {"16000", "32000"}
    assert sorted(entry.name for entry in (tmp_path / "tasks").iterdir()) == [f".{NAME}.lock", NAME]


def test_a_complete_task_is_left_alone(tmp_path):
    archive = write_tar(tmp_path / "a.tar.gz", task_files())
    [folder] = import_tasks(archive, tmp_path / "tasks", 16_000)
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    import_tasks(archive, tmp_path / "tasks", 16_000)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == stamps


def test_resampling_keeps_sample_formats_and_mixes_channels():
    stereo = io.BytesIO()
    soundfile.write(stereo, np.full((4_800, 2), [0.5, 0.1]), 48_000, format="WAV", subtype="FLOAT")
    mono = resample(stereo.getvalue(), 16_000)
    samples, rate_hz = soundfile.read(io.BytesIO(mono))
    assert (rate_hz, samples.shape) == (16_000, (1_600,))
    assert soundfile.info(io.BytesIO(mono)).subtype == "FLOAT"
    assert samples[800] == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.pop("48000/test/test_3.wav"), "no 16000/test/test_3.wav"),
        (lambda files: files.pop("labelvocabulary.csv"), "no labelvocabulary.csv"),
        (lambda files: files.pop("test.json"), "no test.json"),
        (lambda files: files.pop("task_metadata.json"), "no task_metadata.json"),
        (lambda files: files.update({"48000/test/test_0.wav": b"RIFF?"}), "test_0.wav cannot be decoded"),
    ],
)
def test_an_incomplete_source_takes_no_place(tmp_path, change, message):
    files = task_files()
    change(files)
    with pytest.raises(ImportProblem, match=message):
        import_tasks(write_tar(tmp_path / "a.tar.gz", files), tmp_path / "tasks", 16_000)
    assert not (tmp_path / "tasks" / NAME).exists()


def test_a_killed_import_goes_on_where_it_stopped(tmp_path):
    archive = write_tar(tmp_path / "a.tar.gz", task_files((48_000,), clips=400))
    script = f"""
import time
import eval_recipes.task_import as tasks
from pathlib import Path
real = tasks.resample
tasks.resample = lambda content, rate: (time.sleep(0.01), real(content, rate))[1]
tasks.import_tasks(Path({str(archive)!r}), Path({str(tmp_path / "tasks")!r}), 16_000, workers=2)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    partial = tmp_path / "tasks" / f".importing-{NAME}-16000"
    deadline = time.monotonic() + 60
    while len(list(partial.rglob("*.wav"))) < 100:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "tasks" / NAME).exists()
    kept = {
        path: path.stat().st_mtime_ns for path in partial.rglob("t*_*.wav") if not path.name.startswith(".")
    }
    assert kept
    [folder] = import_tasks(archive, tmp_path / "tasks", 16_000)
    assert len(list((folder / "16000").rglob("*.wav"))) == 800
    for path, stamp in kept.items():
        assert (folder / path.relative_to(partial)).stat().st_mtime_ns == stamp
    assert not partial.exists()


def test_what_another_source_left_is_discarded(tmp_path):
    first = task_files()
    first["48000/train/train_0.wav"] = sound(48_000, 3_000)
    del first["48000/test/test_3.wav"]
    with pytest.raises(ImportProblem):
        import_tasks(write_tar(tmp_path / "first.tar.gz", first), tmp_path / "tasks", 16_000)
    [folder] = import_tasks(write_tar(tmp_path / "second.tar.gz", task_files()), tmp_path / "tasks", 16_000)
    samples, _ = soundfile.read(folder / "16000" / "train" / "train_0.wav")
    assert abs(np.abs(np.fft.rfft(samples)).argmax() / SECONDS - 440) <= 2


def test_the_command_reports_clips_and_problems(tmp_path):
    archive = write_tar(tmp_path / "a.tar.gz", task_files())
    result = run_command("tasks", "import", str(archive), "--rate", "22050", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"tasks/{NAME}: 8 clips at 22050 Hz"
    (tmp_path / "bad.tar").write_bytes(b"no tar")
    failed = run_command("tasks", "import", "bad.tar", cwd=tmp_path)
    assert failed.returncode == 1
    assert failed.stderr.strip().splitlines()[-1].startswith("Error: bad.tar is no tar archive")


def test_a_task_of_which_hardly_any_sound_is_left_is_told(tmp_path):
    files = task_files()
    silent = io.BytesIO()
    soundfile.write(silent, np.tile(np.array([-3, 0, 1], np.int16), 8_000), 48_000, format="WAV")
    faint = {path: silent.getvalue() if path.endswith(".wav") else data for path, data in files.items()}
    [folder] = import_tasks(write_tar(tmp_path / "faint.tar.gz", faint), tmp_path / "faint", 48_000)
    assert "is 3 of 32768" in faintness(folder, 48_000)
    [folder] = import_tasks(write_tar(tmp_path / "loud.tar.gz", files), tmp_path / "loud", 48_000)
    assert faintness(folder, 48_000) == ""


def test_a_task_with_other_lists_is_not_mixed_with_the_new_one(tmp_path):
    [folder] = import_tasks(write_tar(tmp_path / "a.tar.gz", task_files()), tmp_path / "tasks", 16_000)
    other = write_tar(tmp_path / "b.tar.gz", task_files(clips=5))
    with pytest.raises(ImportProblem, match=r"is another version of the task; move it away"):
        import_tasks(other, tmp_path / "tasks", 32_000)
    assert [entry.name for entry in folder.iterdir() if entry.is_dir()] == ["16000"]
    assert len(list(folder.rglob("*.wav"))) == 8


def test_a_task_that_lost_a_list_or_a_clip_is_mended(tmp_path):
    archive = write_tar(tmp_path / "a.tar.gz", task_files())
    [folder] = import_tasks(archive, tmp_path / "tasks", 16_000)
    (folder / "labelvocabulary.csv").unlink()
    import_tasks(archive, tmp_path / "tasks", 16_000)
    assert (folder / "labelvocabulary.csv").read_bytes() == task_files()["labelvocabulary.csv"]
    clip = folder / "16000" / "test" / "test_1.wav"
    clip.write_bytes(b"")
    import_tasks(archive, tmp_path / "tasks", 16_000)
    assert len(clip.read_bytes()) == 44 + 16_000


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"splits": []}'])
def test_metadata_that_tell_nothing_are_named(tmp_path, content):
    files = task_files() | {"task_metadata.json": content}
    with pytest.raises(
        ImportProblem, match=r"task_metadata.json (is not strict JSON|holds a list|names no splits)"
    ):
        import_tasks(write_tar(tmp_path / "a.tar.gz", files), tmp_path / "tasks", 16_000)


def test_clips_that_wait_stay_within_their_share_of_memory(tmp_path, monkeypatch):
    clip_bytes = len(task_files()["48000/train/train_0.wav"])
    monkeypatch.setattr(task_import, "IN_FLIGHT_BYTES", 2 * clip_bytes)
    most = []
    submit = task_import.BoundedPool.submit

    def counting(pool, job, size_bytes):
        submit(pool, job, size_bytes)
        most.append(sum(pool.waiting.values()))

    monkeypatch.setattr(task_import.BoundedPool, "submit", counting)
    import_tasks(write_tar(tmp_path / "a.tar.gz", task_files(clips=20)), tmp_path / "tasks", 16_000, 8)
    assert max(most) <= 2 * clip_bytes


RATES_HZ = (48_000, 16_000, 8_000)


@settings(max_examples=15, deadline=None)
@given(st.permutations(list(task_files(RATES_HZ, clips=2))), st.sampled_from([None, 48_000]))
def test_the_order_inside_an_archive_does_not_matter(tmp_path_factory, order, kept_hz):
    files = task_files(RATES_HZ, clips=2)
    folder = tmp_path_factory.mktemp("order")
    archive = write_tar(folder / "a.tar.gz", {name: files[name] for name in order})
    [task] = import_tasks(archive, folder / "tasks", 16_000, 2, kept_hz=kept_hz)
    wanted = {name for name in files if not name.startswith(("8000/", "48000/"))}
    wanted |= {name for name in files if kept_hz and name.startswith(f"{kept_hz}/")}
    there = {str(path.relative_to(task)): path.read_bytes() for path in task.rglob("*") if path.is_file()}
    assert there == {name: files[name] for name in wanted}
