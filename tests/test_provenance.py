"""What a result was made from is told by content."""

import json

from eval_recipes import provenance
from eval_recipes.embedding.module import load_module


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
    assert load_module("eval_recipes.baselines.log_mel").checkpoint_path is None
