"""An epoch is saved before anything at its end can fail, and a state that is damaged is named."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from pretraining_data import settings, write_config, write_shard, write_shards
from process_cases import on_processes
from resume_cases import lines_of
from safetensors.torch import load_file

from hear_dasheng.files import atomic
from pretrain.train import pretrain, train
from pretrain.training import epoch_end, trainer
from pretrain.training.config import PretrainConfig
from pretrain.training.read_config import config_of
from pretrain.training.run_folder import clean_up, latest_state, state_path
from pretrain.training.state import TrainingState

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = {"epochs": 1, "epoch_length": 2, "warmup_iters": 0}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder)
    return folder


def config_for(shards: Path, run: Path, **changes) -> PretrainConfig:
    return config_of(settings(shards, **QUICK | {"run_dir": str(run)} | changes))


def log_of(run: Path) -> str:
    return (run / "train.log").read_text()


def progress_of(run: Path) -> dict:
    return json.loads((latest_state(run) / "progress.json").read_text())


def test_a_clip_whose_name_looks_like_a_formula_is_drawn(shards, tmp_path):
    write_shard(tmp_path / "valid.tar", [1.0, 1.0], 0)
    rename_members(tmp_path / "valid.tar", "cash_$_and_$_{}.flac")
    run = tmp_path / "run"
    train(
        config_for(shards, run, cv_data=[str(tmp_path / "valid.tar")], picture_clips=2), tmp_path / "c.yaml"
    )
    assert (run / "pictures/epoch_0001.png").stat().st_size > 10_000
    assert "could not be drawn" not in log_of(run)


def rename_members(path: Path, name: str) -> None:
    with tarfile.open(path) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]
    with tarfile.open(path, "w") as archive:
        for index, (member, content) in enumerate(members):
            member.name = name.format(index)
            archive.addfile(member, io.BytesIO(content))


def fail(*arguments, **options):
    raise RuntimeError("no such luck\nat all")


def test_a_picture_and_a_probe_that_fail_are_warnings(shards, tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for index in range(2):
            (tmp_path / "classes" / name / f"{index}.wav").write_bytes(b"no audio")
    monkeypatch.setattr(epoch_end, "draw_loss_curve", fail)
    run = tmp_path / "run"
    assert train(config_for(shards, run, knn_data=str(tmp_path / "classes")), tmp_path / "c.yaml") is None
    assert "The pictures of epoch 1 could not be drawn: RuntimeError: no such luck at all" in log_of(run)
    assert f"The probe on knn_data {tmp_path / 'classes'} failed: " in log_of(run)
    assert not progress_of(run)["is_epoch_end_due"]
    assert (run / "model.safetensors").exists()


def test_an_epochs_end_that_fails_loses_no_epoch_and_is_done_once_more(shards, tmp_path, monkeypatch):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(config_for(shards, whole, epochs=2), tmp_path / "c.yaml")
    validate, draw = epoch_end.validate, epoch_end.EpochEnd._draw
    for name, owner in (("validate", epoch_end), ("_draw", epoch_end.EpochEnd)):
        monkeypatch.setattr(owner, name, fail)
        with pytest.raises(RuntimeError, match="no such luck"):
            train(config_for(shards, run, epochs=2), tmp_path / "c.yaml", resume=True)
        assert latest_state(run).name == "iteration_00000002"
        assert progress_of(run)["is_epoch_end_due"]
        monkeypatch.setattr(epoch_end, "validate", validate)
        monkeypatch.setattr(epoch_end.EpochEnd, "_draw", draw)
    train(config_for(shards, run, epochs=2), tmp_path / "c.yaml", resume=True)
    assert lines_of(run) == lines_of(whole)
    ours, theirs = (load_file(path / "averaged/model.safetensors") for path in (run, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_states_come_every_few_minutes_and_change_nothing(shards, tmp_path, monkeypatch):
    saved = {"often": [], "never": []}
    save = TrainingState.save

    def noting_save(self, progress, own):
        saved[self.run_dir.name].append(progress.iteration)
        save(self, progress, own)

    monkeypatch.setattr(TrainingState, "save", noting_save)
    model = settings(shards)["model_args"] | {"drop_rate": 0.1}
    for name, minutes in (("often", 1e-9), ("never", None)):
        changes = {"epoch_length": 4, "epochs": 2, "save_every_minutes": minutes, "model_args": model}
        train(config_for(shards, tmp_path / name, **changes), tmp_path / "c.yaml")
    assert saved == {"often": [1, 2, 3, 4, 5, 6, 7, 8], "never": [4, 8]}
    assert lines_of(tmp_path / "often") == lines_of(tmp_path / "never")
    ours, theirs = (load_file(tmp_path / name / "last/model.safetensors") for name in saved)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def train_with_clock(config: PretrainConfig, folder: Path) -> None:
    """Train; the second process's clock says that a state has long been due."""
    if os.environ["RANK"] == "1":
        trainer.Trainer._saved_at = property(lambda self: -1e9, lambda self, value: None)
    assert train(config, folder / "c.yaml") is None


