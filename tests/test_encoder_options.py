"""Every option of the published encoder class: the same tokens from the same weights."""

from unittest import mock

import pytest
import torch
from conftest import noise, scaled_error
from hypothesis import given, settings
from hypothesis import strategies as st
from option_cases import OPTIONS, SIZE, SQUARE, every_option, published_model

from hear_dasheng import cpu_linear, get_scene_embeddings, get_timestamp_embeddings, load_model
from hear_dasheng.blocks import Attention
from hear_dasheng.checkpoint import load_encoder
from hear_dasheng.encoder import Encoder
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.export import export, published_weights
from hear_dasheng.hear_model import HearModel
from hear_dasheng.mel import LogMel
from hear_dasheng.patches import patchify
from hear_dasheng.published_options import config_of_kwargs

TOLERANCE = 1e-4
CLIP = noise(1, 2)
pytestmark = pytest.mark.usefixtures("one_thread")


def over_bands(tokens: torch.Tensor, config: EncoderConfig, moments: int) -> torch.Tensor:
    """The published output, window after window with the mel axis outside, as means over the mel axis."""
    full, rest = divmod(moments, config.window_moments)
    lengths = [config.window_moments] * full + ([rest] if rest else [])
    windows = tokens.split([config.bands * length for length in lengths], dim=1)
    parts = [w.unflatten(1, (config.bands, n)).mean(1) for w, n in zip(windows, lengths, strict=True)]
    return torch.cat(parts, dim=1)


@every_option
def test_tokens_equal_the_package(options, tmp_path):
    oracle, path = published_model(options, tmp_path)
    model = load_model(path)
    config = model.encoder.config
    window = CLIP[:, : config.mel.min_samples(config.window_moments * config.patch_frames) - 1]
    tokens = load_encoder(path)(LogMel(config.mel, config.patch_frames)(window))
    theirs = oracle(window)
    assert tokens.shape == theirs.shape
    assert scaled_error(tokens, theirs) <= TOLERANCE
    for seconds in (0.4, 12):
        audio = noise(1, seconds)
        ours, times = get_timestamp_embeddings(audio, model)
        theirs = oracle(audio)
        assert scaled_error(ours, over_bands(theirs, config, times.shape[1])) <= TOLERANCE
        assert scaled_error(get_scene_embeddings(audio, model), theirs.mean(1)) <= TOLERANCE


@every_option
def test_a_new_encoder_has_the_published_names_shapes_and_spreads(options):
    from dasheng.pretrained.pretrained import Dasheng

    torch.manual_seed(0)
    ours = published_weights(Encoder(config_of_kwargs(SIZE | options)))
    theirs = dict(Dasheng(**SIZE, **options).named_parameters())
    assert theirs.keys() <= ours.keys()
    for name, parameter in theirs.items():
        assert ours[name].shape == parameter.shape
        assert ours[name].std().item() == pytest.approx(parameter.std().item(), rel=0.3, abs=1e-2), name
        assert ours[name].mean().item() == pytest.approx(parameter.mean().item(), abs=5e-2), name


@every_option
def test_the_kept_tokens_equal_the_published_training_class(options, tmp_path):
    from dasheng.train.models import AudioTransformerMAE_Encoder

    oracle, path = published_model(options, tmp_path)
    theirs = AudioTransformerMAE_Encoder(**SIZE, **options).eval()
    theirs.load_state_dict(oracle.state_dict())
    encoder = load_encoder(path)
    config = encoder.config
    mel = LogMel(config.mel, config.patch_frames)(noise(3, 1))
    tokens = config.bands * (mel.shape[2] // config.patch_frames)
    order = torch.rand(3, tokens, generator=torch.Generator().manual_seed(1)).argsort(1)
    kept = order[:, : tokens // 4]

    def mask(x, _):
        return x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2])), None, None

    theirs.masking_func = mask
    spectrogram = theirs.init_bn(mel[:, None])
    assert scaled_error(encoder(mel, kept=kept), theirs.forward_features(spectrogram, 0.75)[0]) <= TOLERANCE


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 40), st.integers(0, 40))
def test_patches_equal_torchs_unfold(patch_mels, patch_frames, more_mels, more_frames):
    mel = torch.randn(2, patch_mels + more_mels, patch_frames + more_frames)
    unfold = torch.nn.Unfold((patch_mels, patch_frames), stride=(patch_mels, patch_frames))
    assert torch.equal(patchify(mel, patch_mels, patch_frames), unfold(mel[:, None]).transpose(1, 2))


