"""One process of a run fails; the others end too, with one message and without the backends' tracebacks."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from accelerate import PartialState
from pretraining_data import settings, write_config, write_shards
from process_cases import on_processes

from pretrain.reading.skip_log import PATIENCE_S
from pretrain.training.build import join_processes
from pretrain.training.config import PretrainConfig
from pretrain.training.processes import Processes, collective_failure
from pretrain.training.read_config import ConfigError, config_of

SCRIPT = """
import errno, os, signal
from pathlib import Path
import torch
from torch.distributed.checkpoint import FileSystemWriter
from pretrain.train import pretrain
from pretrain.training import encoders
from pretrain.training.optimizer_step import OptimizerStep

STEP, WRITE, SAVE = OptimizerStep.__call__, FileSystemWriter.write_data, torch.save

def full(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device", str(arguments[-1]))

def failing_step(self, iteration, batches, clips):
    if iteration == 2:
        {fault}
    return STEP(self, iteration, batches, clips)

if os.environ["RANK"] == "{rank}":
    OptimizerStep.__call__ = failing_step
pretrain(prog_name="pretrain")
"""
FAULTS = {
    "loss": "batches[0].waveforms.fill_(float('nan'))",
    "disk": "torch.save = full",
    "sharded disk": "FileSystemWriter.write_data = full",
    "bug": "raise KeyError('a bug')",
    "best": "encoders.write_checkpoint = full",
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
}


def launch(folder: Path, fault: str, rank: int, *options: str) -> str:
    """Run on two processes, of which one fails; return what both wrote to stderr, and torchrun's summary."""
    write_shards(folder)
    config = write_config(folder / "c.yaml", settings(folder, epochs=1, save_every=4))
    script = folder / "script.py"
    script.write_text(SCRIPT.format(fault=FAULTS[fault], rank=rank))
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, str(script), str(config), "--run_dir", str(folder / "run"), *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert result.returncode == 1, result.stderr
    own, _, summary = result.stderr.partition(
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError"
    )
    for word in ("gloo", "TCPStore", "SIGABRT", "terminate called"):
        assert word not in result.stderr, result.stderr
    assert summary
    return own


def errors_in(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith("Error: ")]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("fault", "options", "message"),
    [
        ("loss", [], "the loss is nan at iteration 2 "),
        ("disk", [], "could not write the training state"),
        ("sharded disk", ["--fsdp", "true"], "could not write the training state"),
    ],
)
def test_an_expected_failure_of_one_process_is_reported_once(tmp_path, fault, options, message, rank):
    log = launch(tmp_path, fault, rank, *options)
    (line,) = errors_in(log)
    assert message in line
    if "disk" in fault:
        assert "No space left on device" in line
    assert log.count("Traceback") == 1, "torchrun's own, and none of its processes'"
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_a_full_disk_at_an_epochs_end_is_reported_once(tmp_path):
    """The first process alone writes then; the other one must not wait for it."""
    log = launch(tmp_path, "best", 0)
    (line,) = errors_in(log)
    assert f"could not write {tmp_path / 'run/last'}: No space left on device" in line
    assert log.count("Traceback") == 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["bug", "kill"])
def test_the_end_of_another_process_takes_one_line(tmp_path, fault):
    log = launch(tmp_path, fault, 1)
    (line,) = errors_in(log)
    assert line.startswith("Error: another process of this run has ended")
    assert log.count("KeyError: 'a bug'") == (fault == "bug")
    assert log.count("Traceback") == 1 + (fault == "bug")


def test_errors_of_collective_operations_are_recognised():
    lost = RuntimeError("[/pytorch/third_party/gloo/pair.cc:544] Connection closed by peer [127.0.0.1]:1")
    assert "another process of this run has ended" in collective_failure(lost)
    slow = RuntimeError("Timed out waiting 60000ms for recv operation to complete")
    assert "process_timeout_min" in collective_failure(slow)
    assert collective_failure(RuntimeError("shape '[3]' is invalid for input of size 4")) is None
    assert collective_failure(OSError("Connection reset by peer")) is None, "a server's, not a process's"


def wait_in_vain(kind: str) -> None:
    """The second process comes too late; the first must give up after the time limit of the config."""
    join_processes(0.05)
    processes = Processes.of_this_run(0.05)
    processes.sums([1])
    if processes.rank == 1:
        time.sleep(12)
        return
    with pytest.raises(RuntimeError) as caught:
        processes.sums([1]) if kind == "channel" else PartialState().wait_for_everyone()
    assert "raise process_timeout_min" in collective_failure(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["channel", "default group"])
def test_the_time_limit_holds_for_both_groups(kind):
    on_processes(wait_in_vain, kind)


def test_a_limit_that_is_none_is_refused(tmp_path):
    for value in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="process_timeout_min"):
            config_of(settings(tmp_path, process_timeout_min=value))


def test_processes_wait_longer_for_each_other_than_the_reader_for_audio():
    assert 60 * PretrainConfig(train_data=["a"], cv_data=["b"]).process_timeout_min > 2 * PATIENCE_S
