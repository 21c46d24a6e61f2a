"""CED as a HEAR module, against the package `dasheng` with 16 x 16 patches."""

import json

import pytest
import torch
from conftest import noise, oracle_of, scaled_error

from eval_recipes.baselines import ced
from hear_dasheng.sizes import heads_of

pytestmark = pytest.mark.usefixtures("one_thread")

DIM, DEPTH, HEADS = 192, 12, 3  # CED-Tiny
HEAD = {
    "outputlayer.0.weight": torch.ones(DIM),
    "outputlayer.0.bias": torch.zeros(DIM),
    "outputlayer.1.weight": torch.ones(527, DIM),
    "outputlayer.1.bias": torch.zeros(527),
}
CONFIG = {  # as in a mispeech/ced-* folder
    "architectures": ["CedForAudioClassification"],
    "model_type": "ced",
    "name": "ced-tiny",
    "attn_drop_rate": 0.0,
    "depth": DEPTH,
    "drop_path_rate": 0.0,
    "drop_rate": 0.0,
    "embed_dim": DIM,
    "eval_avg": "mean",
    "init_values": None,
    "mlp_ratio": 4.0,
    "num_heads": HEADS,
    "outputdim": 527,
    "patch_size": 16,
    "patch_stride": 16,
    "pad_last": True,
    "pooling": "mean",
    "qkv_bias": True,
    "target_length": 1012,
    "f_max": 8000,
    "f_min": 0,
    "center": True,
    "hop_size": 160,
    "n_fft": 512,
    "n_mels": 64,
    "win_size": 512,
}


@pytest.fixture(scope="module")
def oracle():
    return oracle_of(DIM, DEPTH, HEADS, patch_size=(16, 16), patch_stride=(16, 16), target_length=1012)


@pytest.fixture(scope="module")
def published(oracle, tmp_path_factory):
    """audiotransformer_tiny_mAP_*.pt: a flat state dict, the classifier in it, heads told nowhere."""
    path = tmp_path_factory.mktemp("ced") / "audiotransformer_tiny_mAP_4814.pt"
    torch.save(oracle.state_dict() | HEAD, path)
    return path


@pytest.fixture(scope="module")
def folder(oracle, tmp_path_factory):
    """A mispeech/ced-* folder: no front end, init_bn without a number, all under "encoder."."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("ced_folder")
    state = {
        "encoder." + name.replace("init_bn.1.", "init_bn."): value.contiguous()
        for name, value in oracle.state_dict().items()
        if not name.startswith("front_end.")
    }
    save_file(state | HEAD, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(CONFIG))
    return path


@pytest.fixture(scope="module")
def model(published):
    return ced.load_model(published)


@pytest.fixture(scope="module")
def native(published):
    return ced.load_model(published, hop_ms=None)


def oracle_moments(oracle, clip):
    """The package on each 1012 frames of the clip's spectrogram; tokens averaged over the mel axis."""
    with torch.inference_mode():
        spectrum = oracle.forward_to_spec(clip[None])
        pieces = [piece for piece in spectrum.split(1012, dim=-1) if piece.shape[-1] >= 16]
        tokens = [oracle.forward_spectrogram(piece)[0] for piece in pieces]
    return torch.cat([own.unflatten(0, (4, -1)).mean(0) for own in tokens])


