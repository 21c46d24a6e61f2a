"""Whisper, WavLM, wav2vec 2.0 and Data2Vec as HEAR modules: equal to `transformers`, clip by clip."""

import json
import shutil
from importlib import import_module

import pytest
import torch
from conftest import noise
from peer_cases import WIDTH, assert_alone_as_in_company, close, save_waveform_peer, save_whisper

from eval_recipes import provenance
from eval_recipes.embedding.module import load_module

transformers = pytest.importorskip("transformers")

KINDS = ("whisper", "wavlm", "wav2vec2", "wav2vec2-group", "data2vec")
WAVEFORM_KINDS = KINDS[1:]
MODULES = {kind: import_module(f"eval_recipes.baselines.{kind.split('-')[0]}") for kind in KINDS}
LIBRARY = {"wavlm": "WavLMModel", "data2vec": "Data2VecAudioModel"}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("peers")
    made = {kind: save_waveform_peer(root / kind, kind) for kind in WAVEFORM_KINDS}
    return made | {"whisper": save_whisper(root / "whisper")}


@pytest.fixture(scope="module")
def models(folders):
    return {kind: MODULES[kind].load_model(str(folders[kind])) for kind in KINDS}


def library_waveform(folder, kind, audio, lengths=None):
    """Last hidden state of the library on a padded batch, with its own feature extractor."""
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    model = getattr(transformers, LIBRARY.get(kind, "Wav2Vec2Model")).from_pretrained(folder).eval()
    clips = [
        clip[:length].numpy() for clip, length in zip(audio, lengths or [None] * len(audio), strict=True)
    ]
    inputs = extractor(clips, sampling_rate=16_000, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs if lengths else {"input_values": inputs.input_values}).last_hidden_state


