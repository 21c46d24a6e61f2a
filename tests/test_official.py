"""The official tools run unmodified, and their traps are caught."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import run_command

from eval_recipes import provenance, synthetic_tasks
from eval_recipes.official_pins import TOOLS
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
    return next((tmp_path / "embeddings" / LOG_MEL).iterdir())


def write_module(folder: Path, name: str, scene: str, training: bool = False) -> None:
    """A HEAR module in a user's working directory."""
    (folder / f"{name}.py").write_text(
        textwrap.dedent(f"""
        import torch
        class Model(torch.nn.Module):
            sample_rate, scene_embedding_size, timestamp_embedding_size = 16000, 4, 4
        def load_model(path=""):
            return Model().train({training})
        def get_scene_embeddings(audio, model):
            return {scene}
        def get_timestamp_embeddings(audio, model):
            times = torch.arange(20.0, 1000 * audio.shape[1] / 16000, 40).expand(len(audio), -1)
            return torch.ones(*times.shape, 4), times
    """)
    )


def test_validator_accepts_our_checkpoint_and_shows_the_one_known_warning(tmp_path, tiny_folder):
    result = run_command("validate", "hear_dasheng", "--model", str(tiny_folder), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Looks good!" in result.stdout
    assert "finite and repeatable" in result.stdout
    assert result.stderr.count("UserWarning: Your timestamps") == 1
    assert "1935.0ms, but the audio is 1980.0 ms" in result.stderr


def test_padding_the_tail_leaves_no_timestamp_warning(tmp_path, tiny_folder):
    arguments = ["--model-options", '{"tail": "pad"}', "--model", str(tiny_folder)]
    result = run_command("validate", "hear_dasheng", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Looks good!" in result.stdout
    assert "Max timestamp 1975.0ms" in result.stdout
    assert "Your timestamps" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["hear_dasheng", "--model", "gone"],
            "Error: hear_dasheng.load_model('gone'): FileNotFoundError: no checkpoint",
        ),
        (["hear_dashen"], "Error: hear_dashen: ModuleNotFoundError: No module named 'hear_dashen'"),
        (["json"], "hear-validator refuses the module: Your API must include a function: 'load_model'"),
    ],
)
def test_mistakes_with_validate_are_one_line(tmp_path, arguments, message):
    result = run_command("validate", *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("scene", "training", "message"),
    [
        (
            "torch.full((len(audio), 4), torch.nan)",
            False,
            "values of the scene embeddings of noise are not finite",
        ),
        ("torch.rand(len(audio), 4)", True, "two calls on the same noise give different"),
    ],
)
def test_validate_finds_what_the_validator_calls_good(tmp_path, scene, training, message):
    write_module(tmp_path, "mine", scene, training)
    result = run_command("validate", "mine", cwd=tmp_path)
    assert "Looks good!" in result.stdout
    assert result.returncode == 1
    assert message in result.stderr
    assert ("training mode" in result.stderr) == training


def test_tensorflow_is_used_if_present_and_stood_in_for_if_not(tmp_path):
    show = "import eval_recipes.official_process as p; p.stand_in_for_tensorflow(); import tensorflow as tf; "
    show += "print(tf.__version__, tf.__spec__.name, isinstance(1, tf.Module), "
    show += "tf.test.is_gpu_available(cuda_only=False))"
    command = [sys.executable, "-c", show]
    absent = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert absent.stdout.split() == ["2.0.0", "tensorflow", "False", "True"]
    (tmp_path / "tensorflow.py").write_text(
        "__version__ = '9.9'\nclass Module: pass\nclass test:\n    def is_gpu_available(**_): return False\n"
    )
    present = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert present.stdout.split() == ["9.9", "tensorflow", "False", "False"]


def test_pins_are_what_is_installed():
    from importlib.metadata import version

    for requirement in TOOLS:
        name, pinned = requirement.split("==")
        assert version(name) == pinned


def test_embeddings_record_their_origin_and_finished_work_is_kept(embedded):
    folder = next((embedded / "embeddings" / LOG_MEL).iterdir())
    recorded = json.loads((folder / "hear-dasheng.embeddings.json").read_text())
    assert recorded["identity"]["module"] == LOG_MEL
    assert recorded["versions"]["heareval"] == "2021.1.3"
    assert "heareval embeddings" in recorded["command"]
    stamp = (folder / ".done.embeddings").stat().st_mtime_ns
    again = run_command("heareval", "embeddings", LOG_MEL, cwd=embedded)
    assert again.returncode == 0
    assert "already embedded" in again.stdout
    assert (folder / ".done.embeddings").stat().st_mtime_ns == stamp


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
    write_module(tmp_path, "mine", "audio[:, :4]", training=True)
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


def test_checkpoint_hashes_see_content_and_names(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.safetensors").write_bytes(b"1")
    first = provenance.sha256_of(tmp_path / "a")
    (tmp_path / "a" / ".hidden").write_bytes(b"x")
    assert provenance.sha256_of(tmp_path / "a") == first
    (tmp_path / "a" / "model.safetensors").write_bytes(b"2")
    assert provenance.sha256_of(tmp_path / "a") != first


def test_a_run_that_writes_its_log_stays_the_same_checkpoint(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"1")
    first = provenance.checkpoint_identity(str(tmp_path))
    (tmp_path / "train.log").write_text("resumed")
    assert provenance.checkpoint_identity(str(tmp_path)) == first
    for name in ("config.json", "model.safetensors"):
        before = provenance.checkpoint_identity(str(tmp_path))
        (tmp_path / name).write_text("another")
        assert provenance.checkpoint_identity(str(tmp_path)) != before
