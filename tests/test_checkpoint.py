"""Every layout in the wild is read; everything else is refused with a reason."""

import json
import os
import pathlib

import pytest
import torch
from conftest import config_of, noise, oracle_of, scaled_error
from safetensors.torch import save_file

from hear_dasheng import get_timestamp_embeddings, load_model
from hear_dasheng.checkpoint import CheckpointError, load_encoder
from hear_dasheng.export import export
from hear_dasheng.mel import htk_filter_bank
from hear_dasheng.sizes import SIZES, heads_of

CLIP = noise(1, 3)


@pytest.fixture
def state(tiny_oracle):
    """A fresh copy of the published state dict."""
    return {name: value.clone() for name, value in tiny_oracle.state_dict().items()}


def assert_equals_oracle(path, oracle, **options):
    ours = get_timestamp_embeddings(CLIP, load_model(path, **options))[0]
    assert scaled_error(ours, oracle(CLIP)) <= 1e-4


def without_front_end(state):
    return {name: value for name, value in state.items() if not name.startswith("front_end")}


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


def test_huggingface_folder_and_its_weights_file(tmp_path, state, tiny_oracle):
    folder = save_huggingface(tmp_path / "hf", state, tiny_oracle)
    assert_equals_oracle(folder, tiny_oracle)
    assert_equals_oracle(folder / "model.safetensors", tiny_oracle)


def test_safetensors_without_config_take_heads_from_the_sizes(tmp_path, state, tiny_oracle):
    assert_equals_oracle(
        save_huggingface(tmp_path / "hf", state, tiny_oracle, with_config=False), tiny_oracle
    )


def test_half_precision_weights_become_fp32(tmp_path, state, tiny_oracle):
    half = {name: v.half() if v.is_floating_point() else v for name, v in state.items()}
    path = tmp_path / "half.pt"
    torch.save({"model": half, "config": config_of(tiny_oracle)}, path)
    encoder = load_encoder(path)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


@pytest.mark.parametrize("prefixed", ["all", "some", "none"])
def test_audioset_finetuned_flat_state_dict(tmp_path, state, tiny_oracle, prefixed):
    flat = {}
    for name, value in state.items():
        has_prefix = prefixed == "all" or (prefixed == "some" and name.startswith(("blocks", "patch")))
        flat[f"encoder.{name}" if has_prefix else name] = value
    flat |= {"outputlayer.0.weight": torch.ones(192), "outputlayer.0.bias": torch.zeros(192)}
    flat |= {"outputlayer.1.weight": torch.ones(527, 192), "outputlayer.1.bias": torch.zeros(527)}
    path = tmp_path / "dasheng_audioset.pt"
    torch.save(flat, path)
    assert_equals_oracle(path, tiny_oracle)


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_the_published_trainers_files_with_their_pathlib_path(tmp_path, state, tiny_oracle, module):
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
        torch.save({"model": state, "config": config}, path)
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


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path, state, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    torch.save({"model": state, "config": CallsASystemCommand()}, path)
    with pytest.raises(CheckpointError, match=r"not loaded.*(posix|nt)\.system.*save"):
        load_model(path)
    assert not (tmp_path / "pwned").exists()