def library_whisper(folder, clip):
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    features = extractor(clip.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        return model.get_encoder()(features).last_hidden_state[0]


@pytest.mark.parametrize("kind", WAVEFORM_KINDS)
@pytest.mark.parametrize("n_samples", [400, 7_777, 48_000])
def test_waveform_tokens_are_the_librarys(kind, n_samples, folders, models):
    audio = noise(2, 3)[:, :n_samples] + 0.05
    module = MODULES[kind]
    expected = library_waveform(folders[kind], kind, audio)
    tokens, _ = module.get_timestamp_embeddings(audio, models[kind])
    assert tokens.dtype == torch.float32
    assert close(tokens, expected)
    assert close(module.get_scene_embeddings(audio, models[kind]), expected.mean(1))


@pytest.mark.parametrize("n_samples", [1, 7_777, 480_000])
def test_whispers_tokens_are_the_librarys(n_samples, folders, models):
    audio = noise(1, 30)[:, :n_samples]
    expected = library_whisper(folders["whisper"], audio[0])[: -(-n_samples // 320)]
    tokens, times = MODULES["whisper"].get_timestamp_embeddings(audio, models["whisper"])
    assert close(tokens[0], expected)
    assert torch.equal(times[0], 20.0 * torch.arange(len(expected)))


def test_without_padding_a_clip_is_what_the_librarys_mask_makes_of_it(folders, models):
    audio, lengths = noise(3, 2), [32_000, 20_000, 9_000]
    expected = library_waveform(folders["wav2vec2"], "wav2vec2", audio, lengths)
    tokens, times = MODULES["wav2vec2"].get_timestamp_embeddings(audio, models["wav2vec2"], lengths)
    for ours, theirs, time in zip(tokens, expected, times, strict=True):
        valid = ~time.isnan()
        assert close(ours[valid], theirs[valid])


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_is_the_same_alone_in_a_batch_and_before_padding(kind, models):
    assert_alone_as_in_company(MODULES[kind], models[kind], noise(3, 1.3), [20_800, 16_000, 320])


@pytest.mark.parametrize("kind", WAVEFORM_KINDS)
def test_over_30_s_the_tokens_go_on_in_equal_windows(kind, folders, models):
    audio = noise(1, 34) + 0.02
    module, model = MODULES[kind], models[kind]
    tokens, times = module.get_timestamp_embeddings(audio, model)
    total = 1 + (34 * 16_000 - 400) // 320
    assert torch.allclose(times[0], 12.5 + 20.0 * torch.arange(total))
    normalized = (audio - audio.mean()) / (audio.var(correction=0) + 1e-7).sqrt()
    half = total // 2
    parts = normalized[:, : half * 320 + 80], normalized[:, half * 320 :]
    assert close(model.encoder._windows(audio[0])[0], parts[0][0])
    with torch.no_grad():
        expected = torch.cat([model.encoder.model(part).last_hidden_state for part in parts], dim=1)
    assert close(tokens, expected)


def test_over_30_s_whisper_takes_consecutive_windows(folders, models):
    audio = noise(1, 31)
    tokens, times = MODULES["whisper"].get_timestamp_embeddings(audio, models["whisper"])
    first = library_whisper(folders["whisper"], audio[0, :480_000])
    second = library_whisper(folders["whisper"], audio[0, 480_000:])[:50]
    assert close(tokens[0], torch.cat([first, second]))
    assert torch.equal(times[0], 20.0 * torch.arange(1_550))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_samples", [1, 100, 401])
def test_clips_too_short_for_a_token_have_one(kind, n_samples, models):
    module, model = MODULES[kind], models[kind]
    audio = noise(2, 1)[:, :n_samples]
    tokens, times = module.get_timestamp_embeddings(audio, model)
    assert tokens.shape[1] == (2 if kind == "whisper" and n_samples > 320 else 1)
    assert tokens.isfinite().all()
    assert (times <= n_samples / 16).all()
    assert module.get_scene_embeddings(audio, model).shape == (2, WIDTH)


@pytest.mark.parametrize("kind", KINDS)
def test_an_impulse_moves_the_tokens_around_it(kind, models):
    """The convolutions alone, before attention: what a token sees lies around its centre."""
    model = models[kind]
    n_samples = 48_000
    if kind == "whisper":
        pulse = torch.zeros(1, n_samples)
        pulse[0, 24_000] = 1.0  # 1500 ms
        log_mel = model.encoder._log_mel(list(pulse))
        conv = torch.nn.functional.gelu(model.encoder.encoder.conv1(log_mel))
        conv = model.encoder.encoder.conv2(conv)[0].T
        change = (conv - conv[10]).abs().sum(1)[:150]
        change[0] = 0  # sees the zeros before the first frame
    else:
        conv = model.encoder.model.feature_extractor
        silence = 0.01 * noise(1, 3)
        pulse = silence.clone()
        pulse[0, 24_000] += 1.0
        with torch.no_grad():
            change = (conv(pulse) - conv(silence))[0].abs().sum(0)
            if kind == "wav2vec2-group":  # its statistics are the clip's: everything moves a little
                change = (change - change.median()).clamp(min=0)
    times = model.times_ms(len(change), n_samples)
    weight = change / change.sum()
    assert abs((weight * times).sum() - 1_500) <= 10
    assert (times[change > 0.05 * change.max()] - 1_500).abs().max() <= 25


def test_old_pytorch_files_load_as_well(folders, models, tmp_path):
    """The published wav2vec2 weights: a pickle, and weight norm under its old names."""
    from safetensors.torch import load_file

    shutil.copytree(folders["wav2vec2"], tmp_path, dirs_exist_ok=True)
    new, old = "parametrizations.weight.original", "weight_"
    state = {
        name.replace(f"{new}0", f"{old}g").replace(f"{new}1", f"{old}v"): value
        for name, value in load_file(tmp_path / "model.safetensors").items()
    }
    assert any(name.endswith("weight_g") for name in state)
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    audio = noise(1, 1)
    scene = MODULES["wav2vec2"].get_scene_embeddings
    assert torch.equal(
        scene(audio, MODULES["wav2vec2"].load_model(tmp_path)), scene(audio, models["wav2vec2"])
    )


def test_the_local_hub_cache_serves_an_id(folders, tmp_path, monkeypatch):
    revision = "0" * 40
    repository = tmp_path / "models--someone--wavlm-tiny"
    shutil.copytree(folders["wavlm"], repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    loaded = load_module("eval_recipes.baselines.wavlm", "someone/wavlm-tiny")
    assert loaded.scene_size == WIDTH
    identity = provenance.model_identity(loaded.name, "someone/wavlm-tiny", {}, loaded.checkpoint_path)
    assert identity["checkpoint"] == f"someone/wavlm-tiny@{revision}"
    expected = provenance.sha256_of(folders["wavlm"] / "model.safetensors")
    assert identity["checkpoint_sha256"] == {"model.safetensors": expected}
    monkeypatch.setattr("eval_recipes.baselines.wavlm.PUBLISHED", "someone/wavlm-tiny")
    found = load_module("eval_recipes.baselines.wavlm").checkpoint_path
    assert provenance.model_identity(loaded.name, None, {}, found) == identity


class TestWrongModels:
    def test_of_another_kind(self, folders):
        with pytest.raises(ValueError, match=r"type 'wavlm', and this peer is 'wav2vec2'"):
            MODULES["wav2vec2"].load_model(folders["wavlm"])

    def test_nothing_there(self, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(FileNotFoundError, match="no folder 'no/where'"):
            MODULES["whisper"].load_model("no/where")

    def test_a_file_for_a_folder(self, folders):
        with pytest.raises(ValueError, match="is a file; give the folder"):
            MODULES["whisper"].load_model(folders["whisper"] / "model.safetensors")

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_file_of_it_missing(self, kind, folders, tmp_path):
        shutil.copytree(folders[kind], tmp_path, dirs_exist_ok=True)
        (tmp_path / "preprocessor_config.json").unlink()
        with pytest.raises(FileNotFoundError, match=r"has no preprocessor_config\.json"):
            MODULES[kind].load_model(tmp_path)

    @pytest.mark.parametrize("kind", KINDS)
    def test_weights_missing(self, kind, folders, tmp_path):
        from safetensors.torch import load_file, save_file

        shutil.copytree(folders[kind], tmp_path, dirs_exist_ok=True)
        state = load_file(tmp_path / "model.safetensors")
        name = next(key for key in state if "encoder.layers.1." in key and "k_proj.weight" in key)
        save_file({key: value for key, value in state.items() if key != name}, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=r"lacks 1 weights, such as .*layers\.1\..*k_proj"):
            MODULES[kind].load_model(tmp_path)

    @pytest.mark.parametrize("kind", KINDS)
    def test_weights_of_another_shape(self, kind, folders, tmp_path):
        shutil.copytree(folders[kind], tmp_path, dirs_exist_ok=True)
        config = json.loads((tmp_path / "config.json").read_text())
        config["encoder_ffn_dim" if kind == "whisper" else "intermediate_size"] = 48
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="cannot be loaded|is incomplete"):
            MODULES[kind].load_model(tmp_path)

    def test_damaged(self, folders, tmp_path):
        shutil.copytree(folders["whisper"], tmp_path, dirs_exist_ok=True)
        weights = tmp_path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1_000])
        with pytest.raises((ValueError, FileNotFoundError), match="cannot be loaded"):
            MODULES["whisper"].load_model(tmp_path)
