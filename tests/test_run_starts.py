"""Runs that cannot start: told once, in one line, and leaving nothing behind."""

import io
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from finetuning_data import SMALL_MODEL, finetune_config, labels_of, pack, settings
from pretraining_data import settings as pretrain_settings
from pretraining_data import write_config, write_shards
from process_cases import on_processes

from hear_dasheng.encoder import Encoder
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.export import export
from hear_dasheng.files.lock import locked
from pretrain.finetune import finetune
from pretrain.reading.clip_labels import UnusableLabels
from pretrain.reading.skip_log import NoUsableAudio
from pretrain.train import pretrain, train
from pretrain.training import build, run_folder
from pretrain.training.finetune_config import FinetuneConfig
from pretrain.training.optimizer_step import OptimizerStep
from pretrain.training.processes import is_known_to_all
from pretrain.training.read_config import config_of
from pretrain.training.run_folder import held_folder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("labelled")
    train_data = pack(folder, "train", labels_of({"low": 8, "high": 8}), clips_per_shard=8)
    return train_data, pack(folder, "valid", ["low", "high"] * 2)


QUICK = {"epochs": 1, "epoch_length": 2, "warmup_iters": 0}


@pytest.mark.parametrize("command", [pretrain, finetune], ids=lambda command: command.name)
def test_a_checkpoint_that_is_not_there_is_told_at_once(shards, tmp_path, monkeypatch, command):
    def unknown(*arguments, **options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "pretraining")
    values = pretrain_settings(tmp_path / "pretraining")
    if command is finetune:
        values = settings(*shards) | {"model": None, "model_args": {}}
    config = str(write_config(tmp_path / "c.yaml", values | QUICK))
    for name in ("runs/frist", "frist.pt", "dasheng_bsae"):
        result = CliRunner().invoke(command, [config, "--init_from", name, "--run_dir", "new/run"])
        assert result.exit_code == 1, result.exception
        (line,) = result.output.splitlines()
        assert line.startswith(f"Error: init_from {name}: ")
        assert f"{name!r} (seen from {tmp_path})" in line
        assert "pass" in line or "give an existing file or folder" in line
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_column": "class"}, "no column 'class'"),
        ({"cv_data": ["gone.tar"]}, "cv_data: there is no shard 'gone.tar'"),
        ({"train_data": ["."]}, "train_data: '.' is a folder"),
        ({"model_args": {"depth": 0}}, "model_args: depth"),
        ({"warmup_iters": 3}, "the warm-up of 3 iterations is longer"),
        ({"trackers": ["tensorbord"]}, "Unsupported logging capability"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_start_that_fails_leaves_nothing_and_the_next_one_is_no_change(shards, tmp_path, changes, message):
    run = tmp_path / "runs/first"
    config = write_config(tmp_path / "c.yaml", settings(*shards, **QUICK) | changes)
    result = CliRunner().invoke(finetune, [str(config), "--run_dir", str(run)])
    assert result.exit_code == 1, result.exception
    assert message in result.output
    assert not run.parent.exists()


def test_what_was_in_the_folder_stays_and_the_next_start_is_no_change(shards, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    with pytest.raises(UnusableLabels):
        train(finetune_config(*shards, **QUICK, label_column="x", run_dir=str(run)), tmp_path / "c.yaml")
    assert [path.name for path in run.iterdir()] == ["notes.txt"]
    (run / "config.yaml").write_text("epochs: 7\n")  # as of a run that ended before its first state
    train(finetune_config(*shards, **QUICK, run_dir=str(run)), tmp_path / "c.yaml")
    assert "Changed since the run began" not in (run / "train.log").read_text()
    assert "epochs: 1" in (run / "config.yaml").read_text()
    config = finetune_config(*shards, **QUICK | {"epochs": 2}, run_dir=str(run))
    train(config, tmp_path / "c.yaml", resume=True)
    assert "Changed since the run began: epochs 1 -> 2" in (run / "train.log").read_text()


def test_a_failed_start_removes_what_it_has_written_and_nothing_else(tmp_path):
    run = tmp_path / "a/b"

    def start(begins: bool, others: bool) -> None:
        with held_folder(run, "logs/train.log", False) as begin:
            for name in ("logs/train.log", "classes.json", *(["notes.txt"] if others else [])):
                (run / name).parent.mkdir(exist_ok=True)
                (run / name).write_text("")
            if begins:
                begin()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(begins=False, others=False)
    assert not (tmp_path / "a").exists()
    with pytest.raises(KeyboardInterrupt):
        start(begins=False, others=True)
    assert [path.name for path in run.iterdir()] == ["notes.txt"], "somebody else's, written meanwhile"
    with pytest.raises(KeyboardInterrupt):
        start(begins=True, others=False)
    assert {path.name for path in run.iterdir()} == {"logs", "classes.json", "notes.txt", ".run.lock"}


def test_a_second_run_in_a_folder_is_refused_and_the_first_is_untouched(tmp_path):
    write_shards(tmp_path)
    config = write_config(tmp_path / "c.yaml", pretrain_settings(tmp_path, **QUICK))
    run = tmp_path / "run"
    with held_folder(run, "train.log", False) as begin:
        begin()
        (run / "train.log").write_text("mine")
        (run / "states/.0123456789abcdef.partial").mkdir(parents=True)
        for resume in ([], ["--resume"]):
            result = CliRunner().invoke(pretrain, [str(config), "--run_dir", str(run), *resume])
            assert result.exit_code == 1, result.exception
            (line,) = result.output.splitlines()
            assert line.startswith(f"Error: another run is writing to {run}: wait until it ends, stop it, or")
        assert {path.name for path in run.iterdir()} == {".run.lock", "train.log", "states"}
        assert (run / "train.log").read_text() == "mine"
        assert (run / "states/.0123456789abcdef.partial").exists(), "the first one is writing it"
    result = CliRunner().invoke(pretrain, [str(config), "--run_dir", str(run)])
    assert result.exit_code == 0, result.output
    assert not (run / "states/.0123456789abcdef.partial").exists()


def test_what_other_runs_write_in_folders_below_is_left_alone(tmp_path):
    theirs = tmp_path / "their_run/states/.0123456789abcdef.partial"
    mine = [tmp_path / name / theirs.name for name in ("", "best", "states/iteration_00000002", "pictures")]
    for folder in (theirs, *mine):
        folder.mkdir(parents=True)
    with held_folder(tmp_path, "train.log", True) as begin:
        begin()
    assert theirs.exists()
    assert not any(path.exists() for path in mine)


def test_a_file_that_another_run_writes_before_the_lock_is_ours_is_not_removed(tmp_path, monkeypatch):
    def late(lock_file):
        (tmp_path / "classes.json").write_text("theirs")
        return locked(lock_file)

    monkeypatch.setattr(run_folder, "locked", late)
    with pytest.raises(KeyboardInterrupt), held_folder(tmp_path, "train.log", True):
        raise KeyboardInterrupt
    assert (tmp_path / "classes.json").read_text() == "theirs"


def test_validation_data_that_do_not_decode_are_refused_before_training(tmp_path, monkeypatch):
    write_shards(tmp_path)
    (tmp_path / "valid.tar").write_bytes(tar_of_text("clip.flac"))
    monkeypatch.setattr(OptimizerStep, "__call__", None)
    config = write_config(tmp_path / "c.yaml", pretrain_settings(tmp_path, **QUICK))
    result = CliRunner().invoke(pretrain, [str(config), "--run_dir", str(tmp_path / "run")])
    assert result.exit_code == 1, result.exception
    assert result.output.splitlines()[-1].startswith("Error: ")
    assert "valid.tar" in result.output.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def tar_of_text(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = 9
        archive.addfile(member, io.BytesIO(b"not audio"))
    return buffer.getvalue()


@pytest.mark.parametrize("model", [None, "dasheng_tiny"], ids=["fine-tuning", "pretraining"])
def test_a_checkpoint_is_read_once(shards, tmp_path, monkeypatch, model):
    encoder = Encoder(EncoderConfig(dim=48, depth=2, heads=2))
    start = str(export(encoder, tmp_path / "start"))
    read = []
    load = build.load_encoder
    monkeypatch.setattr(build, "load_encoder", lambda path: read.append(path) or load(path))
    common = QUICK | {"init_from": start, "run_dir": str(tmp_path / "run")}
    if model is None:
        config = finetune_config(*shards, **common, model=None, model_args={})
    else:
        write_shards(tmp_path)
        config = config_of(pretrain_settings(tmp_path, **common, model_args=SMALL_MODEL))
    train(config, tmp_path / "c.yaml")
    assert read == [Path(start)]


def fail_alike(config: FinetuneConfig, folder: Path, message: str) -> None:
    """Each process raises the error that one of them has met."""
    with pytest.raises(NoUsableAudio, match=message) as caught:
        train(config, folder / "c.yaml")
    assert is_known_to_all(caught.value)


@pytest.mark.parametrize("when", ["counting", "training", "validation"])
def test_an_error_of_one_process_is_raised_on_all(shards, tmp_path, when):
    (tmp_path / "classes.txt").write_text("low\nhigh\n")
    label = "" if when == "counting" else "middle"
    pack(tmp_path, "good", ["low"] * 4)
    pack(tmp_path, "bad", [label] * 4)
    bad = f"{tmp_path}/shards/{{good,bad}}_*.tar"  # a shard for each process
    data = (shards[0], bad) if when == "validation" else (bad, shards[1])
    changes = {} if when == "counting" else {"classes": str(tmp_path / "classes.txt")}
    changes |= {"resampled": False, "run_dir": str(tmp_path / "run")}
    message = "has 0 labels" if when == "counting" else "labelled 'middle'"
    on_processes(fail_alike, finetune_config(*data, **QUICK, **changes), tmp_path, message)


@pytest.mark.slow
def test_a_launcher_shows_an_error_once(shards, tmp_path):
    config = write_config(tmp_path / "c.yaml", settings(*shards, **QUICK))
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2", "-m"]
    for options, message in [
        (["--epoch", "1"], "there is no key 'epoch'; the nearest is 'epochs'"),
        (["--label_column", "class"], "no column 'class'"),
    ]:
        command = [*torchrun, "pretrain.finetune", str(config), "--run_dir", str(tmp_path / "run"), *options]
        result = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert result.returncode == 1
        assert result.stderr.count(message) == 1, result.stderr
        assert result.stderr.count("Traceback") == 1, "torchrun's own, and none of its processes'"
        assert "SIGABRT" not in result.stderr
        assert "exitcode  : 1 " in result.stderr.partition("Root Cause")[2], result.stderr
    assert not (tmp_path / "run").exists()
