"""Encoder options in files: written, read back, read off the weights, refused."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import noise
from hypothesis import given
from hypothesis import strategies as st
from option_cases import OPTIONS, SIZE, SQUARE, every_option, published_model

from hear_dasheng.checkpoint import load_encoder
from hear_dasheng.checkpoint_files import CheckpointError
from hear_dasheng.encoder import Encoder
from hear_dasheng.export import export, published_state, published_weights
from hear_dasheng.published_options import config_of_kwargs, encoder_kwargs

CLIP = noise(1, 2)
pytestmark = pytest.mark.usefixtures("one_thread")


@every_option
def test_exports_round_trip_and_the_package_loads_them(options, tmp_path):
    from dasheng.pretrained.pretrained import Dasheng

    oracle, path = published_model(options, tmp_path)
    encoder = load_encoder(path)
    for layout in ("published", "huggingface"):
        again = load_encoder(export(encoder, tmp_path / layout, layout))
        assert again.config == encoder.config
        for name, value in encoder.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name
    theirs = Dasheng.from_pretrained(str(tmp_path / "published")).eval()
    assert torch.equal(theirs(CLIP), oracle(CLIP))
    state = published_state(encoder)
    assert state.keys() == oracle.state_dict().keys()
    for name, value in oracle.state_dict().items():
        torch.testing.assert_close(state[name], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "name", ["narrow MLP", "MLP of a broken width", "no qkv bias", "short windows", "many small patches"]
)
def test_without_a_config_the_weights_tell_what_they_can(name, tmp_path):
    config = config_of_kwargs(SIZE | OPTIONS[name])
    path = tmp_path / "flat.pt"
    torch.save(published_state(Encoder(config)), path)
    read = load_encoder(path, num_heads=3).config
    assert int(read.mlp_ratio * read.dim) == int(config.mlp_ratio * config.dim)
    assert replace(read, mlp_ratio=config.mlp_ratio) == config


def test_without_a_config_layer_scale_and_bands_are_read_as_well(tmp_path):
    config = config_of_kwargs(SIZE | {"init_values": 0.5, "n_mels": 70} | SQUARE)
    path = tmp_path / "flat.pt"
    torch.save(published_weights(Encoder(config)), path)
    encoder = load_encoder(path, num_heads=3)
    assert encoder.config == replace(config, layer_scale=1e-5)
    assert (encoder.blocks[1].ls2.gamma == 0.5).all()


@given(inner_dim=st.integers(1, 10_000), dim=st.integers(1, 3_000))
def test_an_mlp_ratio_is_found_for_any_inner_width(inner_dim, dim):
    from hear_dasheng.checkpoint_config import _mlp_ratio

    assert int(dim * _mlp_ratio(inner_dim, dim, 4.0)) == inner_dim


def test_the_published_trainers_model_args_are_read(tmp_path):
    options = {
        "patch_size": [16, 16],
        "patch_stride": [16, 16],
        "hop_size": 200,
        "f_min": 50,
        "center": False,
    }
    config = config_of_kwargs(SIZE | options)
    path = tmp_path / "best.pt"
    args = options | {"group_masking": True, "num_heads": 3}
    torch.save(
        {"model": published_state(Encoder(config)), "config": {"model": "x", "model_args": args}}, path
    )
    assert load_encoder(path).config == config


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"n_fft": 1024}, "another front end than its config tells: its front_end.*1024-point"),
        ({"f_min": 60}, "another front end.*from 60 to 8000 Hz"),
        ({"win_size": 400}, r"another front end.*window \(512,\).*400 samples"),
        ({"patch_size": [16, 16]}, r"patches of shape \(1, 64, 4\).*patch_size=\[16, 16\]"),
        ({"patch_size": "big"}, r"patches of shape \(1, 64, 4\).*patch_size='big'"),
        ({"patch_stride": [64, 2]}, r"patch_stride=\[64, 2\]: must be given, and equal"),
        ({"hop_size": "fast"}, "hop_size='fast'"),
        ({"pooling": "token"}, "a class token is not supported"),
        ({"num_heads": "many"}, "num_heads='many'"),
        ({"n_fft": 10**12}, "n_fft=1000000000000: must be at most"),
    ],
)
def test_a_config_that_contradicts_the_weights_or_makes_no_sense_is_named(tmp_path, stated, message):
    path = tmp_path / "wrong.pt"
    state = published_state(Encoder(config_of_kwargs(SIZE)))
    torch.save({"model": state, "config": encoder_kwargs(config_of_kwargs(SIZE)) | stated}, path)
    with pytest.raises(CheckpointError, match=message):
        load_encoder(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.900000000.norm1.weight": torch.ones(48)}, "names block 900000000 and has"),
        ({"init_bn.running_mean": torch.tensor(1.0)}, "init_bn.running_mean has the shape"),
        (
            {"time_pos_embed": torch.zeros(48, 252)},
            r"time_pos_embed has the shape \(48, 252\); it needs 4 axes",
        ),
        ({"time_pos_embed": torch.zeros(1, 48, 1, 0)}, "time_pos_embed.*none empty"),
        ({"patch_embed.proj.weight": torch.zeros(48, 2, 64, 4)}, r"patches of shape \(2, 64, 4\)"),
        ({7: torch.zeros(1)}, "7 is unknown"),
    ],
)
def test_shapes_that_no_encoder_has_are_refused_at_once(tmp_path, change, message):
    path = tmp_path / "foreign.pt"
    torch.save({"model": Encoder(config_of_kwargs(SIZE)).state_dict() | change, "config": SIZE}, path)
    with pytest.raises(CheckpointError, match=message):
        load_encoder(path)


def test_a_config_json_that_is_no_object_is_refused(tmp_path, tiny_folder):
    folder = shutil.copytree(tiny_folder, tmp_path / "copy")
    (folder / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="holds a list where a JSON object is expected"):
        load_encoder(folder)


def test_the_huggingface_preprocessor_tells_the_front_end(tmp_path):
    encoder = Encoder(config_of_kwargs(SIZE | OPTIONS["all at once"]))
    folder = export(encoder, tmp_path / "model")
    told = json.loads((folder / "preprocessor_config.json").read_text())
    keys = ("n_fft", "win_size", "hop_size", "n_mels", "f_min", "f_max", "center")
    assert {key: told[key] for key in keys} == {key: OPTIONS["all at once"][key] for key in keys}


def test_info_tells_the_options_that_are_not_the_released_ones(tmp_path, tiny_folder):
    from click.testing import CliRunner

    from hear_dasheng.commands import info

    folder = export(Encoder(config_of_kwargs(SIZE | SQUARE | {"top_db": None})), tmp_path / "model")
    result = CliRunner().invoke(info, [str(folder)])
    assert result.exit_code == 0
    assert "windows of 252 tokens" in result.output
    assert "patch_size=[16, 16], patch_stride=[16, 16], top_db=None" in result.output
    assert "other options" not in CliRunner().invoke(info, [str(tiny_folder)]).output
