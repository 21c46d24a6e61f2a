"""`embed` against heareval's own runner: the same folders; and what it does when stopped or in trouble."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest
import soundfile
from conftest import run_command
from hear_modules import write_module
from heareval_oracle import heareval_module
from hypothesis import given
from hypothesis import strategies as st

from eval_recipes import synthetic_tasks
from eval_recipes.embedding.layout import labels_over_time

LOG_MEL = "eval_recipes.baselines.log_mel"
MADE_FROM = ("profile.embeddings.json", "hear-dasheng.embeddings.json")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """A scene task, an event task, and a scene task of variable length."""
    folder = tmp_path_factory.mktemp("embed") / "tasks"
    synthetic_tasks.event_detection(folder, clips=(3, 2, 2))
    fixed = synthetic_tasks.scene_multiclass(folder, clips_per_fold=5)
    ragged = folder / "ragged-v1-small"
    shutil.copytree(fixed, ragged)
    for number, clip in enumerate(sorted(ragged.glob("16000/*/*.wav"))):
        samples, rate_hz = soundfile.read(clip, dtype="float32")
        soundfile.write(clip, np.tile(samples, 9)[: 3000 + 11_111 * number], rate_hz, subtype="FLOAT")
    metadata = json.loads((ragged / "task_metadata.json").read_text())
    (ragged / "task_metadata.json").write_text(json.dumps(metadata | {"sample_duration": None}))
    return folder


@pytest.fixture(scope="module")
def ours(tasks, tiny_folder) -> Path:
    """The tasks as `embed` embeds them."""
    result = run_command("embed", "hear_dasheng", "--model", str(tiny_folder), cwd=tasks.parent)
    assert result.returncode == 0, result.stderr
    return tasks.parent / "embeddings"


@pytest.fixture
def place(tmp_path, tasks) -> Path:
    """A working directory with tasks of one's own to spoil."""
    shutil.copytree(tasks, tmp_path / "tasks")
    return tmp_path


def read(file: Path):
    if file.name.endswith(".embedding.npy"):
        return np.load(file)
    if file.suffix == ".npy":
        return np.fromfile(file, np.float32)
    if file.suffix == ".pkl":
        return pickle.loads(file.read_bytes())
    return json.loads(file.read_text()) if file.suffix == ".json" else file.read_text()


def files_in(folder: Path) -> set[Path]:
    """All but the locks that lie beside task folders."""
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {path for path in files if path.suffix != ".lock"}


def assert_same_folders(ours: Path, theirs: Path, tolerance: float) -> None:
    names = files_in(theirs)
    assert files_in(ours) == names
    assert len(names) > 20
    for name in names:
        if name.name in MADE_FROM:
            continue
        mine, others = read(ours / name), read(theirs / name)
        if isinstance(others, np.ndarray):
            assert mine.dtype == others.dtype == np.float32
            np.testing.assert_allclose(mine, others, rtol=0, atol=tolerance * np.abs(others).max())
        elif name.name.endswith("filename-timestamps.json"):  # they begin with the folder's path
            assert [[Path(f).name, t] for f, t in mine] == [[Path(f).name, t] for f, t in others]
        else:
            assert mine == others, name


@pytest.mark.slow
@pytest.mark.parametrize("module", ["hear_dasheng", LOG_MEL])
def test_folders_are_those_of_the_official_runner(tasks, ours, tiny_folder, tmp_path, module):
    model = ["--model", str(tiny_folder)] if module == "hear_dasheng" else []
    arguments = [module, *model, "--tasks-dir", str(tasks), "--task", "all" if model else "ragged-v1-small"]
    if module == LOG_MEL:
        result = run_command("embed", *arguments, "--out", str(ours), cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    result = run_command("heareval", "embeddings", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "embeddings" / module).glob("[!.]*"))) == (3 if model else 1)
    assert_same_folders(ours / module, tmp_path / "embeddings" / module, 1e-5)


