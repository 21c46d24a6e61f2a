"""Modules by name, batches by length, reading ahead: what embedding clips rests on."""

import sys

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from eval_recipes.embedding.clips import (
    Clip,
    ClipProblem,
    clips_of,
    embed_clips,
    plan_batches,
    read_clip,
    scene_embeddings,
)
from eval_recipes.embedding.module import Embedding, HearModule, ModuleProblem, load_module

LOG_MEL = "eval_recipes.baselines.log_mel"


@pytest.fixture
def files(tmp_path):
    """Clips of several lengths, rates, channel counts and formats."""
    generator = np.random.default_rng(0)
    paths = []
    for number, (seconds, rate_hz, channels, format_) in enumerate(
        [(0.5, 16_000, 1, "wav"), (2.0, 44_100, 2, "flac"), (0.5, 16_000, 1, "flac"), (1.3, 8_000, 1, "ogg")]
    ):
        path = tmp_path / f"{number}.{format_}"
        soundfile.write(path, 0.1 * generator.standard_normal((int(seconds * rate_hz), channels)), rate_hz)
        paths.append(path)
    return paths


@given(st.lists(st.floats(0.01, 30), max_size=40), st.floats(0.1, 120))
def test_batches_hold_each_clip_once_within_the_budget(seconds, budget):
    clips = [Clip(None, length) for length in seconds]
    batches = plan_batches(clips, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(clips)))
    for batch in batches:
        longest = max(seconds[index] for index in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
    order = [seconds[index] for batch in batches for index in batch]
    assert order == sorted(order, reverse=True)


def test_files_of_any_kind_are_embedded_as_alone(files, tiny_folder):
    module = load_module("hear_dasheng", str(tiny_folder))
    assert module.takes_lengths
    together = np.full((4, module.scene_size), np.nan, np.float32)
    for indices, rows in scene_embeddings(module, files):
        together[indices] = rows
    from hear_dasheng.embed_files import scene_embeddings_of_files

    alone = scene_embeddings_of_files(files, module.model, progress=False)
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


def test_without_lengths_only_equal_clips_share_a_call(files):
    module = load_module(LOG_MEL)
    assert not module.takes_lengths
    calls = []
    embed = module._scene
    module._scene = lambda audio, model: calls.append(tuple(audio.shape)) or embed(audio, model)
    found = dict(pair for batch in embed_clips(module, clips_of(files), [[0, 1, 2, 3]]) for pair in batch)
    assert sorted(found) == [0, 1, 2, 3]
    assert sorted(calls) == [(1, 20_800), (1, 32_000), (2, 8_000)]
    alone = module.scenes([read_clip(files[1], 16_000)])[0]
    np.testing.assert_array_equal(found[1].values, alone.values)


def test_moments_end_where_the_clip_ends(files, tiny_folder):
    module = load_module("hear_dasheng", str(tiny_folder))
    clips = [read_clip(path, 16_000) for path in files]
    for clip, (values, times) in zip(clips, module.moments(clips), strict=True):
        alone = module.moments([clip])[0]
        assert values.shape == alone.values.shape == (len(times), module.timestamp_size)
        np.testing.assert_array_equal(times, alone.timestamps_ms)
        np.testing.assert_allclose(values, alone.values, rtol=0, atol=1e-5 * np.abs(alone.values).max())


class SmallMemory:
    """A HEAR module on a device that holds three clips."""

    def __init__(self):
        self.sizes = []

    def get_scene_embeddings(self, audio, model):
        if len(audio) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.sizes.append(len(audio))
        return audio[:, :1]

    def get_timestamp_embeddings(self, audio, model):
        raise NotImplementedError


def test_a_batch_too_large_for_the_memory_is_halved(tmp_path):
    for number in range(10):
        soundfile.write(tmp_path / f"{number}.wav", np.full(160, number / 100), 16_000, subtype="FLOAT")
    model = torch.nn.Identity()
    model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size = 16_000, 1, 1
    api = SmallMemory()
    module = HearModule("small", api, model, torch.device("cpu"))
    paths = [tmp_path / f"{number}.wav" for number in range(10)]
    ((indices, rows),) = scene_embeddings(module, paths)
    assert api.sizes == [2, 3, 2, 3]
    np.testing.assert_allclose(rows[np.argsort(indices), 0], np.arange(10) / 100, atol=1e-7)


class Picky:
    """A HEAR module that raises an error for loud clips, or for any in a batch of several."""

    def __init__(self, error, largest_batch=99):
        self.error, self.largest_batch = error, largest_batch

    def get_scene_embeddings(self, audio, model):
        if audio.max() > 1:
            self.error()
        if len(audio) > self.largest_batch:
            raise ValueError(f"{len(audio)} clips are too many")
        return audio[:, :1]

    def get_timestamp_embeddings(self, audio, model):
        raise NotImplementedError


def picky_module(*arguments) -> HearModule:
    model = torch.nn.Identity()
    model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size = 16_000, 1, 1
    return HearModule("picky", Picky(*arguments), model, torch.device("cpu"))


def refuses():
    raise ValueError("audio must be in [-1, 1]\nsee the docs")


def machine_has_too_little_memory():
    torch.empty(1 << 50)


def gpu_has_too_little_memory():
    raise torch.OutOfMemoryError("CUDA out of memory")


def numpy_has_too_little_memory():
    np.empty(1 << 55)


@pytest.fixture
def one_loud(tmp_path):
    for number in range(10):
        soundfile.write(tmp_path / f"{number}.wav", np.full(160, number / 10), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "6.wav", np.full(160, 200.0), 16_000, subtype="FLOAT")
    return [tmp_path / f"{number}.wav" for number in range(10)]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refuses, r"/6\.wav: the module refuses it: audio must be in \[-1, 1\]$"),
        (machine_has_too_little_memory, r"/6\.wav: its 0\.0 s are too much for the memory: .*allocate"),
        (gpu_has_too_little_memory, r"/6\.wav: its 0\.0 s are too much for the memory: CUDA out"),
        (numpy_has_too_little_memory, r"/6\.wav: its 0\.0 s are too much for the memory: Unable"),
    ],
)
def test_the_clip_that_a_module_stumbles_over_is_named(one_loud, error, message):
    with pytest.raises(ClipProblem, match=message):
        list(scene_embeddings(picky_module(error), one_loud))