def test_damaged_files_say_so(tmp_path, tiny_pt, state, tiny_oracle):
    content = tiny_pt.read_bytes()
    weights = save_huggingface(tmp_path / "hf", state, tiny_oracle) / "model.safetensors"
    cases = {
        "truncated.pt": content[: len(content) // 2],
        "empty.pt": b"",
        "text.pt": b"<html>404</html>",
        "sound.wav": b"RIFF" + bytes(500),
        "truncated.safetensors": weights.read_bytes()[:-1000],
        "empty.safetensors": b"",
    }
    for name, damaged in cases.items():
        path = tmp_path / name
        path.write_bytes(damaged)
        with pytest.raises(
            CheckpointError, match=rf"{name} \({len(damaged)} bytes\).*truncated, damaged.*again"
        ):
            load_model(path)


def test_a_broken_config_is_named(tmp_path, state, tiny_oracle):
    folder = save_huggingface(tmp_path / "hf", state, tiny_oracle)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json is not valid JSON"):
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
def test_foreign_or_incomplete_weights_are_refused(tmp_path, state, tiny_oracle, change, message):
    path = tmp_path / "foreign.pt"
    torch.save({"model": change(state), "config": config_of(tiny_oracle)}, path)
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


@pytest.mark.parametrize("layout", ["published", "huggingface"])
def test_exports_round_trip(tmp_path, tiny_pt, tiny_oracle, layout):
    encoder = load_encoder(tiny_pt)
    path = export(encoder, tmp_path / "new" / "copy.pt", layout)
    again = load_encoder(path)
    assert again.config == encoder.config
    for name, value in encoder.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert_equals_oracle(path, tiny_oracle)


def test_the_package_loads_our_published_form(tmp_path, tiny_folder):
    from dasheng.pretrained.pretrained import Dasheng

    path = export(load_encoder(tiny_folder), tmp_path / "ours.pt", "published")
    theirs = Dasheng.from_pretrained(str(path)).eval()
    ours = get_timestamp_embeddings(CLIP, load_model(tiny_folder))[0]
    assert scaled_error(ours, theirs(CLIP)) <= 1e-4


def test_an_encoder_is_always_written_in_the_same_bytes(tmp_path, tiny_folder):
    encoder = load_encoder(tiny_folder)
    for name in ("a", "b"):
        export(encoder, tmp_path / name)
        export(encoder, tmp_path / f"{name}.pt", "published")
    for first in [tmp_path / "a.pt", *sorted((tmp_path / "a").iterdir())]:
        second = tmp_path / "b.pt" if first.suffix == ".pt" else tmp_path / "b" / first.name
        assert first.read_bytes() == second.read_bytes(), first.name


def test_the_huggingface_export_has_the_published_keys(tmp_path, tiny_folder, state):
    from safetensors import safe_open

    with safe_open(tiny_folder / "model.safetensors", "pt") as weights:
        assert set(weights.keys()) == {"encoder." + name for name in without_front_end(state)}
    config = json.loads((tiny_folder / "config.json").read_text())
    assert config["model_type"] == "dasheng"
    assert config["encoder_kwargs"] == {
        "depth": 6,
        "embed_dim": 192,
        "num_heads": 3,
        "patch_size": [64, 4],
        "patch_stride": [64, 4],
        "target_length": 1008,
    }
    assert json.loads((tiny_folder / "preprocessor_config.json").read_text())["sampling_rate"] == 16_000


def test_a_used_bf16_model_is_not_exported_as_if_it_were_exact(tmp_path, tiny_pt):
    """After inference the weights are packed; exporting unpacks them."""
    model = load_model(tiny_pt)
    model(CLIP)
    again = load_encoder(export(model.encoder, tmp_path / "copy"))
    assert torch.equal(again.blocks[0].mlp.fc1.weight, load_encoder(tiny_pt).blocks[0].mlp.fc1.weight)


def test_exports_never_overwrite_and_leave_nothing_half_done(tmp_path, tiny_pt, monkeypatch):
    encoder = load_encoder(tiny_pt)
    path = export(encoder, tmp_path / "copy")
    with pytest.raises(FileExistsError, match="copy exists already"):
        export(encoder, path)
    with pytest.raises(ValueError, match="'onnx'.*huggingface, published"):
        export(encoder, tmp_path / "other", "onnx")

    def disk_full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", disk_full)
    with pytest.raises(OSError, match="No space left"):
        export(encoder, tmp_path / "unlucky")
    assert [entry.name for entry in tmp_path.iterdir()] == ["copy"]


def test_loading_leaves_torchs_allow_list_as_it_was(tiny_pt):
    before = list(torch.serialization.get_safe_globals())
    load_encoder(tiny_pt)
    assert torch.serialization.get_safe_globals() == before
