"""Which precision a run gets: what the config asks for, else what suits the device."""

import pytest
import torch

from hear_dasheng.mel import LogMel
from pretrain.front_end import spectrogram
from pretrain.training import build
from pretrain.training.precision import LAUNCHERS_CHOICE, training_precision
from pretrain.training.read_config import config_of, read_config


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU, as far as the choice of the precision asks."""

    def pretend(has_bfloat16: bool) -> None:
        monkeypatch.delenv(LAUNCHERS_CHOICE, raising=False)
        monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

        def is_supported(including_emulation: bool = True) -> bool:
            return has_bfloat16 or including_emulation

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)

    return pretend


def config(**options):
    return config_of({"train_data": "a.tar", "cv_data": "b.tar", **options})


def test_a_gpu_with_bfloat16_trains_in_it_by_default(gpu):
    chosen = config()
    gpu(has_bfloat16=True)
    precision = build.run_precision(chosen)
    assert precision.name == "bf16"
    assert "default" in precision.reason


def test_a_gpu_that_only_emulates_bfloat16_trains_in_fp32(gpu):
    chosen = config()
    gpu(has_bfloat16=False)
    assert build.run_precision(chosen).name == "fp32"


def test_a_cpu_trains_in_fp32_by_default(monkeypatch):
    monkeypatch.delenv(LAUNCHERS_CHOICE, raising=False)
    assert training_precision(None, "cpu").name == "fp32"


@pytest.mark.parametrize("asked", ["fp32", "tf32", "bf16", "fp16"])
def test_the_config_decides_before_the_default(gpu, asked):
    chosen = config(precision=asked)
    gpu(has_bfloat16=True)
    precision = build.run_precision(chosen)
    assert precision.name == asked
    assert precision.allows_tf32 == (asked == "tf32")
    assert precision.accelerates == {"fp32": "no", "tf32": "no"}.get(asked, asked)


def test_the_launchers_choice_counts_but_its_default_does_not(gpu, monkeypatch):
    chosen = config()
    gpu(has_bfloat16=True)
    monkeypatch.setenv(LAUNCHERS_CHOICE, "fp16")
    assert build.run_precision(chosen).name == "fp16"
    monkeypatch.setenv(LAUNCHERS_CHOICE, "no")
    assert build.run_precision(chosen).name == "bf16"


def test_tf32_on_a_cpu_is_fp32_and_says_why():
    precision = training_precision("tf32", "cpu")
    assert precision.name == "fp32"
    assert not precision.allows_tf32
    assert "GPU" in precision.reason


def test_the_front_end_stays_in_full_precision_while_training_allows_tf32(monkeypatch):
    from hear_dasheng.compute.precision import fp32_arithmetic

    config_, seen = read_config("dasheng_tiny"), []
    log_mel = LogMel(*_front_end())
    monkeypatch.setattr(
        LogMel, "forward", lambda self, x: seen.append(torch.get_float32_matmul_precision()) or x
    )
    with fp32_arithmetic(allow_tf32=True):
        assert torch.get_float32_matmul_precision() == "high"
        spectrogram(log_mel, torch.zeros(1, config_.chunk_samples))
    assert seen == ["highest"]


def _front_end():
    from hear_dasheng.encoder_config import EncoderConfig

    tiny = EncoderConfig.of_size("tiny")
    return tiny.mel, tiny.patch_frames


def test_the_config_of_12b_checkpoints_activations():
    assert read_config("dasheng_12B").activation_checkpointing