def test_a_module_that_refuses_only_large_batches_gets_small_ones(one_loud):
    ((indices, rows),) = scene_embeddings(picky_module(lambda: None, 2), one_loud)
    assert len(indices) == 10
    assert rows[indices.index(3), 0] == np.float32(0.3)


def test_a_modules_own_faults_are_not_a_clips(one_loud):
    module = picky_module(lambda: 1 / 0)
    with pytest.raises(ModuleProblem, match=r"picky fails: ZeroDivisionError: .*; at .*wav and 9 more"):
        list(scene_embeddings(module, one_loud))
    module.scene_size = 2
    with pytest.raises(ModuleProblem, match="gives the shape"):
        list(scene_embeddings(module, one_loud[:3]))


def test_a_clip_out_of_range_is_named_with_our_encoder(one_loud, tiny_folder):
    with pytest.raises(ClipProblem, match=r"/6\.wav: the module refuses it: .*200"):
        list(scene_embeddings(load_module("hear_dasheng", str(tiny_folder)), one_loud))


def test_files_that_cannot_be_read_are_named(files, tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    module = load_module(LOG_MEL)
    for path, message in [
        (tmp_path / "text.wav", r"text\.wav cannot be read"),
        (tmp_path / "absent.wav", r"absent\.wav cannot be read"),
        (tmp_path / "empty.wav", r"empty\.wav holds no samples"),
    ]:
        with pytest.raises(ClipProblem, match=message):
            list(scene_embeddings(module, [*files, path]))


BROKEN = {
    "": "is no HEAR module: it has no load_model, get_scene_embeddings, get_timestamp_embeddings",
    "load_model = lambda: 1": "gives a int, and only torch's models are run here",
    "load_model = lambda: torch.nn.Identity().eval()": "has no sample_rate, scene_embedding_size, time",
    "load_model = lambda: Model().train()": "model in training mode",
    "def load_model(path): raise ValueError('too old')": r"load_model\(weights\) failed: too old",
    "import not_there": "cannot be imported: No module named 'not_there'",
}


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_modules_that_are_none_are_refused(tmp_path, monkeypatch, number):
    source, message = list(BROKEN.items())[number]
    functions = "get_scene_embeddings = get_timestamp_embeddings = print" if source else ""
    model = (
        "class Model(torch.nn.Module):\n    sample_rate = 16000\n    "
        "scene_embedding_size = timestamp_embedding_size = 1"
    )
    (tmp_path / f"broken{number}.py").write_text(f"import torch\n{model}\n{functions}\n{source}\n")
    (tmp_path / "weights").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(ModuleProblem, match=message):
        load_module(f"broken{number}", "weights" if "path" in source else None)


def test_a_scene_has_no_timestamps():
    assert Embedding(np.zeros(3)).timestamps_ms is None
