"""`--dry_run`: counted costs against real steps, and what the command prints."""

import os
import re

import pytest
import torch
from click.testing import CliRunner

from pretrain.commands import finetune, pretrain
from pretrain.shards import Batch
from pretrain.training.build import checkpoint_activations
from pretrain.training.config import PretrainConfig
from pretrain.training.estimate import GIB, state_bytes
from pretrain.training.masked_modelling import MaskedModelling
from pretrain.training.step_cost import LiveBytes, count_step

ACTIVATIONS_TOLERANCE = 0.10
"""The count also holds the batch and what no operation has saved: a real step saves up to a tenth less."""


def objective(model: str = "dasheng_tiny") -> MaskedModelling:
    return MaskedModelling(
        PretrainConfig(["a"], ["b"], model=model, chunk_length=10, model_args={"group_masking": True})
    )


def real_step(task, clips, dtype, activation_checkpointing=False) -> tuple[int, int, int]:
    """Bytes saved for the gradients, alive after the forward pass, and at the peak; of real tensors."""
    model = task.new_model().train()
    if activation_checkpointing:
        checkpoint_activations(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    own = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    addresses = {tensor.untyped_storage()._cdata for tensor in own}
    saved: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in addresses:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    batch = Batch(torch.randn(clips, 160_000) * 0.1, ["clip"] * clips)
    live = LiveBytes(own)
    live.add(batch.waveforms)
    with live:
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", dtype, enabled=dtype is not None),
        ):
            losses = task.losses(model, batch, torch.Generator().manual_seed(0))
        loss = losses.sum()
        del losses
        activations = live.live
        loss.backward()
    return sum(saved.values()), activations, live.peak


@pytest.mark.parametrize(
    ("model", "clips", "dtype"),
    [("dasheng_tiny", 4, None), ("dasheng_tiny", 4, torch.bfloat16), ("dasheng_base", 2, None)],
)
def test_activations_counted_on_fake_tensors_are_those_of_a_real_step(one_thread, model, clips, dtype):
    task = objective(model)
    counted = count_step(task, clips, dtype, activation_checkpointing=False, is_on_gpu=False)
    saved, activations, peak = real_step(task, clips, dtype)
    assert counted.activation_bytes == pytest.approx(activations, rel=0.01)
    assert counted.activation_bytes + counted.temporary_bytes == pytest.approx(peak, rel=0.02)
    assert saved <= counted.activation_bytes <= saved * (1 + ACTIVATIONS_TOLERANCE)


def test_activation_checkpointing_is_counted_as_it_runs(one_thread):
    task = objective()
    counted = count_step(task, 4, None, activation_checkpointing=True, is_on_gpu=False)
    plain = count_step(task, 4, None, activation_checkpointing=False, is_on_gpu=False)
    _, activations, _ = real_step(task, 4, None, activation_checkpointing=True)
    assert counted.activation_bytes == pytest.approx(activations, rel=0.01)
    assert counted.activation_bytes < plain.activation_bytes / 3
    assert counted.flop > 1.1 * plain.flop


@pytest.mark.slow
def test_a_gpus_fused_attention_keeps_less_and_computes_as_much():
    task = objective()
    of = [count_step(task, 4, None, activation_checkpointing=False, is_on_gpu=gpu) for gpu in (True, False)]
    assert of[0].activation_bytes < of[1].activation_bytes
    assert of[0].flop == pytest.approx(of[1].flop, rel=0.05)


def test_bytes_grow_linearly_with_the_batch():
    task = objective()
    a, b, c = (
        count_step(task, n, None, activation_checkpointing=False, is_on_gpu=True).activation_bytes
        for n in (1, 2, 4)
    )
    assert c - b == pytest.approx(2 * (b - a), rel=0.01)


@pytest.mark.parametrize(
    ("optimizer", "states"), [("AdamW", 2), ("AdamW8bit", 2), ("SGD", 0), ("Adagrad", 1)]
)
def test_an_optimizers_state_is_counted_from_a_step_of_it(optimizer, states):
    assert state_bytes(optimizer, (64, 32)) == pytest.approx(4 * 64 * 32 * states, abs=4)


