"""AudioMAE and MSM-MAE as HEAR modules, against timm, torchaudio, librosa and a forward pass written out."""

import argparse
import shutil

import librosa
import pytest
import torch
from conftest import noise
from peer_cases import (
    PATCH_DIM,
    assert_alone_as_in_company,
    close,
    save_audiomae,
    save_msm_mae,
    timm_vit,
    torchaudio_fbank,
)
from torch.nn import functional as F

from eval_recipes.baselines import audiomae, msm_mae
from eval_recipes.baselines.kaldi_mel import kaldi_mel
from eval_recipes.baselines.weight_files import find_weights

pytestmark = pytest.mark.usefixtures("one_thread")

MODULES = {"audiomae": audiomae, "audiomae-finetuned": audiomae, "msm_mae": msm_mae}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("spectrogram_peers")
    return {
        "audiomae": save_audiomae(root / "pretrained"),
        "audiomae-finetuned": save_audiomae(root / "finetuned", finetuned=True),
        "msm_mae": save_msm_mae(root),
    }


@pytest.fixture(scope="module")
def models(files):
    return {kind: MODULES[kind].load_model(str(file)) for kind, file in files.items()}


def audiomae_oracle(clip, finetuned):
    """As the authors do it: torchaudio, zeros up to 1024 frames, timm; then the mean over all mel bands."""
    frames = torchaudio_fbank(clip - clip.mean(), 128)
    vit = timm_vit((1024, 128))
    assert vit.norm.eps == 1e-6
    moments = []
    for window in frames.split(1024):
        image = (F.pad(window, (0, 0, 0, 1024 - len(window))) + 4.2677393) / (2 * 4.5689974)
        with torch.no_grad():
            x = vit.patch_embed(image[None, None])
            x = torch.cat([vit.cls_token, x], 1) + vit.pos_embed
            for block in vit.blocks:
                x = block(x)
            x = x if finetuned else vit.norm(x)
        moments.append(x[0, 1:].reshape(64, 8, PATCH_DIM).mean(1)[: (len(window) + 8) // 16])
    return torch.cat(moments), vit.norm if finetuned else torch.nn.Identity()


@pytest.mark.parametrize("kind", ["audiomae", "audiomae-finetuned"])
@pytest.mark.parametrize("seconds", [1, 10, 10.24, 23.4])
def test_audiomae_is_the_published_recipe(kind, seconds, models):
    audio = noise(1, seconds) + 0.1
    expected, last = audiomae_oracle(audio[0], finetuned="finetuned" in kind)
    tokens, times = audiomae.get_timestamp_embeddings(audio, models[kind])
    assert tokens.dtype == torch.float32
    with torch.no_grad():
        assert close(tokens[0], last(expected))
        assert close(audiomae.get_scene_embeddings(audio, models[kind])[0], last(expected.mean(0)))
    assert torch.equal(times[0], 87.5 + 160.0 * torch.arange(len(expected)))


def msm_oracle(clip, state, frames, statistics=None):
    """The authors' encoder written out: librosa's mel, batch of one, key bias zero, (f d) side by side."""
    mel = librosa.feature.melspectrogram(
        y=clip.numpy(),
        sr=16_000,
        n_fft=400,
        hop_length=160,
        n_mels=80,
        fmin=50,
        fmax=8_000,
        pad_mode="reflect",
    )
    log_mel = (torch.from_numpy(mel) + torch.finfo().eps).log()
    mean, std = statistics or (log_mel.mean(), log_mel.std())
    log_mel = (log_mel - mean) / std
    n_frames = log_mel.shape[1]
    log_mel = F.pad(log_mel, (0, frames - n_frames % frames))
    has_class = "cls_token" in state
    out = []
    for window in log_mel.split(frames, dim=1)[: -(-n_frames // frames)]:
        weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
        x = F.conv2d(window[None, None], weight, bias, stride=16).flatten(2).mT
        x = x + state["pos_embed"][:, has_class:]
        if has_class:
            x = torch.cat([state["cls_token"] + state["pos_embed"][:, :1], x], dim=1)
        for index in range(2):
            part = {k.removeprefix(f"blocks.{index}."): v for k, v in state.items()}
            normed = F.layer_norm(x, (PATCH_DIM,), part["norm1.weight"], part["norm1.bias"], 1e-6)
            bias = torch.cat([part["attn.q_bias"], torch.zeros(PATCH_DIM), part["attn.v_bias"]])
            query, key, value = F.linear(normed, part["attn.qkv.weight"], bias).chunk(3, dim=-1)
            attended = (query @ key.mT / PATCH_DIM**0.5).softmax(-1) @ value
            x = x + F.linear(attended, part["attn.proj.weight"], part["attn.proj.bias"])
            normed = F.layer_norm(x, (PATCH_DIM,), part["norm2.weight"], part["norm2.bias"], 1e-6)
            inner = F.gelu(F.linear(normed, part["mlp.fc1.weight"], part["mlp.fc1.bias"]))
            x = x + F.linear(inner, part["mlp.fc2.weight"], part["mlp.fc2.bias"])
        x = F.layer_norm(x, (PATCH_DIM,), state["norm.weight"], state["norm.bias"], 1e-6)[0, has_class:]
        out.append(x.reshape(5, frames // 16, PATCH_DIM).transpose(0, 1).flatten(1))
    return torch.cat(out)[: -(-n_frames // 16)]


@pytest.mark.parametrize("frames", [96, 208, 512])
@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("seconds", [1, 4.15, 10])
def test_msm_mae_is_the_published_runtime_on_one_clip(frames, class_token, seconds, tmp_path):
    file = save_msm_mae(tmp_path, frames=frames, class_token=class_token, wrapped=class_token)
    state = torch.load(file, weights_only=True)
    audio = noise(1, seconds)
    expected = msm_oracle(audio[0], state.get("model", state), frames)
    model = msm_mae.load_model(file.parent)
    tokens, times = msm_mae.get_timestamp_embeddings(audio, model)
    assert tokens.shape[2] == model.scene_embedding_size == 5 * PATCH_DIM
    assert close(msm_mae.get_scene_embeddings(audio, model)[0], expected.mean(0))
    centres = 75 + 160.0 * torch.arange(len(expected))
    within = centres <= 1_000 * seconds
    assert len(within) - within.sum() <= 1
    assert close(tokens[0], expected[within])
    assert torch.equal(times[0], centres[within])


def test_msm_mae_takes_a_data_sets_statistics(files):
    audio, state = noise(1, 2), torch.load(files["msm_mae"], weights_only=True)
    model = msm_mae.load_model(files["msm_mae"], statistics=[-5.5, 5.0])
    expected = msm_oracle(audio[0], state, 208, (-5.5, 5.0))
    assert close(msm_mae.get_scene_embeddings(audio, model)[0], expected.mean(0))


@pytest.mark.parametrize("kind", MODULES)
def test_a_clip_is_the_same_alone_in_a_batch_and_before_padding(kind, models):
    assert_alone_as_in_company(MODULES[kind], models[kind], noise(3, 11), [176_000, 50_000, 300])


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("n_samples", [1, 399, 1_000, 35 * 16_000])
def test_any_length(kind, n_samples, models):
    module, model = MODULES[kind], models[kind]
    audio = noise(2, 35)[:, :n_samples]
    tokens, times = module.get_timestamp_embeddings(audio, model)
    assert tokens.shape[:2] == times.shape
    assert tokens.isfinite().all()
    assert (times <= n_samples / 16).all()
    assert abs(times.shape[1] - n_samples / 2_560) <= 1
    assert module.get_scene_embeddings(audio, model).shape == (2, model.scene_embedding_size)
    silence = module.get_scene_embeddings(torch.zeros(1, n_samples), model)
    assert silence.isfinite().all()


@pytest.mark.parametrize("kind", MODULES)
def test_a_sound_is_found_at_its_time(kind, models):
    """Before attention: the patches that differ from silence are those around the sound."""
    model = models[kind]
    audio = 1e-3 * noise(1, 2)
    audio[0, 16_000:17_600] += torch.sin(torch.arange(1_600) / 3)  # 1000 to 1100 ms
    encoder = model.encoder
    image = encoder.log_mel(audio[0]) if kind == "msm_mae" else kaldi_mel(audio[0], 128)
    energy = image.exp().sum(1)
    per_moment = energy[: len(energy) // 16 * 16].reshape(-1, 16).sum(1)
    times = model.times_ms(len(per_moment), audio.shape[1])
    assert abs((per_moment * times).sum() / per_moment.sum() - 1_050) < 80
    assert abs(times[per_moment.argmax()] - 1_050) <= 80


class TestFiles:
    def test_a_timm_folder_serves_as_well(self, files, models, tmp_path):
        from safetensors.torch import save_file

        save_file(timm_vit((1024, 128)).state_dict(), tmp_path / "model.safetensors")
        audio = noise(1, 1)
        scene = audiomae.get_scene_embeddings
        assert torch.equal(scene(audio, audiomae.load_model(tmp_path)), scene(audio, models["audiomae"]))

    @pytest.mark.parametrize("source", ["someone/peer", "someone/peer/checkpoint-100.pth"])
    def test_the_local_hub_cache_serves_an_id(self, source, files, tmp_path, monkeypatch):
        revision = "0" * 40
        repository = tmp_path / "models--someone--peer"
        snapshot = repository / "snapshots" / revision
        snapshot.mkdir(parents=True)
        is_named = source.endswith(".pth")
        shutil.copy(files["msm_mae"], snapshot / ("checkpoint-100.pth" if is_named else "pytorch_model.bin"))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(revision)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert find_weights(source).is_file()

    def test_nothing_there(self, tmp_path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(FileNotFoundError, match="no file or folder no/where"):
            audiomae.load_model("no/where")
        with pytest.raises(FileNotFoundError, match="it is no Hub id"):
            audiomae.load_model("/no/where/at/all.pth")
        with pytest.raises(FileNotFoundError, match="holds 0 files of weights"):
            audiomae.load_model(tmp_path)
        with pytest.raises(ValueError, match="give the path of a checkpoint"):
            msm_mae.load_model()

    def test_another_model(self, tmp_path, tiny_pt, files):
        with pytest.raises(ValueError, match="is no encoder of spectrogram patches"):
            audiomae.load_model(tiny_pt)
        with pytest.raises(ValueError, match=r"does not fit the encoder: .*pos_embed"):
            msm_mae.load_model(files["audiomae"])

    def test_incomplete(self, tmp_path, files):
        state = torch.load(files["msm_mae"], weights_only=True)
        del state["blocks.1.norm2.bias"]
        torch.save(state, tmp_path / "lacking.pth")
        with pytest.raises(ValueError, match=r"does not fit the encoder: .*blocks\.1\.norm2\.bias"):
            msm_mae.load_model(tmp_path / "lacking.pth")

    def test_damaged_or_unsafe(self, tmp_path, files):
        damaged = tmp_path / "damaged.pth"
        damaged.write_bytes(files["audiomae"].read_bytes()[:5_000])
        with pytest.raises(ValueError, match="is damaged or no file of weights"):
            audiomae.load_model(damaged)
        torch.save({"model": {}, "args": argparse.ArgumentParser}, tmp_path / "unsafe.pth")
        with pytest.raises(ValueError, match=r"asks to call argparse\.ArgumentParser"):
            audiomae.load_model(tmp_path / "unsafe.pth")

    @pytest.mark.parametrize("statistics", [[1.0], [0.0, 0.0], [1.0, float("nan")]])
    def test_impossible_statistics(self, statistics, files):
        with pytest.raises(ValueError, match=r"statistics=\[.*give \[mean, std\]"):
            msm_mae.load_model(files["msm_mae"], statistics=statistics)


class TestWrongAudio:
    def test_it_is_named(self, models):
        model, scene = models["msm_mae"], msm_mae.get_scene_embeddings
        with pytest.raises(TypeError, match=r"not torch\.int16"):
            scene(torch.zeros(1, 10, dtype=torch.int16), model)
        with pytest.raises(ValueError, match=r"not \(10,\)"):
            scene(torch.zeros(10), model)
        with pytest.raises(ValueError, match="nan in sound 1 at sample 2"):
            scene(torch.tensor([[0.0, 0, 0], [0, 0, torch.nan]]), model)
        with pytest.raises(ValueError, match=r"lengths\[1\] is 11"):
            scene(torch.zeros(2, 10), model, [10, 11])
        with pytest.raises(ValueError, match="one number for each of the 2 sounds"):
            scene(torch.zeros(2, 10), model, [10])
        with pytest.raises(ValueError, match=r"lengths\[0\] is 1\.5"):
            scene(torch.zeros(2, 10), model, [1.5, 2.0])

    def test_it_stays_in_evaluation_mode(self, models):
        assert not models["audiomae"].train().training
