"""What a result was made from is told by content."""

import json
import sys

import dataset_layouts as layouts
import pytest
from click.testing import CliRunner

from eval_recipes import provenance, synthetic_tasks
from eval_recipes.embed import embed
from eval_recipes.embedding.module import load_module
from eval_recipes.knn import knn


def test_checkpoint_hashes_see_content_and_names(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.safetensors").write_bytes(b"1")
    first = provenance.sha256_of(tmp_path / "a")
    (tmp_path / "a" / ".hidden").write_bytes(b"x")
    assert provenance.sha256_of(tmp_path / "a") == first
    (tmp_path / "a" / "model.safetensors").write_bytes(b"2")
    assert provenance.sha256_of(tmp_path / "a") != first


def test_a_run_that_writes_its_log_stays_the_same_checkpoint(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"1")
    first = provenance.checkpoint_identity(str(tmp_path))
    (tmp_path / "train.log").write_text("resumed")
    assert provenance.checkpoint_identity(str(tmp_path)) == first
    for name in ("config.json", "model.safetensors"):
        before = provenance.checkpoint_identity(str(tmp_path))
        (tmp_path / name).write_text("another")
        assert provenance.checkpoint_identity(str(tmp_path)) != before


def test_names_are_recorded_with_the_hash_of_the_file_that_was_loaded(tmp_path):
    """One name can stand for another file tomorrow: a cache, a mirror, a moved file."""
    weights = tmp_path / "dasheng_base.pt"
    weights.write_bytes(b"1")
    first = provenance.model_identity("hear_dasheng", "dasheng_base", {}, str(weights))
    assert first["checkpoint"] == "dasheng_base"
    assert first["checkpoint_sha256"] == {"dasheng_base.pt": provenance.sha256_of(weights)}
    default = provenance.model_identity("hear_dasheng", None, {}, str(weights))
    provenance.record(tmp_path / "record.json", default, 0)
    assert "weights" not in json.loads((tmp_path / "record.json").read_text())  # they are identified
    weights.write_bytes(b"2")
    changed = provenance.model_identity("hear_dasheng", None, {}, str(weights))
    assert "checkpoint_sha256 was" in provenance.difference(tmp_path / "record.json", changed)


def test_hub_ids_are_recorded_with_commit_and_hash(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--owner--name", "c" * 40
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
        (snapshot / name).write_text(name)
    identity = provenance.model_identity("mine", "owner/name", {})
    assert identity["checkpoint"] == f"owner/name@{commit}"
    expected = provenance.sha256_of(snapshot / "model.safetensors")
    assert identity["checkpoint_sha256"] == {"model.safetensors": expected}
    assert "checkpoint_sha256" not in provenance.model_identity("mine", "owner/other", {})


def test_our_models_tell_which_file_they_are_from(tiny_folder):
    loaded = load_module("hear_dasheng", str(tiny_folder))
    assert loaded.checkpoint_path == str(tiny_folder)
    assert load_module("eval_recipes.baselines.log_mel").checkpoint_path == ""  # it has no weights


@pytest.mark.parametrize("model", [None, "owner/name"])
def test_weights_from_the_hub_are_recorded_with_commit_and_hash_also_by_default(tmp_path, monkeypatch, model):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no cache"))
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"1")
    for loaded_from in (snapshot, snapshot / "model.safetensors"):
        identity = provenance.model_identity("mine", model, {}, str(loaded_from))
        assert identity["checkpoint"] == f"owner/name@{'c' * 40}"
        expected = provenance.sha256_of(snapshot / "model.safetensors")
        assert identity["checkpoint_sha256"] == {"model.safetensors": expected}
        assert not provenance.are_unidentified(identity)


MODULE = """
import torch
WEIGHTS = torch.eye(4)  # as torchcrepe keeps its model
class Model(torch.nn.Module):
    sample_rate, scene_embedding_size, timestamp_embedding_size = 16000, 4, 4
def load_model(path=""):
    return Model().eval()
def get_scene_embeddings(audio, model):
    return audio[:, :4] @ WEIGHTS
def get_timestamp_embeddings(audio, model):
    times = torch.arange(20.0, 1000 * audio.shape[1] / 16000, 40).expand(len(audio), -1)
    return audio[:, None, :4].expand(-1, times.shape[1], -1), times
"""


def test_weights_outside_of_the_model_are_said_to_be_unidentified(tmp_path, monkeypatch):
    (tmp_path / "hidden_weights.py").write_text(MODULE)
    layouts.tones_per_class(tmp_path / "tones")
    synthetic_tasks.scene_multiclass(tmp_path / "tasks", clips_per_fold=3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for command, arguments in ((embed, []), (knn, ["--dataset", "folder", "--data", "tones"])):
        result = CliRunner().invoke(command, ["hidden_weights", *arguments])
        assert result.exit_code == 0, result.output
        assert result.stderr.count(f"hidden_weights has {provenance.UNIDENTIFIED}") == 1
