"""heareval runs unmodified, and its traps are caught."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import run_command
from hear_modules import write_module

from eval_recipes import synthetic_tasks
from eval_recipes.embedding.output_folder import locked
from eval_recipes.task_checks import TaskProblem, check_embeddings, check_task_audio

LOG_MEL = "eval_recipes.baselines.log_mel"


@pytest.fixture(scope="module")
def scene_task(tmp_path_factory) -> Path:
    return synthetic_tasks.scene_multiclass(tmp_path_factory.mktemp("tasks"), clips_per_fold=6)


@pytest.fixture
def tasks(tmp_path, scene_task) -> Path:
    """A tasks folder of one's own to spoil."""
    shutil.copytree(scene_task, tmp_path / "tasks" / scene_task.name)
    return tmp_path / "tasks"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, scene_task) -> Path:
    """A folder where the kit has embedded the scene task with the log-mel baseline."""
    root = tmp_path_factory.mktemp("embedded")
    shutil.copytree(scene_task, root / "tasks" / scene_task.name)
    result = run_command("heareval", "embeddings", LOG_MEL, cwd=root)
    assert result.returncode == 0, result.stderr
    return root


@pytest.fixture
def embeddings(tmp_path, embedded) -> Path:
    """A copy of the embedded task's folder."""
    shutil.copytree(embedded / "embeddings", tmp_path / "embeddings")
    return next((tmp_path / "embeddings" / LOG_MEL).glob("[!.]*"))


def test_embeddings_record_their_origin_and_finished_work_is_kept(embedded):
    folder = next((embedded / "embeddings" / LOG_MEL).glob("[!.]*"))
    recorded = json.loads((folder / "hear-dasheng.embeddings.json").read_text())
    assert recorded["identity"]["module"] == LOG_MEL
    assert recorded["versions"]["heareval"] == "2021.1.3"
    assert "heareval embeddings" in recorded["command"]
    stamp = (folder / ".done.embeddings").stat().st_mtime_ns
    again = run_command("heareval", "embeddings", LOG_MEL, cwd=embedded)
    assert again.returncode == 0
    assert "already embedded" in again.stdout
    assert (folder / ".done.embeddings").stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_another_checkpoint_never_gets_the_first_ones_embeddings(tmp_path, tasks, tiny_folder):
    other = tmp_path / "other"
    init = run_command("init", "tiny", str(other), "--seed", "1", cwd=tmp_path)
    assert init.returncode == 0
    embed = ["heareval", "embeddings", "hear_dasheng", "--quiet", "--model"]
    assert run_command(*embed, str(tiny_folder), cwd=tmp_path).returncode == 0
    clip = next((tmp_path / "embeddings").rglob("*.embedding.npy"))
    first = np.load(clip)
    refused = run_command(*embed, str(other), cwd=tmp_path)
    assert refused.returncode == 1
    assert "embeddings of something else (checkpoint was" in refused.stderr
    assert "--redo" in refused.stderr
    assert np.array_equal(np.load(clip), first)
    assert run_command(*embed, str(other), "--redo", cwd=tmp_path).returncode == 0
    assert not np.array_equal(np.load(clip), first)


@pytest.mark.slow
def test_one_bad_task_is_named_and_does_not_stop_the_others(tmp_path, tasks):
    good = next(tasks.iterdir())
    bad = tasks / "a_bad_one"
    shutil.copytree(good, bad)
    clip = sorted((bad / "16000" / "fold00").iterdir())[0]
    clip.write_bytes(clip.read_bytes()[:20])
    (tasks / "notes.txt").write_text("stray")
    result = run_command("heareval", "embeddings", LOG_MEL, "--quiet", cwd=tmp_path)
    assert result.returncode == 1
    assert f"{clip.name} cannot be decoded" in result.stderr
    assert "1 of 2 tasks are not done: a_bad_one" in result.stderr
    assert "no HEAR tasks: notes.txt" in result.stderr
    assert (tmp_path / "embeddings" / LOG_MEL / good.name / ".done.embeddings").exists()


@pytest.mark.slow
def test_a_redo_that_cannot_begin_loses_nothing(tmp_path, tasks, embeddings):
    done = embeddings / ".done.embeddings"
    sorted((tasks / embeddings.name / "16000" / "fold00").iterdir())[0].unlink()
    result = run_command("heareval", "embeddings", LOG_MEL, "--quiet", "--redo", cwd=tmp_path)
    assert "is missing" in result.stderr
    assert done.exists()
    with locked(embeddings):
        refused = run_command("heareval", "embeddings", LOG_MEL, "--quiet", "--redo", cwd=tmp_path)
    assert "another run is embedding into" in refused.stderr
    assert done.exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda clip: clip.unlink(), "is missing"),
        (lambda clip: soundfile.write(clip, np.zeros(24_000), 48_000), "48000 Hz instead of 16000"),
        (lambda clip: soundfile.write(clip, np.zeros((24_000, 2)), 16_000), "2 channels instead of 1"),
        (
            lambda clip: soundfile.write(clip, np.zeros(23_999), 16_000),
            "different numbers of samples: .*23999",
        ),
        (lambda clip: soundfile.write(clip, np.zeros(0), 16_000), "no samples"),
        (lambda clip: shutil.rmtree(clip.parent), "run `hear-dasheng tasks import SOURCE --rate 16000`"),
    ],
)
def test_bad_audio_is_found_before_the_kit_meets_it(tasks, spoil, message):
    task = next(tasks.iterdir())
    check_task_audio(task, 16_000)
    spoil(sorted((task / "16000" / "fold01").iterdir())[3])
    with pytest.raises(TaskProblem, match=message):
        check_task_audio(task, 16_000)


