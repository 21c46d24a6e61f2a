"""FSDP2 on CPU processes (gloo): really sharded, DDP's weights in every precision, resumable, or refused."""

import logging
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from finetuning_data import finetune_config, labels_of, pack
from pretraining_data import settings, write_config, write_shards
from process_cases import on_processes
from safetensors.torch import load_file
from test_processes import notes_of, stop_at, train_and_note_keys
from torch.distributed.tensor import DTensor

from hear_dasheng.checkpoint import load_encoder
from hear_dasheng.mel import LogMel
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.train import pretrain, train
from pretrain.training import sharding
from pretrain.training.config import RunConfig
from pretrain.training.epoch_end import EpochEnd
from pretrain.training.masked_modelling import MaskedModelling
from pretrain.training.optimizer_step import OptimizerStep
from pretrain.training.optimizers import new_optimizer
from pretrain.training.read_config import ConfigError, config_of, read_config
from pretrain.training.state import TrainingState
from pretrain.training.trainer import Trainer


def train_sharded(config: RunConfig, path: Path, resume: bool = False) -> None:
    """Train, checking in each process that everything is sharded and that buffers agree where it matters."""
    run, end, save = Trainer.run, EpochEnd.__call__, TrainingState.save

    def checking_run(self, *arguments):
        assert self.accelerator.is_fsdp2
        n_local = 0
        for name, parameter in self.model.named_parameters():
            assert isinstance(parameter, DTensor), name
            n_local += parameter.to_local().numel()
        n_all = sum(parameter.numel() for parameter in self.model.parameters())
        assert n_local < 0.75 * n_all
        is_complete = run(self, *arguments)
        for state in self.step.optimizer.optimizer.state.values():
            assert isinstance(state["exp_avg"], DTensor)
        return is_complete

    def check_buffers(processes, model):
        statistics = model.encoder.init_bn.running_mean
        everyones = processes.gathered(statistics)
        assert statistics.abs().max() > 0
        assert all(torch.equal(statistics, others) for others in everyones)

    def checking_end(self, model, *arguments):
        check_buffers(self.processes, model)
        return end(self, model, *arguments)

    def checking_save(self, *arguments):
        check_buffers(trainers[0].processes, self.accelerator._models[0])
        return save(self, *arguments)

    trainers = []
    made = Trainer.__init__
    Trainer.__init__ = lambda self, *arguments: trainers.append(self) or made(self, *arguments)
    Trainer.run, EpochEnd.__call__, TrainingState.save = checking_run, checking_end, checking_save
    assert train(config, path, resume) is None


def train_plainly(config: RunConfig, path: Path) -> None:
    assert train(config, path) is None


@pytest.fixture
def path(tmp_path) -> Path:
    write_shards(tmp_path)
    changes = {"epochs": 2, "epoch_length": 3, "warmup_iters": 0, "optimizer_args": {"lr": 1e-3}}
    return write_config(tmp_path / "config.yaml", settings(tmp_path, **changes))


def assert_same_weights(run: Path, other: Path, atol: float) -> None:
    ours, theirs = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=atol)


BF16 = ["--precision", "bf16"]
CHECKPOINTING = ["--activation_checkpointing", "true"]


@pytest.mark.parametrize(
    ("options", "of_fsdp_alone", "atol"),
    [
        pytest.param(["--gradient_clip_norm", "0.1"], [], 2e-6, id="fp32"),
        pytest.param(BF16, CHECKPOINTING, 2e-4, id="bf16"),
    ],
)
def test_fsdp_shards_and_ends_with_the_weights_of_ddp(tmp_path, path, options, of_fsdp_alone, atol):
    ddp = read_config(path, [*options, "--run_dir", str(tmp_path / "ddp")])
    fsdp = [*options, *of_fsdp_alone, "--fsdp", "true", "--run_dir", str(tmp_path / "fsdp")]
    on_processes(train_plainly, ddp, path)
    on_processes(train_sharded, read_config(path, fsdp), path, limit_s=900)
    assert_same_weights(tmp_path / "fsdp", tmp_path / "ddp", atol)


@pytest.mark.slow
def test_fsdp_compiled_and_checkpointed_learns_what_ddp_learns(tmp_path, path):
    """Compiled kernels round differently in bf16, and Adam enlarges that where a gradient is almost zero."""
    ddp = read_config(path, [*BF16, "--run_dir", str(tmp_path / "ddp")])
    options = [*BF16, *CHECKPOINTING, "--compile", "true", "--fsdp", "true"]
    on_processes(train_plainly, ddp, path)
    fsdp = read_config(path, [*options, "--run_dir", str(tmp_path / "fsdp")])
    on_processes(train_sharded, fsdp, path, limit_s=900)
    start = MaskedModelling(ddp).new_model().encoder.state_dict()
    ours, theirs = (load_encoder(tmp_path / name).state_dict() for name in ("fsdp", "ddp"))
    learnt = dict(load_encoder(tmp_path / "ddp").named_parameters()).keys()
    difference = torch.cat([(ours[name] - theirs[name]).flatten() for name in learnt])
    update = torch.cat([(theirs[name] - start[name]).flatten() for name in learnt])
    assert difference.norm() < 0.1 * update.norm()


