"""Every layout in the wild is read; everything else is refused with a reason."""

import json
import os
import pathlib

import pytest
import torch
from checkpoint_cases import assert_equals_oracle, without_front_end
from conftest import config_of, oracle_of
from safetensors.torch import save_file

from hear_dasheng import load_model
from hear_dasheng.checkpoint import CheckpointError, load_encoder
from hear_dasheng.mel import htk_filter_bank
from hear_dasheng.sizes import SIZES, heads_of


def save_huggingface(folder, state, oracle, with_config=True):
    """`mispeech/dasheng-*`'s layout as facts about it say."""
    folder.mkdir()
    weights = {"encoder." + name: value for name, value in without_front_end(state).items()}
    save_file(weights, folder / "model.safetensors")
    if with_config:
        config = {"model_type": "dasheng", "encoder_kwargs": config_of(oracle)}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "preprocessor_config.json").write_text("{}")
    return folder


def test_published_pt(tiny_pt, tiny_oracle):
    assert_equals_oracle(tiny_pt, tiny_oracle)
    assert_equals_oracle(str(tiny_pt), tiny_oracle)


def test_huggingface_folder_and_its_weights_file(tmp_path, published_state, tiny_oracle):
    folder = save_huggingface(tmp_path / "hf", published_state, tiny_oracle)
    assert_equals_oracle(folder, tiny_oracle)
    assert_equals_oracle(folder / "model.safetensors", tiny_oracle)


def test_safetensors_without_config_take_heads_from_the_sizes(tmp_path, published_state, tiny_oracle):
    assert_equals_oracle(
        save_huggingface(tmp_path / "hf", published_state, tiny_oracle, with_config=False), tiny_oracle
    )


def test_half_precision_weights_become_fp32(tmp_path, published_state, tiny_oracle):
    half = {name: v.half() if v.is_floating_point() else v for name, v in published_state.items()}
    path = tmp_path / "half.pt"
    torch.save({"model": half, "config": config_of(tiny_oracle)}, path)
    encoder = load_encoder(path)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


@pytest.mark.parametrize("prefixed", ["all", "some", "none"])
def test_audioset_finetuned_flat_state_dict(tmp_path, published_state, tiny_oracle, prefixed):
    flat = {}
    for name, value in published_state.items():
        has_prefix = prefixed == "all" or (prefixed == "some" and name.startswith(("blocks", "patch")))
        flat[f"encoder.{name}" if has_prefix else name] = value
    flat |= {"outputlayer.0.weight": torch.ones(192), "outputlayer.0.bias": torch.zeros(192)}
    flat |= {"outputlayer.1.weight": torch.ones(527, 192), "outputlayer.1.bias": torch.zeros(527)}
    path = tmp_path / "dasheng_audioset.pt"
    torch.save(flat, path)
    assert_equals_oracle(path, tiny_oracle)


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_the_published_trainers_files_with_their_pathlib_path(tmp_path, published_state, tiny_oracle, module):
    """`pathlib._local` is where Python 3.13 keeps the class that older ones pickle as `pathlib`."""
    from dasheng.train.utils import MAEConfig

    config = MAEConfig(train_data=["a.tar"], cv_data=["b.tar"], outputpath=str(tmp_path)).to_dict()
    assert isinstance(config["outputdir"], pathlib.Path)
    path = tmp_path / "best_checkpoint_1_Loss=-0.5.pt"
    real = type(config["outputdir"])
    before = real.__module__
    real.__module__ = module
    try:
        if module != "pathlib" and not hasattr(pathlib, "_local"):
            import sys
            import types

            sys.modules[module] = types.SimpleNamespace(**{real.__name__: real})
        torch.save({"model": published_state, "config": config}, path)
    finally:
        real.__module__ = before
        if module != "pathlib" and not hasattr(pathlib, "_local"):
            del sys.modules[module]
    assert module.encode() in path.read_bytes()
    with pytest.raises(Exception, match="PosixPath"):
        torch.load(path, weights_only=True)
    assert_equals_oracle(path, tiny_oracle)


def test_heads_come_from_the_config_before_the_sizes(tmp_path):
    oracle = oracle_of(192, 6, 6)  # SIZES says 3 heads for this width and depth
    for name, config in {
        "top": {"num_heads": 6},
        "kwargs": {"encoder_kwargs": {"num_heads": 6}},
        "trainer": {"model": "dasheng_base", "model_args": {"num_heads": 6}},
    }.items():
        path = tmp_path / f"{name}.pt"
        torch.save({"model": oracle.state_dict(), "config": config}, path)
        assert_equals_oracle(path, oracle)


