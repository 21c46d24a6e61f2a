"""The probe's encoder fits beside a training run, and what surrounds a run cannot change its loss."""

from types import SimpleNamespace

import pytest
import torch
from pretraining_data import settings, write_config, write_shards
from resume_cases import lines_of

from pretrain.train import train
from pretrain.training import knn_probe
from pretrain.training.build import ACCUMULATION
from pretrain.training.knn_probe import knn_accuracy, probe_options
from pretrain.training.read_config import config_of, read_config

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("precision", "is_sharded", "expected"),
    [
        ("no", False, {"device": "cuda:3", "precision": "fp32"}),
        ("bf16", False, {"device": "cuda:3", "precision": "bf16"}),
        ("fp16", False, {"device": "cuda:3", "precision": "fp32"}),
        ("bf16", True, {"device": "cpu"}),
    ],
)
def test_the_probe_takes_no_more_memory_than_a_step(precision, is_sharded, expected):
    device = torch.device("cuda", 3)
    accelerator = SimpleNamespace(device=device, mixed_precision=precision, is_fsdp2=is_sharded)
    assert probe_options(accelerator) == expected


def test_cached_memory_is_released_before_the_encoder_is_loaded(tmp_path, monkeypatch):
    calls = []

    def load(path, **options):
        calls.append(options)
        raise FileNotFoundError(path)

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("released"))
    monkeypatch.setattr(knn_probe, "load_model", load)
    with pytest.raises(FileNotFoundError):
        knn_accuracy(tmp_path, [], "cuda:0", "bf16")
    assert calls == ["released", {"device": "cuda:0", "precision": "bf16"}]


def test_a_bf16_run_probes_in_bf16(tmp_path, monkeypatch):
    from test_pretraining import write_classes

    write_shards(tmp_path)
    loaded, load = [], knn_probe.load_model
    monkeypatch.setattr(
        knn_probe, "load_model", lambda path, **options: loaded.append(load(path, **options)) or loaded[-1]
    )
    quick = {"epochs": 1, "epoch_length": 2, "warmup_iters": 0, "precision": "bf16"}
    classes = write_classes(tmp_path / "classes")
    values = settings(tmp_path, **quick, knn_data=str(classes), run_dir=str(tmp_path / "run"))
    train(config_of(values), tmp_path / "c.yaml")
    (model,) = loaded
    assert model.options.precision == "bf16"
    assert model.encoder.blocks[0].mlp.fc1.weight.dtype == torch.bfloat16
    assert any("knn_accuracy" in line for line in lines_of(tmp_path / "run"))


def test_accumulation_in_the_environment_does_not_divide_the_loss(tmp_path, monkeypatch):
    write_shards(tmp_path)
    quick = {"epochs": 1, "epoch_length": 2, "warmup_iters": 0, "log_every": 1, "gradient_clip_norm": 1e9}
    config = write_config(tmp_path / "c.yaml", settings(tmp_path, **quick))
    train(read_config(config, ["--run_dir", str(tmp_path / "plain")]), config)
    monkeypatch.setenv(ACCUMULATION, "4")
    train(read_config(config, ["--run_dir", str(tmp_path / "set")]), config)
    assert lines_of(tmp_path / "set") == lines_of(tmp_path / "plain")  # gradient norms among them
    assert all(line["grad_norm"] > 0 for line in lines_of(tmp_path / "set") if "loss" in line)
    log = (tmp_path / "set/train.log").read_text()
    assert f"{ACCUMULATION}=4 is ignored; the config's gradient_accumulation decides" in log