def test_more_sound_than_positions_is_an_error():
    encoder = Encoder(config_of_kwargs(SIZE | SQUARE | {"target_length": 64}))
    with pytest.raises(ValueError, match="5 moments of 16 frames are more than the 4"):
        encoder(torch.zeros(1, 64, 80))


def test_dropout_is_where_the_published_class_has_it(tmp_path):
    """Dropout is replaced by its expected factor, so that the order of random numbers plays no part."""
    from dasheng.train.models import AudioTransformerMAE_Encoder

    options = {"drop_rate": 0.4, "init_values": 0.5}
    theirs = AudioTransformerMAE_Encoder(**SIZE, **options).train()
    theirs.masking_func = lambda x, _: (x, None, None)
    path = tmp_path / "published.pt"
    torch.save({"model": theirs.state_dict(), "config": SIZE | options}, path)
    ours = load_encoder(path).train()
    mel = LogMel()(noise(2, 1))

    def factor(x, p=0.5, training=True, inplace=False):
        return x * (1 - p) if training else x

    with mock.patch("torch.nn.functional.dropout", factor):
        training = ours(mel)
        assert (
            scaled_error(training, theirs.forward_features(theirs.init_bn(mel[:, None]), 0)[0]) <= TOLERANCE
        )
    assert scaled_error(training, ours.eval()(mel)) > 1e-2


def test_attention_dropout_drops_weights_in_training_alone():
    torch.manual_seed(0)
    attention = Attention(8, 2, attention_dropout=0.5).eval()
    x = torch.randn(1, 5, 8).expand(4_000, -1, -1)
    expected = attention(x[:1], None)
    assert torch.equal(attention(x[:1], None), expected)
    draws = attention.train()(x, None)
    assert draws.std(0).min() > 0.01
    torch.testing.assert_close(draws.mean(0), expected[0], atol=0.03, rtol=0)


def test_an_encoder_hands_attention_dropout_to_its_blocks():
    torch.manual_seed(0)
    encoder = Encoder(config_of_kwargs(SIZE | {"attn_drop_rate": 0.5}))
    mel = torch.randn(1, 64, 100)
    assert not torch.equal(encoder(mel), encoder(mel))
    assert torch.equal(encoder.eval()(mel), encoder(mel))


def test_attention_dropout_works_in_bf16_without_gradients():
    torch.manual_seed(0)
    attention = Attention(8, 2, attention_dropout=0.5).bfloat16().train()
    x = torch.randn(1, 5, 8)
    with torch.no_grad():
        assert not torch.equal(attention(x, None), attention(x, None))


@pytest.mark.parametrize("name", ["no qkv bias", "MLP of a broken width", "layer scale", "all at once"])
def test_packing_is_exact_and_undone_bit_for_bit(name, monkeypatch):
    torch.manual_seed(0)
    model = HearModel(Encoder(config_of_kwargs(SIZE | OPTIONS[name])))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    packed = get_timestamp_embeddings(CLIP, model)[0]
    if cpu_linear.is_supported(torch.float32):
        assert isinstance(model.encoder.blocks[0].mlp.fc1, cpu_linear.PackedLinear)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    monkeypatch.setattr(cpu_linear, "is_supported", lambda dtype: False)
    assert scaled_error(packed, get_timestamp_embeddings(CLIP, model)[0]) <= 1e-5


def test_bf16_is_close_with_every_option(tmp_path):
    torch.manual_seed(0)
    folder = export(Encoder(config_of_kwargs(SIZE | OPTIONS["all at once"])), tmp_path / "model")
    exact, rough = (get_scene_embeddings(CLIP, load_model(folder, precision=p)) for p in ("fp32", "bf16"))
    assert 1e-6 < scaled_error(rough, exact) < 2e-2
