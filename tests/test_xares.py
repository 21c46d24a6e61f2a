"""HEAR modules as encoders of X-ARES, against that package."""

import io
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import webdataset
from conftest import noise

from eval_recipes import xares_decoding, xares_encoder
from eval_recipes.embedding.module import ModuleProblem
from eval_recipes.xares_decoding import decode_without_ffmpeg, soundfile_audio
from eval_recipes.xares_encoder import HearEncoder, class_name
from hear_dasheng import get_timestamp_embeddings, load_model
from hear_dasheng.export import export, new_encoder

pytestmark = pytest.mark.usefixtures("one_thread", "unpatched")

LOG_MEL = "eval_recipes.baselines.log_mel"

MODULE = """
import torch
class Model(torch.nn.Module):
    sample_rate, timestamp_embedding_size, scene_embedding_size = 22050, 3, 3
def load_model(path="", step_ms=12.5, first_ms=6.25, jump_ms=0.0):
    model = Model().eval()
    model.times = (step_ms, first_ms, jump_ms)
    return model
def get_timestamp_embeddings(audio, model):
    step, first, jump = model.times
    moments = max(1, int(1000 * audio.shape[1] / 22050 // step))
    times = first + step * torch.arange(moments) + jump * (torch.arange(moments) > 2)
    return torch.zeros(len(audio), moments, 3), times.expand(len(audio), -1)
def get_scene_embeddings(audio, model):
    return torch.zeros(len(audio), 3)
"""


