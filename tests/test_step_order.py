"""The host never waits for the step that it has just enqueued: a GPU always has work."""

import copy

import pytest
import torch
from pretraining_data import settings, write_config, write_shards
from torch.utils._python_dispatch import TorchDispatchMode

from hear_dasheng.compute import transfer
from hear_dasheng.compute.transfer import HostCopy, to_device
from pretrain.augmentation import Augmentation
from pretrain.masking import random_mask
from pretrain.reading.batch import Batch
from pretrain.train import train
from pretrain.training.optimizer_step import OptimizerStep
from pretrain.training.read_config import read_config
from pretrain.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
SYNCHRONISING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select")
"""Operators for which the host waits on a GPU: they bring a value, or a shape that depends on values."""


class FakeDevice:
    """A device whose results arrive only when the host waits for their event, as a GPU's may."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []
        self.n_copies = 0

    def start_copy(self, values):
        number, host = self.n_copies, torch.full_like(values, float("nan"))
        self.n_copies += 1
        device = self

        class Event:
            def synchronize(self):
                if ("wait", number) not in device.log:
                    device.log.append(("wait", number))
                host.copy_(values)

        return host, Event()


class Synchronising(TorchDispatchMode):
    """Notes operators for which the host would wait."""

    def __init__(self, log: list) -> None:
        super().__init__()
        self.log = log

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in SYNCHRONISING:
            self.log.append((name, -1))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def config(tmp_path):
    write_shards(tmp_path)
    options = {"epochs": 1, "epoch_length": 5, "warmup_iters": 0, "log_every": 5, "gradient_clip_norm": 1.0}
    path = write_config(tmp_path / "c.yaml", settings(tmp_path, **options, run_dir=str(tmp_path / "run")))
    return read_config(path)


def test_a_step_is_read_after_the_next_is_enqueued_and_nothing_else_waits(config, tmp_path, monkeypatch):
    device = FakeDevice()
    step, read = OptimizerStep.__call__, Trainer._read_own

    def noting_step(self, iteration, batches, clips):
        with Synchronising(device.log):
            report = step(self, iteration, batches, clips)
        device.log.append(("enqueued", iteration))
        return report

    def noting_read(self):
        with Synchronising(device.log):
            return read(self)

    monkeypatch.setattr(transfer, "start_copy", device.start_copy)
    monkeypatch.setattr(OptimizerStep, "__call__", noting_step)
    monkeypatch.setattr(Trainer, "_read_own", noting_read)
    train(config, tmp_path / "c.yaml")
    assert device.log == [
        ("enqueued", 0),
        ("enqueued", 1),
        ("wait", 0),
        ("enqueued", 2),
        ("wait", 1),
        ("enqueued", 3),
        ("wait", 2),
        ("enqueued", 4),
        ("wait", 3),
        ("wait", 4),  # the epoch's end
    ]


def test_a_late_change_does_not_reach_a_copy():
    loss = torch.tensor(1.5)
    copied = HostCopy([loss, torch.tensor(2.0, dtype=torch.float64)])
    loss += 1
    assert copied.read() == [1.5, 2.0]


def test_copies_to_a_gpu_come_from_pinned_memory(monkeypatch):
    copied = []

    def to(self, device, non_blocking=False):
        copied.append((self.storage_is_pinned, non_blocking, str(device)))
        return self

    class Fake(torch.Tensor):
        storage_is_pinned = False

        def is_pinned(self):
            return self.storage_is_pinned

        def pin_memory(self):
            pinned = copy.copy(self)
            pinned.storage_is_pinned = True
            return pinned

    monkeypatch.setattr(Fake, "to", to)
    fake = torch.zeros(3, 4).as_subclass(Fake)
    cuda = torch.device("cuda")
    to_device(fake, cuda)
    Batch(fake, ["a"], targets=fake).to(cuda)
    type(random_mask(1, 8, 0.5))(fake, fake).to(cuda)
    Augmentation(fake, fake, fake, fake).to(cuda)
    assert copied == [(True, True, "cuda")] * (1 + 2 + 2 + 4)
    to_device(fake, torch.device("cpu"))
    assert copied[-1] == (False, True, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: counts its synchronisations")
def test_steps_on_a_gpu_do_not_synchronise(config, tmp_path, monkeypatch):
    step, guarded = OptimizerStep.__call__, []

    def guarded_step(self, iteration, batches, clips):
        if iteration:  # the first allocates
            torch.cuda.set_sync_debug_mode("error")
            guarded.append(iteration)
        try:
            return step(self, iteration, batches, clips)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(OptimizerStep, "__call__", guarded_step)
    train(config, tmp_path / "c.yaml")
    assert guarded == [1, 2, 3, 4]
