"""EncoderConfig and the published keyword arguments: there, back, and errors in the published words."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from option_cases import SIZE, every_option

from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.mel import LogMel, MelConfig
from hear_dasheng.published_options import config_of_kwargs, encoder_kwargs


@every_option
def test_the_configuration_round_trips(options):
    config = config_of_kwargs(SIZE | options)
    kwargs = encoder_kwargs(config)
    assert config_of_kwargs(kwargs) == config
    assert config_of_kwargs(json.loads(json.dumps(kwargs))) == config
    assert encoder_kwargs(config_of_kwargs(kwargs)) == kwargs


@given(
    kwargs=st.fixed_dictionaries(
        {key: st.just(value) for key, value in SIZE.items()},
        optional={
            "target_length": st.integers(4, 3_000),
            "mlp_ratio": st.floats(0.1, 8) | st.integers(1, 8),
            "qkv_bias": st.booleans(),
            "init_values": st.none() | st.floats(1e-6, 1),
            "drop_rate": st.floats(0, 0.99),
            "attn_drop_rate": st.floats(0, 0.99),
            "win_size": st.integers(1, 512),
            "hop_size": st.integers(1, 1_000),
            "n_mels": st.integers(64, 200),
            "f_min": st.floats(0, 3_000) | st.integers(0, 3_000),
            "f_max": st.none() | st.floats(3_001, 8_000),
            "center": st.booleans(),
            "top_db": st.none() | st.floats(1, 200),
        },
    )
)
def test_any_configuration_round_trips(kwargs):
    config = config_of_kwargs(kwargs)
    assert config_of_kwargs(encoder_kwargs(config)) == config
    assert config.window_moments == kwargs.get("target_length", 1008) // 4


def test_the_released_options_are_not_written():
    assert encoder_kwargs(EncoderConfig.of_size("base")) == {
        "depth": 12,
        "embed_dim": 768,
        "num_heads": 12,
        "patch_size": [64, 4],
        "patch_stride": [64, 4],
        "target_length": 1008,
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mlp_ration": 4}, "'mlp_ration'; did you mean 'mlp_ratio'"),
        ({"outputdim": 527}, "unknown encoder option 'outputdim'; there are patch_size, .*eval_avg"),
        ({"mlp_ratio": -1}, "mlp_ratio=-1: times the width of 48 must be 1 or more"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio=nan"),
        ({"mlp_ratio": "4"}, "mlp_ratio='4'"),
        ({"init_values": "1e-5"}, r"init_values='1e-5'.*YAML.*1.0e-5"),
        ({"init_values": -1}, "init_values=-1: must be a number above 0, or null"),
        ({"qkv_bias": 1}, "qkv_bias=1: must be true or false"),
        ({"drop_rate": 1.0}, "drop_rate=1.0: must be at least 0 and below 1"),
        ({"attn_drop_rate": -0.1}, "attn_drop_rate=-0.1: must be at least 0 and below 1"),
        ({"embed_dim": 0}, "embed_dim=0: must be a whole number above 0"),
        ({"depth": 2.5}, "depth=2.5: must be a whole number"),
        ({"num_heads": 5}, "num_heads=5: 5 attention heads do not divide a width of 48"),
        ({"num_heads": True}, "num_heads=True: must be a whole number"),
        ({"patch_size": [16, 16]}, r"patch_stride=\[64, 4\]: must be given, and equal patch_size=\[16, 16\]"),
        ({"patch_stride": [64, 2]}, r"patch_stride=\[64, 2\]: must be given, and equal patch_size=\[64, 4\]"),
        ({"patch_size": [16]}, r"patch_size=\[16\]: must be two whole numbers"),
        ({"patch_size": [16, 0]}, r"patch_size=0: must be a whole number above 0"),
        ({"patch_size": None}, "patch_size=None: must be two"),
        ({"n_mels": 32}, r"patch_size=64: is more than the 32 mel bands of n_mels"),
        ({"target_length": 3}, "target_length=3: is shorter than a patch of 4 frames"),
        ({"target_length": "10s"}, "target_length='10s': must be a whole number"),
        ({"n_fft": 400}, "win_size=512: is longer than the 400 of n_fft"),
        ({"n_fft": 10**9}, "n_fft=1000000000: must be at most 65536"),
        ({"hop_size": 0}, "hop_size=0: must be a whole number above 0"),
        ({"f_max": 8_001}, "f_max=8001: must be above 0 Hz and at most 8000 Hz"),
        ({"f_min": 8_000}, "f_min=8000: must be at least 0 Hz and below the upper end, 8000 Hz"),
        ({"center": "yes"}, "center='yes': must be true or false"),
        ({"top_db": 0}, "top_db=0: must be a number above 0, or null"),
        ({"pooling": "token"}, "pooling='token': a class token is not supported: .*decoder"),
        ({"block_type": "Conformer"}, "block_type='Conformer': only 'Block' is supported"),
        ({"attention_type": "Linear"}, "attention_type='Linear': only 'Attention' is supported"),
        ({"norm_layer": "RMSNorm"}, "norm_layer='RMSNorm': only null is supported"),
    ],
)
def test_impossible_options_are_named_in_the_published_words(wrong, message):
    with pytest.raises(ValueError, match=message):
        config_of_kwargs(SIZE | wrong)


@pytest.mark.parametrize("key", SIZE)
def test_an_encoder_without_a_size_is_an_error(key):
    with pytest.raises(ValueError, match=f"'{key}' is missing; give embed_dim, depth, num_heads"):
        config_of_kwargs({other: value for other, value in SIZE.items() if other != key})


def test_one_number_is_a_square_patch_as_published():
    config = config_of_kwargs(SIZE | {"patch_size": 16, "patch_stride": 16})
    assert (config.patch_mels, config.patch_frames, config.bands, config.window_moments) == (16, 16, 4, 63)
    assert config.window_tokens == 252


def test_empty_bands_are_said(caplog):
    with caplog.at_level(logging.WARNING):
        LogMel(MelConfig(n_mels=64))
        assert not caplog.records
        LogMel(MelConfig(n_mels=200))
    assert "of 200 mel bands are empty with a 512-point transform" in caplog.text