def test_nan_embeddings_fail_their_task_and_name_the_clip(tmp_path, tasks):
    write_module(tmp_path, "mine", "audio[:, :4] / (audio.abs().amax() < 0)")
    result = run_command("heareval", "embeddings", "mine", "--quiet", cwd=tmp_path)
    assert result.returncode == 1
    assert "clip0_000.wav.embedding.npy holds values that are not finite" in result.stderr
    assert not list((tmp_path / "embeddings").rglob(".done.embeddings"))


def test_a_module_in_training_mode_is_refused(tmp_path, tasks):
    dropped = "torch.nn.functional.dropout(audio[:, :4], 0.5, model.training)"
    write_module(tmp_path, "mine", dropped, training=True)
    result = run_command("heareval", "embeddings", "mine", cwd=tmp_path)
    assert result.returncode == 1
    assert "training mode" in result.stderr


def test_a_checkpoint_that_cannot_be_loaded_is_told_once(tmp_path, tasks):
    (tmp_path / "bad.pt").write_bytes(b"nonsense")
    result = run_command("heareval", "embeddings", "hear_dasheng", "--model", "bad.pt", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("bad.pt (8 bytes) is truncated, damaged") == 1


def test_predictions_score_keep_and_leave_no_logs(tmp_path, embeddings):
    score = ["heareval", "predictions", "embeddings/" + LOG_MEL, "--grid", "faster", "--quiet"]
    result = run_command(*score, "--grid-points", "1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "top1_acc" in result.stdout
    scores = json.loads((embeddings / "test.predicted-scores.json").read_text())
    assert set(scores) >= {"fold00", "fold01", "fold02", "aggregated_scores", "hparams"}
    assert (
        json.loads((embeddings / "hear-dasheng.predictions.json").read_text())["identity"]["grid_points"] == 1
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["embeddings"]
    assert not (embeddings / "lightning_logs").exists()

    again = run_command(*score, "--grid-points", "1", cwd=tmp_path)
    assert again.returncode == 0
    assert "already scored" in again.stdout
    other = run_command(*score, "--grid-points", "2", cwd=tmp_path)
    assert other.returncode == 1
    assert "scored in another way (grid_points was 1, now 2)" in other.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_prediction_is_not_called_done(tmp_path, embeddings, number):
    """Left to itself the kit answers Ctrl-C by marking the task done, with exit code 0."""
    (embeddings / "prediction-done.json").write_text("{}")
    (embeddings / "test.predicted-scores.json").write_text('{"earlier": 1}')
    command = [sys.executable, "-m", "hear_dasheng.cli", "heareval", "predictions", str(embeddings)]
    command += ["--quiet", "--redo"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log = embeddings / "hear-dasheng.predictions.log"
    deadline = time.monotonic() + 60
    while not (log.exists() and "Epoch" in log.read_text()):
        assert time.monotonic() < deadline, "the fit never began"
        assert process.poll() is None
        time.sleep(0.2)
    os.kill(process.pid, number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode != 0, stderr
    assert "nothing is marked done" in stderr
    assert (embeddings / "prediction-done.json").read_text() == "{}"
    assert (embeddings / "test.predicted-scores.json").read_text() == '{"earlier": 1}'
    assert not list(embeddings.glob(".*.before"))


def test_half_embedded_or_spoilt_embeddings_are_not_scored(tmp_path, embeddings):
    values = np.memmap(embeddings / "fold01.embeddings.npy", np.float32, "r+")
    values[5] = np.inf
    values.flush()
    with pytest.raises(TaskProblem, match=r"fold01.embeddings.npy holds values that are not finite"):
        check_embeddings(embeddings)
    (embeddings / ".done.embeddings").unlink()
    result = run_command("heareval", "predictions", str(embeddings), cwd=tmp_path)
    assert result.returncode == 1
    assert "holds no finished embeddings" in result.stderr


def test_one_task_in_place_of_the_folder_above_is_refused(tmp_path, scene_task):
    result = run_command("heareval", "embeddings", LOG_MEL, "--tasks-dir", str(scene_task), cwd=tmp_path)
    assert result.returncode == 1
    assert (
        f"is one task; heareval wants the folder above it: --tasks-dir {scene_task.parent}" in result.stderr
    )


def test_model_options_must_be_a_json_object(tmp_path, tasks):
    for text in ("{", "[1]"):
        result = run_command("heareval", "embeddings", LOG_MEL, "--model-options", text, cwd=tmp_path)
        assert result.returncode == 2
        assert f"--model-options '{text}'" in result.stderr
