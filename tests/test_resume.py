"""A run that is killed, stopped or cannot write goes on as if nothing had happened."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import run_command
from pretraining_data import settings, write_config, write_shards
from resume_cases import lines_of, run_until_killed
from safetensors.torch import load_file

from eval_recipes import provenance
from pretrain.train import train
from pretrain.training.read_config import read_config
from pretrain.training.run_folder import RunFolderError, latest_state
from pretrain.training.state import TrainingState

WEIGHTS = (
    "model.safetensors",
    "averaged/model.safetensors",
    "last/model.safetensors",
    "ema/model.safetensors",
)
WORKERS = {0: "no workers", 2: "2 workers"}.get
ALONE = pytest.mark.parametrize("uninterrupted", [0], indirect=True, ids=WORKERS)


@pytest.fixture(scope="module", params=[0, 2], ids=WORKERS)
def uninterrupted(request, tmp_path_factory) -> tuple[Path, Path]:
    """A config file and the folder of its complete run."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    write_shards(folder)
    model = settings(folder)["model_args"] | {"drop_rate": 0.1}
    values = settings(
        folder, num_workers=request.param, save_every=4, ema_decay=0.9, model_args=model, n_saved=2
    )
    config = write_config(folder / "config.yaml", values)
    train(read_config(config, ["--run_dir", str(folder / "run")]), config)
    return config, folder / "run"


def assert_same_run(run: Path, other: Path) -> None:
    """All weights bit for bit, the optimizer's state and the metrics."""
    for name in WEIGHTS:
        ours, theirs = load_file(run / name), load_file(other / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    assert latest_state(run).name == latest_state(other).name
    for name in ("model.safetensors", "optimizer.bin"):
        assert (latest_state(run) / name).read_bytes() == (latest_state(other) / name).read_bytes(), name
    assert sorted(p.name for p in (run / "best").iterdir()) == sorted(
        p.name for p in (other / "best").iterdir()
    )
    assert lines_of(run) == lines_of(other)


def test_a_run_killed_again_and_again_ends_bit_identical(uninterrupted, tmp_path):
    config, expected = uninterrupted
    run = tmp_path / "run"
    for moment, at in [("step", 2), ("step", 5), ("write", 6), ("remove", 8), ("step", 15), ("write", 18)]:
        run_until_killed(moment, at, config, run)
    train(read_config(config, ["--run_dir", str(run)]), config, resume=True)
    assert_same_run(run, expected)
    assert not list(run.rglob("*.partial"))
    assert len(list((run / "states").iterdir())) == 1


@ALONE
def test_a_run_killed_around_and_in_an_epochs_end_ends_bit_identical(uninterrupted, tmp_path):
    config, expected = uninterrupted
    run = tmp_path / "run"
    moments = [("replaced", 6), ("epoch end", 6), ("validated", 6), ("keeping", 6), ("kept", 6), ("told", 6)]
    moments += [("drawn", 6), ("progress", 6), ("done", 6), ("told", 12), ("done", 18)]
    for moment, at in moments:
        run_until_killed(moment, at, config, run)
        assert latest_state(run) is not None, moment
    train(read_config(config, ["--run_dir", str(run)]), config, resume=True)
    assert_same_run(run, expected)
    assert not list(run.rglob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("uninterrupted", "number"), [(0, signal.SIGINT), (2, signal.SIGTERM)], indirect=["uninterrupted"]
)
def test_a_stopped_run_saves_ends_cleanly_and_goes_on(uninterrupted, tmp_path, number):
    config, expected = uninterrupted
    run = tmp_path / "run"
    command = [sys.executable, "-m", "pretrain.train", str(config), "--run_dir", str(run)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 100
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, number)  # as a terminal or a scheduler does: to the data workers too
    _, log = process.communicate(timeout=100)
    assert process.returncode == 128 + number, log
    assert "--resume goes on" in log
    assert "Traceback" not in log
    assert latest_state(run) is not None
    from hear_dasheng import load_model

    assert load_model(run).encoder.config.dim == 48
    train(read_config(config, ["--run_dir", str(run)]), config, resume=True)
    assert_same_run(run, expected)


@ALONE
def test_a_disk_that_fills_leaves_the_state_before_intact(tmp_path, uninterrupted, monkeypatch):
    config, expected = uninterrupted
    run = tmp_path / "run"
    save, before = TrainingState.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_on_a_full_disk(self, progress, own):
        if progress.iteration < 8:
            return save(self, progress, own)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            return save(self, progress, own)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(TrainingState, "save", save_on_a_full_disk)
    options = ["--run_dir", str(run)]
    with pytest.raises(
        RunFolderError, match=r"could not write .*iteration_00000008.*iteration_00000006 is intact"
    ):
        train(read_config(config, options), config)
    assert [path.name for path in (run / "states").iterdir()] == ["iteration_00000006"]
    monkeypatch.undo()
    train(read_config(config, options), config, resume=True)
    assert_same_run(run, expected)


@ALONE
def test_a_folder_with_a_run_is_not_overwritten(uninterrupted):
    config, run = uninterrupted
    result = run_command("pretrain", str(config), "--run_dir", str(run), cwd=run)
    assert result.returncode == 1
    assert "holds a run already: continue it with --resume" in result.stderr


@ALONE
def test_a_complete_run_resumed_stays_what_it_is(uninterrupted):
    config, run = uninterrupted
    before = {path: path.read_bytes() for path in run.rglob("*.safetensors")}
    identity = provenance.checkpoint_identity(str(run))
    assert train(read_config(config, ["--run_dir", str(run)]), config, resume=True) is None
    assert before == {path: path.read_bytes() for path in run.rglob("*.safetensors")}
    assert provenance.checkpoint_identity(str(run)) == identity, "its scores would be taken for another's"


def test_resume_without_a_name_finds_the_newest_run(tmp_path):
    write_shards(tmp_path)
    values = settings(tmp_path, epochs=1, epoch_length=2, warmup_iters=0, outputpath=str(tmp_path / "out"))
    config = write_config(tmp_path / "mine.yaml", values)
    train(read_config(config), config, resume=True)
    (run,) = (tmp_path / "out/mine/dasheng_tiny").iterdir()
    assert "There is no saved state" in (run / "train.log").read_text()
    train(read_config(config, ["--epochs", "2"]), config, resume=True)
    assert [path for path in (tmp_path / "out/mine/dasheng_tiny").iterdir()] == [run]
    assert latest_state(run).name == "iteration_00000004"
    assert "Changed since the run began: epochs 1 -> 2" in (run / "train.log").read_text()


def test_with_other_data_the_pass_begins_again(tmp_path, caplog):
    write_shards(tmp_path)
    values = settings(tmp_path, epochs=1, epoch_length=2, warmup_iters=0)
    config = write_config(tmp_path / "mine.yaml", values)
    options = ["--run_dir", str(tmp_path / "run")]
    train(read_config(config, options), config)
    more = [*options, "--epochs", "2", "--num_workers", "1"]
    train(read_config(config, more), config, resume=True)
    log = (tmp_path / "run/train.log").read_text()
    assert "The current pass over the data begins again" in log
    assert "n_workers 0, here 1" in log