def test_the_first_processs_clock_decides(shards, tmp_path):
    on_processes(train_with_clock, config_for(shards, tmp_path / "run"), tmp_path)
    assert "Traceback" not in log_of(tmp_path / "run")
    assert latest_state(tmp_path / "run").name == "iteration_00000002"


def test_a_state_that_is_saved_again_is_replaced_without_a_moment_without_one(tmp_path):
    path = tmp_path / "states/iteration_00000003"

    def write(text: str) -> None:
        with state_path(path) as partial:
            partial.mkdir()
            (partial / "progress.json").write_text(text)

    write("old")
    calls_until_death = 0
    while True:
        child = os.fork()
        if not child:
            die_at(calls_until_death)
            write("new")
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            break
        assert (latest_state(tmp_path) / "progress.json").read_text() in ("old", "new")
        clean_up(tmp_path)
        assert latest_state(tmp_path) == path
        assert [state.name for state in path.parent.iterdir()] == [path.name]
        write("old")
        calls_until_death += 1
    assert calls_until_death >= 4
    assert (path / "progress.json").read_text() == "new"
    assert [state.name for state in path.parent.iterdir()] == [path.name]


def die_at(calls: int) -> None:
    """End this process at the n-th call that changes names on the disk."""
    left = [calls]
    for owner, name in ((os, "replace"), (os, "rename"), (os, "fsync"), (atomic.shutil, "rmtree")):
        original = getattr(owner, name)

        def counted(*arguments, original=original, **options):
            if left[0] == 0:
                os._exit(1)
            left[0] -= 1
            return original(*arguments, **options)

        setattr(owner, name, counted)


def test_a_damaged_file_of_a_state_is_named_and_nothing_is_lost(shards, tmp_path):
    run = tmp_path / "run"
    config = str(write_config(tmp_path / "c.yaml", settings(shards, **QUICK, ema_decay=0.9)))
    arguments = [config, "--run_dir", str(run)]
    assert CliRunner().invoke(pretrain, arguments).exit_code == 0
    state = latest_state(run)
    names = {path.name for path in state.iterdir()}
    files = (
        "model.safetensors",
        "optimizer.bin",
        "process_0.pt",
        "random_states_0.pkl",
        "ema.pt",
        "progress.json",
    )
    assert names >= set(files)
    for name in files:
        content = (state / name).read_bytes()
        metrics = (run / "metrics.jsonl").read_bytes()
        for damaged in (content[: len(content) // 2], b"", b"\0" * len(content)):
            (state / name).write_bytes(damaged)
            result = CliRunner().invoke(pretrain, [*arguments, "--epochs", "2", "--resume"])
            assert result.exit_code == 1, (name, result.exception)
            (line,) = [
                line for line in result.output.splitlines() if "INFO" not in line and "WARN" not in line
            ]
            assert line.startswith(f"Error: cannot resume: {state / name} is damaged")
            assert f"or remove {state}, and --resume begins from scratch" in line
            assert (run / "metrics.jsonl").read_bytes() == metrics
            assert {path.name for path in state.iterdir()} == names
        (state / name).write_bytes(content)
    older = state.with_name("iteration_00000001")
    older.mkdir()
    (state / "optimizer.bin").write_bytes(b"")
    assert f"--resume continues from {older}" in CliRunner().invoke(pretrain, [*arguments, "--resume"]).output


def test_trackers_and_a_log_on_a_full_disk_stop_no_run(shards, tmp_path, monkeypatch, capfd):
    from tensorboard.summary.writer import record_writer

    def full(self, *arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record_writer.RecordWriter, "write", full)
    monkeypatch.setattr("pretrain.training.journal._LogFile.flush", full)
    run = tmp_path / "run"
    assert train(config_for(shards, run, trackers=["tensorboard"]), tmp_path / "c.yaml") is None
    written = capfd.readouterr().err
    assert "Traceback" not in written
    assert f"Could not write the log {run}/train.log: [Errno 28] No space left on device" in written
    assert "racker" in written
    assert latest_state(run).name == "iteration_00000002"


@pytest.mark.parametrize("name", ["metrics.jsonl", "classes.json"])
def test_a_damaged_record_of_a_run_is_named(shards, tmp_path, name):
    if name == "classes.json":
        from pretrain.training.class_list import _read_classes as read

        (tmp_path / name).write_text('{"classes": [1]}')
        with pytest.raises(ValueError, match=r"classes\.json, the classes of the run, is damaged"):
            read(tmp_path / name)
        return
    run = tmp_path / "run"
    train(config_for(shards, run), tmp_path / "c.yaml")
    with (run / name).open("a") as file:
        file.write("nothing\n")
    config = write_config(tmp_path / "c.yaml", settings(shards, **QUICK))
    result = CliRunner().invoke(pretrain, [str(config), "--run_dir", str(run), "--resume"])
    assert result.exit_code == 1, result.exception
    assert f"{run / name} is damaged, its line 'nothing' holds no metrics" in result.output