def compare_spectrograms(config: RunConfig, path: Path) -> None:
    """Train; in each step the model's spectrogram must be that of the batch's own fp32 waveforms."""
    losses, spectrogram = OptimizerStep._losses, MaskedAutoencoder.spectrogram
    batches, compared = [], []

    def noting_losses(self, batch, random):
        batches.append(batch.waveforms)
        return losses(self, batch, random)

    def comparing_spectrogram(self, waveforms):
        mel = spectrogram(self, waveforms)
        if self.training:
            assert waveforms.dtype == mel.dtype == torch.float32
            with torch.autocast("cpu", enabled=False):
                assert torch.equal(mel, LogMel(self.encoder.config.mel)(batches[-1]))
            compared.append(mel)
        return mel

    OptimizerStep._losses, MaskedAutoencoder.spectrogram = noting_losses, comparing_spectrogram
    train_sharded(config, path)
    assert len(compared) == 6


def test_waveforms_stay_fp32_in_bf16_with_fsdp(tmp_path, path):
    options = ["--fsdp", "true", "--precision", "bf16", "--run_dir", str(tmp_path / "run")]
    on_processes(compare_spectrograms, read_config(path, options), path)


def resume_with_the_saved_weights(config: RunConfig, path: Path, saved: Path) -> None:
    load = TrainingState.load
    expected = load_encoder(saved).state_dict()

    def checking_load(self, progress):
        own = load(self, progress)
        encoder = self.accelerator._models[0].encoder
        for name, parameter in encoder.named_parameters():
            assert torch.equal(parameter.full_tensor(), expected[name]), name
        return own

    TrainingState.load = checking_load
    train_sharded(config, path, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_a_sharded_run_resumes_on_as_many_or_more_processes(tmp_path, path, count):
    options = ["--fsdp", "true", "--run_dir", str(tmp_path / "parted")]
    on_processes(stop_at, read_config(path, options), path, 4)
    saved = (tmp_path / "parted/last").rename(tmp_path / "saved")
    on_processes(resume_with_the_saved_weights, read_config(path, options), path, saved, count=count)
    if count == 2:
        whole = read_config(path, ["--fsdp", "true", "--run_dir", str(tmp_path / "whole")])
        on_processes(train_sharded, whole, path)
        assert_same_weights(tmp_path / "parted", tmp_path / "whole", 2e-6)


def test_processes_whose_data_end_earlier_take_part_in_every_pass(tmp_path):
    write_shards(tmp_path, 3)  # two shards for the first process, one for the other
    changes = {
        "resampled": False,
        "epoch_length": None,
        "epochs": 1,
        "gradient_accumulation": 3,
        "warmup_iters": 0,
    }
    values = settings(tmp_path, **changes, batch_size=2, fsdp=True, run_dir=str(tmp_path / "run"))
    path = write_config(tmp_path / "config.yaml", values)
    on_processes(train_and_note_keys, read_config(path), path, tmp_path)
    first, second = notes_of(tmp_path)
    assert [len(note["keys"]) for note in first] != [len(note["keys"]) for note in second]
    seen = Counter(key for notes in (first, second) for note in notes for key in note["keys"])
    assert len(seen) == 3 * 8
    assert set(seen.values()) == {1}


@pytest.mark.slow
def test_a_frozen_encoder_is_sharded_too(tmp_path):
    data = [pack(tmp_path, name, labels_of({"low": 8, "high": 8}), clips_per_shard=8) for name in "tv"]
    for name, fsdp in {"ddp": False, "fsdp": True}.items():
        options = {"epochs": 1, "epoch_length": 3, "warmup_iters": 0, "freeze_encoder": True, "fsdp": fsdp}
        config = finetune_config(*data, **options, run_dir=str(tmp_path / name))
        on_processes(train_plainly, config, tmp_path / "config.yaml")
    assert_same_weights(tmp_path / "fsdp", tmp_path / "ddp", 2e-6)


def test_fsdp_on_one_process_is_refused_in_one_line(tmp_path, path):
    result = CliRunner().invoke(pretrain, [str(path), "--fsdp", "true", "--run_dir", str(tmp_path / "run")])
    assert result.exit_code == 1, result.exception
    (line,) = result.output.splitlines()
    assert line.startswith("Error: fsdp: true shards a model over several processes, but this run has one;")
    assert not (tmp_path / "run").exists()


def test_fsdp_is_refused_where_it_cannot_be_active(monkeypatch):
    state = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="cannot use the CPU where torch sees a GPU"):
        sharding.check_sharding(True, state)
    monkeypatch.setenv(sharding.USE_FSDP, "true")
    with pytest.raises(ConfigError, match="asks for FSDP .* but the config has fsdp: false"):
        sharding.check_sharding(False, state)
    kind = SimpleNamespace(distributed_type=sharding.DistributedType.XLA)
    with pytest.raises(ConfigError, match="does not work with processes of the kind XLA"):
        sharding.activate(SimpleNamespace(state=kind, is_fsdp2=False), sharding.new_fsdp_plugin())


@pytest.mark.parametrize(
    ("device", "fsdp", "reason"),
    [("cuda", True, "does not work with fsdp"), ("cpu", False, "uses the device cpu, not CUDA")],
)
def test_an_8_bit_optimizer_is_replaced_where_bitsandbytes_cannot_work(
    tmp_path, caplog, monkeypatch, device, fsdp, reason
):
    config = config_of(settings(tmp_path, optimizer="AdamW8bit", fsdp=fsdp))
    model = MaskedModelling(config).new_model()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # the machine has CUDA; the run decides
    with caplog.at_level(logging.WARNING):
        optimizer = new_optimizer(model, config, torch.device(device))
    assert type(optimizer) is torch.optim.AdamW
    assert f"AdamW8bit: {'bitsandbytes' if fsdp else 'this run'} {reason}; torch's AdamW" in caplog.text
