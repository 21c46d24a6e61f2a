"""A whole training run, and what it leaves behind."""

import json
import math
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import noise, run_command, scaled_error
from pretraining_data import SMALL_MODEL, settings, sound, write_config, write_shards
from safetensors.torch import load_file

from hear_dasheng import get_scene_embeddings, get_timestamp_embeddings, load_model
from pretrain.reading.skip_log import NoUsableAudio
from pretrain.train import train
from pretrain.training.optimizer_step import NonFiniteLoss
from pretrain.training.read_config import ConfigError, config_of, read_config


def write_classes(folder: Path) -> Path:
    """A folder of files per class: low tones and high ones."""
    for name, rate_hz in (("low", 16_000), ("high", 4_000)):
        (folder / name).mkdir(parents=True)
        for index in range(4):
            soundfile.write(folder / name / f"{index}.wav", sound(0.5, index, rate_hz), rate_hz)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A complete run with everything switched on that needs no GPU."""
    folder = tmp_path_factory.mktemp("pretraining")
    write_shards(folder)
    (folder / "train_1.tar").write_bytes((folder / "train_1.tar").read_bytes()[:30_000])  # a truncated shard
    classes = write_classes(folder / "classes")
    options = {"picture_clips": 2, "knn_data": str(classes), "ema_decay": 0.5, "trackers": ["tensorboard"]}
    values = settings(folder, n_saved=2, gradient_clip_norm=1.0, gradient_accumulation=2, **options)
    config = write_config(folder / "mine.yaml", values | {"run_dir": str(folder / "run")})
    assert train(read_config(config), config) is None
    return folder / "run"


def metrics_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_run_is_a_hear_checkpoint(run):
    model = load_model(run)
    embeddings, times_ms = get_timestamp_embeddings(noise(2, 1.0), model)
    assert embeddings.shape == (2, 25, SMALL_MODEL["embed_dim"])
    assert times_ms[0, :2].tolist() == [15, 55]


@pytest.mark.parametrize("name", ["averaged", "last", "ema", "best/epoch_0003"])
def test_every_saved_encoder_loads_in_the_published_package_too(run, name):
    if not (run / name).exists():
        name = f"best/{sorted(p.name for p in (run / 'best').glob('epoch_????'))[0]}"
    from dasheng.pretrained.pretrained import Dasheng

    published = Dasheng.from_pretrained(str(run / f"{name}.pt")).eval()
    audio = noise(1, 2.0)
    with torch.no_grad():
        theirs = published(audio)
    ours, _ = get_timestamp_embeddings(audio, load_model(run / name))
    assert scaled_error(ours, theirs) < 1e-4
    assert torch.equal(
        get_scene_embeddings(audio, load_model(run / f"{name}.pt")),
        get_scene_embeddings(audio, load_model(run / name)),
    )


def test_the_best_are_kept_and_their_mean_is_the_runs_encoder(run):
    losses = {line["epoch"]: line["valid_loss"] for line in metrics_of(run) if "valid_loss" in line}
    assert len(losses) == 3
    best = sorted(losses, key=losses.get)[:2]
    kept = sorted(path.name for path in (run / "best").glob("epoch_????"))
    assert kept == sorted(f"epoch_{epoch:04d}" for epoch in best)
    states = [load_file(run / "best" / name / "model.safetensors") for name in kept]
    averaged = load_file(run / "model.safetensors")
    for name, value in averaged.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2, rtol=1e-6, atol=1e-7)
    assert averaged.keys() == states[0].keys()


def test_metrics_tell_the_story(run):
    lines = metrics_of(run)
    training = [line for line in lines if "loss" in line]
    assert [line["iteration"] for line in training] == list(range(2, 19, 2))
    for line in training:
        assert math.isfinite(line["loss"])
        assert 0 < line["lr"] <= 3e-4
        assert line["grad_norm"] > 0
    assert training[-1]["audio_h"] == pytest.approx(18 * 2 * 3 * 1.0 / 3600, abs=1e-4)
    assert training[-1]["skipped"]["shard truncated"] > 0
    validation = [line for line in lines if "valid_loss" in line]
    assert all(0 <= line["knn_accuracy"] <= 1 for line in validation)
    assert "shard truncated" in (run / "train.log").read_text()
    assert list((run / "tensorboard").rglob("events.out.tfevents*"))


def test_pictures_are_drawn(run):
    from matplotlib.image import imread

    for name in ("loss.png", "epoch_0001.png", "epoch_0003.png"):
        image = imread(run / "pictures" / name)
        assert image.shape[0] > 200
        assert image.std() > 0.05


def test_the_kept_config_repeats_the_run(run, tmp_path):
    again = read_config(run / "config.yaml", ["--run_dir", str(tmp_path / "again")])
    train(again, run / "config.yaml")
    ours, theirs = (load_file(path / "model.safetensors") for path in (run, tmp_path / "again"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def quick(folder: Path, **changes):
    """A run of one epoch of three iterations; returns its folder."""
    if not (folder / "valid.tar").exists():
        write_shards(folder)
    run = folder / f"run_{len(list(folder.glob('run_*')))}"
    values = settings(folder, epochs=1, epoch_length=3, warmup_iters=0) | changes
    train(config_of(values | {"run_dir": str(run)}), folder / "c.yaml")
    return run


def last_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last/model.safetensors")


def test_activation_checkpointing_changes_nothing(tmp_path):
    plain, checkpointed = quick(tmp_path), quick(tmp_path, activation_checkpointing=True)
    ours, theirs = last_weights(plain), last_weights(checkpointed)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


def test_bfloat16_trains_and_stays_near_fp32(tmp_path):
    exact, rough = (metrics_of(quick(tmp_path, precision=precision)) for precision in ("fp32", "bf16"))
    losses = [next(line["valid_loss"] for line in lines if "valid_loss" in line) for lines in (exact, rough)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.slow
def test_a_compiled_model_trains_alike(tmp_path):
    """In a process of its own: the shape checks that tests run under cannot be compiled."""
    write_shards(tmp_path)
    values = settings(tmp_path, epochs=1, epoch_length=3, warmup_iters=0, run_dir=str(tmp_path / "compiled"))
    config = write_config(tmp_path / "c.yaml", values)
    result = run_command("pretrain", str(config), "--compile", "true", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    ours, theirs = (
        [line[key] for line in metrics_of(run) for key in ("loss", "valid_loss") if key in line]
        for run in (quick(tmp_path), tmp_path / "compiled")
    )
    assert len(ours) > 1
    assert theirs == pytest.approx(ours, rel=1e-4)


def test_init_from_starts_from_an_encoder(tmp_path):
    first = quick(tmp_path)
    again = quick(tmp_path, init_from=str(first), optimizer_args={"lr": 1e-12, "weight_decay": 0})
    ours, theirs = last_weights(again), load_file(first / "model.safetensors")
    for name in ours:
        if "init_bn" not in name:  # its running statistics go on
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-9)
    with pytest.raises(ConfigError, match="the config describes"):
        quick(tmp_path, init_from=str(first), model_args=SMALL_MODEL | {"depth": 3})


def test_vectors_are_spared_the_weight_decay_if_asked(tmp_path):
    from pretrain.training.masked_modelling import MaskedModelling
    from pretrain.training.optimizers import new_optimizer

    config = config_of(settings(tmp_path, no_decay_on_vectors=True))
    model = MaskedModelling(config).new_model()
    decayed, spared = new_optimizer(model, config).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (
        0.01,
        0.0,
    ) or "weight_decay" not in config.optimizer_args
    assert {id(p) for p in spared["params"]} == {
        id(p)
        for name, p in model.named_parameters()
        if p.ndim == 1 or "pos_embed" in name or name.endswith("mask_token")
    }
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


def test_an_8_bit_optimizer_falls_back_and_says_so(tmp_path, caplog):
    from pretrain.training.masked_modelling import MaskedModelling
    from pretrain.training.optimizers import new_optimizer

    config = config_of(settings(tmp_path, optimizer="AdamW8bit"))
    optimizer = new_optimizer(MaskedModelling(config).new_model(), config)
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["fused"]
    assert "this run uses the device cpu, not CUDA; torch's AdamW" in caplog.text


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_clips(tmp_path):
    with pytest.raises(
        NonFiniteLoss, match=r"iteration \d+ \(learning rate 1e\+30\) on the clips train_\d\.tar/clip_"
    ):
        quick(tmp_path, optimizer_args={"lr": 1e30}, use_scheduler=False, epoch_length=6)
    assert not (tmp_path / "run_0/states").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp16"}, "fp16 needs a GPU; on a CPU choose bf16 or fp32"),
        ({"trackers": ["tensorbord"]}, "Unsupported logging capability: tensorbord"),
        ({"ema_decay": 0.9, "fsdp": True}, "ema_decay does not work with fsdp"),
        ({"warmup_iters": 4}, "the warm-up of 4 iterations is longer than the run's 3"),
    ],
)
def test_what_this_machine_or_run_cannot_do_is_said(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        quick(tmp_path, **changes)


@pytest.mark.parametrize("resampled", [True, False])
def test_data_that_all_fail_stop_the_run(tmp_path, resampled):
    write_shards(tmp_path)
    for path in tmp_path.glob("train_*.tar"):
        path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(NoUsableAudio, match="shard unreadable"):
        quick(tmp_path, resampled=resampled)


def test_validation_data_that_all_fail_stop_the_run(tmp_path):
    write_shards(tmp_path)
    (tmp_path / "valid.tar").write_bytes(b"")
    with pytest.raises(NoUsableAudio, match=r"valid\.tar"):
        quick(tmp_path)


def test_the_command_reports_errors_without_a_traceback(tmp_path):
    write_shards(tmp_path)
    config = write_config(tmp_path / "c.yaml", settings(tmp_path, cv_data=["nowhere.tar"]))
    result = run_command("pretrain", str(config), "--run_dir", "run", cwd=tmp_path)
    assert result.returncode == 1
    assert "nowhere.tar" in result.stderr
    assert "Traceback" not in result.stderr