@pytest.fixture
def unpatched(monkeypatch):
    """Undo, after the test, what the encoders do to webdataset."""
    monkeypatch.setattr(webdataset, "torch_audio", webdataset.torch_audio)


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    (tmp_path / "made_up_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "made_up_module"
    sys.modules.pop("made_up_module", None)


@pytest.mark.filterwarnings("ignore:::(xares|loguru|transformers|torchmetrics).*")
@pytest.mark.parametrize("module", ["hear_dasheng", LOG_MEL])
def test_the_packages_own_checker_accepts_them(tiny_folder, module):
    from xares.audio_encoder_checker import check_audio_encoder

    encoder = HearEncoder(module, str(tiny_folder) if module == "hear_dasheng" else None)
    assert check_audio_encoder(encoder)
    encoder.output_dim += 1
    assert not check_audio_encoder(encoder)


def test_the_package_finds_one_class_in_the_file():
    from xares.utils import attr_from_py_path

    assert attr_from_py_path("eval_recipes/xares_encoder.py", endswith="Encoder") is HearEncoder


def test_embeddings_and_numbers_are_the_models(tiny_folder):
    encoder = HearEncoder("hear_dasheng", str(tiny_folder), {"layers": [0, -1]})
    model = load_model(tiny_folder, layers=[0, -1])
    clips = noise(2, 3.1)
    expected, _ = get_timestamp_embeddings(clips, model)
    assert torch.equal(encoder(clips), expected)
    assert torch.equal(encoder(clips[0]), expected[:1])
    assert (encoder.sampling_rate, encoder.output_dim) == (16_000, 2 * 192)
    assert encoder.hop_size_in_ms == 40


@pytest.mark.parametrize("step_ms", [12.5, 10.0, 7.3, 33.333, 1_000.0, 60_000.0])
def test_the_hop_is_measured(made_up, step_ms):
    encoder = HearEncoder(made_up, None, {"step_ms": step_ms, "first_ms": step_ms / 2})
    assert encoder.hop_size_in_ms == pytest.approx(step_ms, abs=2e-3)
    assert (encoder.sampling_rate, encoder.output_dim) == (22_050, 3)


def test_moments_that_are_not_evenly_spaced_are_refused(made_up):
    with pytest.raises(ModuleProblem, match=r"are from 12\.5 to 15\.5 ms apart; X-ARES needs evenly spaced"):
        HearEncoder(made_up, None, {"jump_ms": 3.0})
    with pytest.raises(ModuleProblem, match="gives 2 moments in 256 s of audio; a hop cannot be measured"):
        HearEncoder(made_up, None, {"step_ms": 100_000.0})


def test_moments_that_begin_late_are_warned_of(made_up, caplog):
    with caplog.at_level(logging.WARNING):
        HearEncoder(made_up, None, {"first_ms": 0.0})
        assert "centres it on" not in caplog.text
        HearEncoder(made_up, None, {"first_ms": 500.0})
    assert (
        "X-ARES takes moment 0 for the sound from 0 to 12.5 ms, and made_up_module centres it on 500 ms"
        in (caplog.text)
    )


def test_results_of_different_models_get_different_names(tiny_folder, tmp_path):
    other = str(export(new_encoder("tiny", seed=9), tmp_path / "other"))
    names = {
        class_name("hear_dasheng", str(tiny_folder), {}),
        class_name("hear_dasheng", other, {}),
        class_name("hear_dasheng", other, {"layers": 2}),
        class_name("hear_dasheng", None, {}),
        class_name(LOG_MEL, None, {}),
    }
    assert len(names) == 5
    encoder = HearEncoder("hear_dasheng", other, {"layers": 2})
    assert type(encoder).__name__ == class_name("hear_dasheng", other, {"layers": 2})
    assert type(encoder).__name__.startswith("hear_dasheng_")
    assert isinstance(encoder, HearEncoder)


def test_other_processes_get_the_same_encoder(tiny_folder):
    encoder = HearEncoder("hear_dasheng", str(tiny_folder), {"tail": "pad"})
    again = pickle.loads(pickle.dumps(encoder))
    assert type(again).__name__ == type(encoder).__name__
    clips = noise(1, 1.99)
    assert torch.equal(encoder(clips), again(clips))


def test_the_environment_says_what_is_loaded(monkeypatch, tiny_folder):
    for name in ("HEAR_MODULE", "HEAR_MODEL", "HEAR_OPTIONS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ModuleProblem, match="set HEAR_MODULE, for example to hear_dasheng"):
        HearEncoder()
    monkeypatch.setenv("HEAR_MODULE", "hear_dasheng")
    monkeypatch.setenv("HEAR_MODEL", str(tiny_folder))
    monkeypatch.setenv("HEAR_OPTIONS", '{"layers": [0, 1]}')
    assert HearEncoder().output_dim == 2 * 192
    for text in ("{", "[1]"):
        monkeypatch.setenv("HEAR_OPTIONS", text)
        with pytest.raises(ModuleProblem, match="HEAR_OPTIONS="):
            HearEncoder()
    monkeypatch.setenv("HEAR_OPTIONS", '{"laiers": 1}')
    with pytest.raises(ModuleProblem, match="did you mean 'layers'"):
        HearEncoder()
    monkeypatch.setenv("HEAR_MODULE", "nowhere.at_all")
    with pytest.raises(ModuleProblem, match="cannot be imported"):
        HearEncoder()


def encoded(samples, rate, kind):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_soundfile_decodes_as_webdataset_would(kind):
    samples = 0.1 * np.random.default_rng(0).standard_normal((4_000, 2))
    audio, rate = soundfile_audio(f"some.key.{kind}", encoded(samples, 22_050, kind.upper()))
    assert rate == 22_050
    assert audio.dtype == torch.float32
    assert audio.shape == (2, 4_000)
    if kind != "ogg":
        assert np.abs(audio.numpy().T - samples).max() <= 1e-4
    assert soundfile_audio("some.json", b"{}") is None


def test_a_working_torchcodec_is_left_alone(monkeypatch):
    original = webdataset.torch_audio
    working = types.ModuleType("torchcodec")
    monkeypatch.setitem(sys.modules, "torchcodec", working)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", types.ModuleType("torchcodec.decoders"))
    decode_without_ffmpeg()
    assert webdataset.torch_audio is original
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.delitem(sys.modules, "torchcodec.decoders")
    decode_without_ffmpeg()
    assert webdataset.torch_audio is soundfile_audio
    decode_without_ffmpeg()
    assert webdataset.torch_audio is soundfile_audio


def test_the_modules_need_no_xares():
    for module in (xares_encoder, xares_decoding):
        text = Path(module.__file__).read_text()
        assert not re.search(r"(import|from) xares\b", text)


TASK = """
from xares.task import TaskConfig
def small_config(encoder):
    return TaskConfig(
        name="small", encoder=encoder, k_fold_splits=[1, 2], output_dim=3, eval_weight=12, epochs=20,
        label_processor=lambda x: x["label"], batch_size_train=12, learning_rate=1e-2,
    )
"""


def write_task(folder):
    """Three kinds of sound, four clips of each in two folds, in X-ARES's layout."""
    generator = np.random.default_rng(0)
    times = np.arange(22_050) / 22_050
    (folder / "small_task.py").write_text(TASK)
    data = folder / "env" / "small"
    data.mkdir(parents=True)
    for fold in (1, 2):
        with webdataset.TarWriter(str(data / f"wds-audio-fold-{fold}-000000.tar")) as tar:
            for clip in range(12):
                hum = 0.3 * np.sin(2 * np.pi * generator.uniform(200, 500) * times)
                clicks = np.zeros(len(times))
                clicks[:: generator.integers(2_000, 4_000)] = 0.8
                samples = (hum, 0.1 * generator.standard_normal(len(times)), clicks)[clip % 3]
                label = json.dumps({"label": clip % 3}).encode()
                sample = {"wav": encoded(samples, 22_050, "WAV"), "json": label}
                tar.write({"__key__": f"fold{fold}clip{clip}", **sample})
    (data / ".audio_tar_ready").touch()


@pytest.mark.slow
def test_the_package_runs_a_task_with_it(tmp_path, tiny_folder):
    """Decoding, embedding, its probe and its nearest neighbours, as its command runs them."""
    write_task(tmp_path)
    command = [sys.executable, "-m", "xares.run", "--max-jobs", "0", "eval_recipes/xares_encoder.py"]
    settings = {"HEAR_MODULE": "hear_dasheng", "HEAR_MODEL": str(tiny_folder), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, "small_task.py"],
        cwd=tmp_path,
        env=os.environ | settings | {"PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    name = class_name("hear_dasheng", str(tiny_folder), {})
    scores = tmp_path / "env/small/checkpoints" / name
    mlp, knn = (float((scores / f"{kind}_score.txt").read_text().split()[0]) for kind in ("mlp", "knn"))
    assert "Scoring completed" in result.stdout
    assert knn > 0.8
    assert mlp > 0.5
    tar = tmp_path / "env/small/embeddings" / name / "wds-encoded-fold-1-000000.tar"
    with tarfile.open(tar) as members:
        arrays = [name for name in members.getnames() if name.endswith(".npy")]
        shapes = {np.load(io.BytesIO(members.extractfile(name).read())).shape for name in arrays}
    assert len(arrays) == 12
    assert shapes == {(25, 192)}