@pytest.mark.slow
def test_the_official_scorer_reads_them(ours, tmp_path):
    task = tmp_path / "embeddings" / "hear_dasheng" / "ragged-v1-small"
    shutil.copytree(ours / "hear_dasheng" / task.name, task)
    points = ["--grid", "faster", "--grid-points", "1", "--quiet"]
    result = run_command("heareval", "predictions", str(task), *points, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "top1_acc" in result.stdout


def test_what_is_embedded_is_kept_and_told_from_other_weights(ours, tasks, tiny_folder, tmp_path):
    folders = ["--tasks-dir", str(tasks), "--out", str(ours), "--task", "ragged"]
    again = run_command("embed", "hear_dasheng", "--model", str(tiny_folder), *folders, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "already embedded" in again.stdout
    kept = run_command(
        "heareval",
        *["embeddings", "hear_dasheng", "--model", str(tiny_folder), "--tasks-dir", str(tasks)],
        *["--embeddings-dir", str(ours)],
        cwd=tmp_path,
    )
    assert "already embedded" in kept.stdout, kept.stderr
    assert run_command("init", "tiny", "other", "--seed", "1", cwd=tmp_path).returncode == 0
    other = run_command("embed", "hear_dasheng", "--model", "other", *folders, cwd=tmp_path)
    assert other.returncode == 1
    assert "holds embeddings of something else (checkpoint was" in other.stderr
    assert "--redo replaces them, another --out keeps both" in other.stderr


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_next_clip(place):
    write_module(place, "mine", "audio[:, :4]")
    assert run_command("embed", "mine", "--out", "whole", cwd=place).returncode == 0
    write_module(place, "mine", "audio[:, :4]", before="time.sleep(0.2)")
    command = [sys.executable, "-m", "hear_dasheng.cli", "embed", "mine", "--task", "ragged"]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    task = place / "embeddings" / "mine" / "ragged-v1-small"
    deadline = time.monotonic() + 60
    while len(list(task.rglob("*.embedding.npy"))) < 4:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    written = {path: path.stat().st_mtime_ns for path in task.rglob("*.embedding.npy")}
    assert not (task / ".done.embeddings").exists()
    assert run_command("embed", "mine", cwd=place).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    profile = json.loads((task / "profile.embeddings.json").read_text())
    assert profile["clips_kept_from_before"] == len(written) == 15 - profile["clips"]
    assert_same_folders(place / "embeddings" / "mine", place / "whole" / "mine", 0)


def test_an_unfinished_folder_is_not_continued_with_another_model(place, tiny_folder):
    write_module(place, "mine", "1 / 0")
    crashed = run_command("embed", "mine", "--task", "ragged", cwd=place)
    assert "ZeroDivisionError" in crashed.stderr
    assert "mine.py" in crashed.stderr  # where the module's fault is
    assert "Traceback" not in crashed.stderr
    write_module(place, "mine", "audio[:, :4]")
    (place / "weights").write_text("other")
    result = run_command("embed", "mine", "--model", "weights", "--task", "ragged", cwd=place)
    assert result.returncode == 1
    assert "holds embeddings of something else (checkpoint was" in result.stderr
    assert run_command("embed", "mine", "--model", "weights", "--redo", cwd=place).returncode == 0


def test_one_bad_clip_stops_its_task_alone(place):
    write_module(place, "mine", "audio[:, :4] / (audio.shape[1] > 3000)")
    result = run_command("embed", "mine", cwd=place)
    assert result.returncode == 1
    assert "16000/fold00/clip0_000.wav: its embedding is not finite" in result.stderr
    assert "1 of 3 tasks are not done: ragged-v1-small" in result.stderr
    done = {path.parent.name for path in (place / "embeddings").rglob(".done.embeddings")}
    assert len(done) == 2
    clip = place / "tasks" / "ragged-v1-small" / "16000" / "fold00" / "clip0_000.wav"
    clip.write_bytes(clip.read_bytes()[:20])
    result = run_command("embed", "mine", "--task", "ragged", cwd=place)
    assert "clip0_000.wav cannot be decoded" in result.stderr


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        ("audio[:, :5]", r"get_scene_embeddings gives the shape \(.*5\), not \(.*4\)"),
        ("audio[0, :4]", r"get_scene_embeddings gives the shape \(4,\), not"),
    ],
)
def test_a_module_that_breaks_its_promise_is_told(place, scene, message):
    write_module(place, "mine", scene)
    result = run_command("embed", "mine", "--task", "ragged", cwd=place)
    assert result.returncode == 1
    assert re.search(message, result.stderr), result.stderr


def two_processes(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    return subprocess.run(
        [*command, "-m", "eval_recipes.embed", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=environment,
    )


def test_two_processes_make_the_folders_of_one(place, ours, tiny_folder):
    result = two_processes("hear_dasheng", "--model", str(tiny_folder), cwd=place)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("[1/3]") == 1
    assert_same_folders(place / "embeddings" / "hear_dasheng", ours / "hear_dasheng", 1e-5)
    profiles = [json.loads(p.read_text()) for p in (place / "embeddings").rglob("profile.embeddings.json")]
    assert [profile["processes"] for profile in profiles] == [2, 2, 2]


@pytest.mark.slow
def test_a_problem_of_one_process_stops_the_task_in_all(place):
    write_module(place, "mine", 'audio[:, :4] / (audio.shape[1] > 3000 or os.environ["RANK"] == "0")')
    batches = ["--batch-seconds", "0.001"]  # a clip each; the shortest is the 15th, the first process's
    swapped = 'audio[:, :4] / (audio.shape[1] > 3000 or os.environ["RANK"] == "1")'
    results = []
    for scene in (None, swapped):
        if scene:
            write_module(place, "mine", scene)
        results.append(two_processes("mine", *batches, "--redo", cwd=place))
    failed = [result for result in results if result.returncode]
    assert len(failed) == 1, [result.stderr for result in results]
    assert failed[0].stderr.count("not done: tasks/ragged-v1-small/16000/fold00/clip0_000.wav: its") == 1


EVENTS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 20), st.sampled_from("abc")), max_size=5, unique=True
)


@given(EVENTS, st.lists(st.integers(0, 70), max_size=8, unique=True))
def test_labels_over_time_are_heareval_s(events, moments):
    events = [
        {"start": start * 1000.0, "end": (start + length) * 1000.0, "label": label}
        for start, length, label in events
    ]
    times = np.array(sorted(moments), np.float32) * 1000
    with patch.dict(sys.modules, tensorflow=ModuleType("tensorflow")):  # which that module imports
        kit = heareval_module("embeddings.task_embeddings")
    expected = kit.get_labels_for_timestamps([events], times[None])
    assert labels_over_time(events, times) == expected[0]