def test_heads_that_nothing_tells_are_an_error_until_given(tmp_path):
    oracle = oracle_of(128, 3, 2)
    path = tmp_path / "dasheng_base.pt"  # the name must not matter
    torch.save({"model": oracle.state_dict(), "config": {}}, path)
    with pytest.raises(CheckpointError, match=r"width/depth 128/3.*768/12.*num_heads=\.\.\."):
        load_model(path)
    assert_equals_oracle(path, oracle, num_heads=2)
    with pytest.raises(CheckpointError, match="5 attention heads do not divide a width of 128"):
        load_model(path, num_heads=5)


def test_the_sizes_tell_heads_unambiguously():
    shapes = [(size.dim, size.depth) for size in SIZES.values()]
    assert len(set(shapes)) == len(shapes)
    assert heads_of(1536, 24) == 24
    assert heads_of(1536, 40) == 24
    assert heads_of(7, 7) is None


def test_other_window_lengths_are_read_from_the_weights(tmp_path):
    oracle = oracle_of(192, 6, 3, target_length=400)
    path = tmp_path / "short_windows.pt"
    torch.save({"model": oracle.state_dict(), "config": config_of(oracle)}, path)
    assert load_encoder(path).config.window_moments == 100
    assert_equals_oracle(path, oracle)


class CallsASystemCommand:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path, published_state, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    torch.save({"model": published_state, "config": CallsASystemCommand()}, path)
    with pytest.raises(CheckpointError, match=r"not loaded.*(posix|nt)\.system.*save"):
        load_model(path)
    assert not (tmp_path / "pwned").exists()


def test_damaged_files_say_so(tmp_path, tiny_pt, published_state, tiny_oracle):
    content = tiny_pt.read_bytes()
    weights = save_huggingface(tmp_path / "hf", published_state, tiny_oracle) / "model.safetensors"
    cases = {
        "truncated.pt": content[: len(content) // 2],
        "empty.pt": b"",
        "text.pt": b"<html>404</html>",
        "sound.wav": b"RIFF" + bytes(500),
        "arbitrary.pt": bytes(range(1, 200)),
        "truncated.safetensors": weights.read_bytes()[:-1000],
        "empty.safetensors": b"",
    }
    for name, damaged in cases.items():
        path = tmp_path / name
        path.write_bytes(damaged)
        with pytest.raises(
            CheckpointError, match=rf"{name} \({len(damaged)} bytes\).*truncated, damaged.*again"
        ) as raised:
            load_model(path)
        assert "pop from" not in str(raised.value)  # of the unpickler's own errors none helps


def test_a_broken_config_is_named(tmp_path, published_state, tiny_oracle):
    folder = save_huggingface(tmp_path / "hf", published_state, tiny_oracle)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json is not strict JSON"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"resnet.conv1.weight": torch.zeros(1)}, "no Dasheng checkpoint.*resnet.conv1.weight"),
        (lambda s: s | {"blocks.6.norm1.weight": torch.zeros(192)}, "blocks.6.attn.proj.bias is missing"),
        (lambda s: s | {"cls_token": torch.zeros(1, 1, 192)}, "cls_token is unknown"),
        (
            lambda s: s | {"norm.weight": torch.zeros(7)},
            r"norm.weight has the shape \(7,\) instead of \(192,\)",
        ),
        (
            lambda s: s | {"norm.bias": torch.full((192,), torch.nan)},
            "norm.bias holds values that are not finite",
        ),
        (lambda s: s | {"patch_embed.proj.weight": torch.zeros(192, 1, 16, 16)}, r"patches.*\(1, 16, 16\)"),
        (lambda s: s | {"front_end.0.mel_scale.fb": htk_filter_bank() * 2}, "another front end"),
        (lambda s: s | {"encoder.norm.bias": s["norm.bias"], "norm.weight": 3}, "norm.weight"),
        (lambda s: {k: v for k, v in s.items() if k != "time_pos_embed"}, "no time_pos_embed"),
        (
            lambda s: {k: v for k, v in s.items() if not k.startswith("blocks.3.")},
            "blocks.3.attn.proj.bias is missing",
        ),
    ],
)
def test_foreign_or_incomplete_weights_are_refused(tmp_path, published_state, tiny_oracle, change, message):
    path = tmp_path / "foreign.pt"
    torch.save({"model": change(published_state), "config": config_of(tiny_oracle)}, path)
    with pytest.raises(CheckpointError, match=message):
        load_model(path)


def test_a_pickled_module_or_list_is_no_checkpoint(tmp_path):
    path = tmp_path / "list.pt"
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds a list, not a dict"):
        load_model(path)


def test_missing_paths_say_what_is_there(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.log").write_text("")
    with pytest.raises(FileNotFoundError, match=r"has no model.safetensors \(it has train.log\)"):
        load_model(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at '.*nowhere.pt'.*dasheng_base.*mispeech"):
        load_model(tmp_path / "nowhere.pt")


def test_loading_leaves_torchs_allow_list_as_it_was(tiny_pt):
    before = set(torch.serialization.get_safe_globals())
    load_encoder(tiny_pt)
    assert set(torch.serialization.get_safe_globals()) == before