@pytest.fixture
def dry_run(tmp_path, monkeypatch):
    """Run the command in an empty folder, in which nothing may be left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    def run(*arguments: str, command=pretrain):
        result = CliRunner().invoke(command, [*arguments, "--dry_run"])
        assert os.listdir(tmp_path) == []
        return result

    return run


def test_a_run_that_fits_says_so(dry_run):
    result = dry_run("dasheng_tiny", "--device_memory_gib", "8")
    assert result.exit_code == 0, result.output
    assert "Precision: bf16" in result.output
    assert "decoder 0.49 M" in result.output
    assert "4,000 tokens (992 visible" in result.output
    assert re.search(r"Fits: \d+\.\d\d of 8\.00 GiB", result.output)


def test_a_run_that_does_not_fit_exits_with_3_and_prices_each_remedy(dry_run):
    fp32 = ["--precision", "fp32", "--batch_size", "64"]
    result = dry_run("dasheng_tiny", "--device_memory_gib", "1.4", *fp32)
    assert result.exit_code == 3, result.output
    remedies = result.output.split("What would help:")[1]
    for option in ("--precision bf16", "--activation_checkpointing true", "--fsdp true", "--batch_size"):
        assert re.search(rf"{option}.*: \d+\.\d\d GiB, (fits|does not fit)", remedies), option
    smaller = re.search(r"  --batch_size (\d+) --gradient_accumulation (\d+): .* GiB, fits", remedies)
    assert int(smaller[1]) * int(smaller[2]) == 64


def test_a_remedy_that_is_taken_needs_what_was_announced(dry_run):
    options = ["dasheng_tiny", "--device_memory_gib", "1.4", "--precision", "fp32", "--batch_size", "64"]
    announced = re.search(r"  (--batch_size .*): (\d+\.\d\d) GiB, fits", dry_run(*options).output)
    result = dry_run(*options, *announced[1].split())
    assert result.exit_code == 0, result.output
    assert f"Fits: {announced[2]} of 1.40 GiB" in result.output


def test_fsdp_shares_weights_gradients_and_state(dry_run):
    def table(*options):
        text = dry_run("dasheng_tiny", "--device_memory_gib", "80", "--batch_size", "1", *options).output
        return {name: float(size) for name, size in re.findall(r"^  (\S.*?) +([\d.]+) GiB$", text, re.M)}

    whole = table("--processes", "2", "--optimizer", "AdamW", "--model", "dasheng_base")
    shared = table("--processes", "2", "--optimizer", "AdamW", "--model", "dasheng_base", "--fsdp", "true")
    for part in ("weights", "gradients", "AdamW, 32-bit state"):
        assert shared[part] == pytest.approx(whole[part] / 2, abs=0.01)
    assert "gathered by FSDP" in shared
    refused = dry_run("dasheng_tiny", "--fsdp", "true")
    assert refused.exit_code == 1
    assert "--processes" in refused.output


def test_fine_tuning_is_planned_without_its_data_or_weights(dry_run):
    result = dry_run("finetune_ced", "--device_memory_gib", "80", "--batch_size", "2", command=finetune)
    assert result.exit_code == 0, result.output
    assert "encoder 85." in result.output
    assert "head 0.4" in result.output


def test_options_of_a_dry_run_are_refused_without_it(tmp_path):
    result = CliRunner().invoke(pretrain, ["dasheng_tiny", "--processes", "8"])
    assert result.exit_code == 2
    assert "--dry_run" in result.output


@pytest.mark.slow
@pytest.mark.parametrize(("model", "gib"), [("dasheng_base", 24), ("dasheng_06B", 55), ("dasheng_12B", 82)])
def test_activations_of_256_crops_in_fp32_on_a_gpu(model, gib):
    """The figures that an independent count on the meta device gave."""
    counted = count_step(objective(model), 256, None, activation_checkpointing=False, is_on_gpu=True)
    assert counted.activation_bytes / GIB == pytest.approx(gib, abs=1)
