"""What a result was made from is told by content."""

from eval_recipes import provenance


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