@pytest.mark.parametrize("seconds", [0.2, 1, 10, 10.11, 10.12, 10.2, 10.5, 25])
def test_moments_and_scenes_are_the_packages(seconds, oracle, native):
    audio = noise(1, seconds)
    expected = oracle_moments(oracle, audio[0])
    moments, times = ced.get_timestamp_embeddings(audio, native)
    assert moments.shape[1:] == expected.shape
    assert scaled_error(moments[0], expected) < 1e-4
    assert scaled_error(ced.get_scene_embeddings(audio, native)[0], expected.mean(0)) < 1e-4
    per_window = [10.0 * 1_012 * (j // 63) + 160.0 * (j % 63) + 75 for j in range(len(expected))]
    assert torch.equal(times[0], torch.tensor(per_window).clamp(max=1_000 * seconds))


def test_a_clip_of_up_to_ten_seconds_is_the_package_itself(oracle, native):
    audio = noise(1, 10)
    with torch.inference_mode():
        expected = oracle(audio).mean(1)
    assert scaled_error(ced.get_scene_embeddings(audio, native), expected) < 1e-4


def test_timestamps_are_the_submissions(oracle, model):
    """HEAR_CED written out: 7677 samples around each 50 ms, zeros beyond the ends, all tokens averaged."""
    audio = noise(1, 0.53)
    embeddings, times = ced.get_timestamp_embeddings(audio, model)
    assert torch.equal(times[0], 50.0 * torch.arange(11))
    padded = torch.nn.functional.pad(audio[0], (3_838, 3_839))
    for index in range(11):
        with torch.inference_mode():
            expected = oracle(padded[800 * index : 800 * index + 7_677][None])[0].mean(0)
        assert scaled_error(embeddings[0, index], expected) < 1e-4


def test_a_sound_moves_the_timestamps_around_it(model, native):
    silence = 1e-3 * noise(1, 4)
    pulse = silence.clone()
    pulse[0, 32_000:32_400] += torch.sin(torch.arange(400) / 2)  # 2000 to 2025 ms
    for chosen, within_ms in ((model, 250), (native, 85)):
        before, times = ced.get_timestamp_embeddings(silence, chosen)
        change = (ced.get_timestamp_embeddings(pulse, chosen)[0] - before)[0].norm(dim=1)
        if chosen is model:  # what does not see it is not moved at all
            assert (times[0, change > 1e-4] - 2_012).abs().max() <= within_ms
        assert abs(times[0, change.argmax()] - 2_012) <= within_ms


def test_folder_and_file_are_the_same_model(folder, model):
    audio = noise(2, 1)
    from_folder = ced.load_model(folder)
    assert torch.equal(ced.get_scene_embeddings(audio, from_folder), ced.get_scene_embeddings(audio, model))
    assert from_folder.sample_rate == 16_000
    assert from_folder.scene_embedding_size == from_folder.timestamp_embedding_size == DIM


@pytest.mark.parametrize("hop_ms", [None, 50])
def test_a_clip_is_the_same_alone_in_a_batch_and_before_padding(hop_ms, published):
    model = ced.load_model(published, hop_ms=hop_ms)
    audio, lengths = noise(3, 11 if hop_ms is None else 1.5), [24_000, 20_000, 1]
    together = ced.get_scene_embeddings(audio, model)
    padded = ced.get_scene_embeddings(audio, model, lengths)
    tokens, times = ced.get_timestamp_embeddings(audio, model, lengths)
    for index, length in enumerate(lengths):
        alone = audio[index : index + 1]
        assert scaled_error(together[index], ced.get_scene_embeddings(alone, model)[0]) < 1e-5
        assert scaled_error(padded[index], ced.get_scene_embeddings(alone[:, :length], model)[0]) < 1e-5
        expected, centres = ced.get_timestamp_embeddings(alone[:, :length], model)
        assert scaled_error(tokens[index, : expected.shape[1]], expected[0]) < 1e-5
        assert torch.equal(times[index, : expected.shape[1]], centres[0])
        assert times[index, expected.shape[1] :].isnan().all()
        assert (centres <= length / 16).all()


@pytest.mark.parametrize(("dim", "heads"), [(192, 3), (256, 4), (384, 6), (768, 12)])
def test_heads_of_the_published_sizes(dim, heads):
    assert heads_of(dim, 12) == heads


class TestWrongUse:
    def test_a_dasheng_checkpoint(self, tiny_pt):
        with pytest.raises(ValueError, match="has patches of 64 mel bands and 4 frames"):
            ced.load_model(tiny_pt)

    def test_another_window(self, tmp_path):
        other = oracle_of(64, 1, 1, patch_size=(16, 16), patch_stride=(16, 16), target_length=512)
        torch.save(other.state_dict(), tmp_path / "other.pt")
        with pytest.raises(ValueError, match="has positions for 32 moments; CED's have 63"):
            ced.load_model(tmp_path / "other.pt", num_heads=1)

    @pytest.mark.parametrize("hop_ms", [0, -50, 0.01, True, "50", float("nan")])
    def test_impossible_hops(self, hop_ms, published):
        with pytest.raises(ValueError, match="option hop_ms="):
            ced.load_model(published, hop_ms=hop_ms)

    def test_tail(self, published):
        with pytest.raises(ValueError, match="option tail='pad'"):
            ced.load_model(published, tail="pad")

    def test_the_other_modules_model(self, tiny_model):
        with pytest.raises(TypeError, match=r"must come from hear_dasheng\.ced's load_model"):
            ced.get_scene_embeddings(torch.zeros(1, 100), tiny_model)
