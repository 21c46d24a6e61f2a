"""Encoders are written whole, exactly and always alike, in the layouts that others read."""

import json

import pytest
import torch
from checkpoint_cases import CLIP, assert_equals_oracle, without_front_end
from conftest import scaled_error

from hear_dasheng import get_timestamp_embeddings, load_model
from hear_dasheng.checkpoint import load_encoder
from hear_dasheng.export import export


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


def test_the_huggingface_export_has_the_published_keys(tmp_path, tiny_folder, published_state):
    from safetensors import safe_open

    with safe_open(tiny_folder / "model.safetensors", "pt") as weights:
        assert set(weights.keys()) == {"encoder." + name for name in without_front_end(published_state)}
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
