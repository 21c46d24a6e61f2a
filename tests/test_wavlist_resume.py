"""A run in a folder that holds shards: kept, made anew, or left alone."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from wavlist_cases import content, list_of_25, manifest_of, rejects_of, run, write_clips, write_table

from pretrain.packing import pack as packing
from pretrain.packing.pack import Options, pack


@pytest.fixture(scope="module")
def listed(tmp_path_factory) -> Path:
    return list_of_25(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def undisturbed(listed, tmp_path_factory) -> dict[str, bytes]:
    """All files of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("undisturbed")
    pack(listed, out, Options(size_per_file=5), n_workers=1)
    return content(out)


@pytest.mark.parametrize("damage", ["deleted", "cut", "rejects deleted", "rejects of one shard lost"])
def test_what_is_missing_is_made_anew_and_the_rest_kept(listed, undisturbed, tmp_path, damage):
    options = Options(size_per_file=5)
    pack(listed, tmp_path / "out", options, n_workers=1)
    shard = tmp_path / "out" / "list_0000001.tar"
    rejects = tmp_path / "out" / "list_rejects.tsv"
    n_with_rejects = sum(
        entry["stop_place"] - entry["first_place"] > entry["samples"]
        for entry in manifest_of(tmp_path / "out")["shards"]
    )
    if damage == "deleted":
        shard.unlink()
    elif damage == "cut":
        os.truncate(shard, 1_000)
    elif damage == "rejects deleted":
        rejects.unlink()
    else:
        rejects.write_text("".join(rejects.read_text().splitlines(keepends=True)[:-1]))
    n_made = n_with_rejects if damage == "rejects deleted" else 1
    assert pack(listed, tmp_path / "out", options, n_workers=1).n_kept_shards == 5 - n_made
    assert content(tmp_path / "out") == undisturbed


def test_a_finished_run_does_nothing_again(listed, undisturbed, tmp_path, monkeypatch):
    assert run(listed, tmp_path, "-s", 5, "-n", 1, "--write_json", tmp_path / "wids")[0] == 0
    monkeypatch.setattr(packing, "audio_for_shard", None)
    index = (tmp_path / "wids").read_bytes()
    (tmp_path / "wids").unlink()
    code, output = run(listed, tmp_path, "-s", 5, "-n", 1, "--write-json", tmp_path / "wids")
    assert code == 0
    assert "5 shards, 5 of them from before, 23 files" in output
    assert content(tmp_path) == undisturbed | {"wids": index}


def test_another_list_or_other_options_never_mix(listed, tmp_path):
    shutil.copytree(listed.parent, tmp_path / "in")
    ours = tmp_path / "in" / "list.tsv"
    flags = ["-s", 5, "-n", 1]
    assert run(ours, tmp_path / "out", *flags)[0] == 0
    before = content(tmp_path / "out")
    for others, message in {
        ("-s", 4, "-n", 1): "size_per_file was 5, is 4; choose another OUTDIR, or --overwrite",
        (*flags, "--seed", 1): "seed was 0, is 1",
        (*flags, "--no-shuffle"): "seed was 0, is None",
        (*flags, "--rate", 8_000): "rate was None, is 8000",
        (*flags, "--compress"): "compress was False, is True",
    }.items():
        code, output = run(ours, tmp_path / "out", *others)
        assert (code, message in output) == (1, True)
    ours.write_text(ours.read_text() + "new.wav\t1\n")
    assert "the list's content differs" in run(ours, tmp_path / "out", *flags)[1]
    assert content(tmp_path / "out") == before
    assert run(ours, tmp_path / "out", "-s", 100, "-n", 1, "--compress", "--overwrite")[0] == 0
    assert set(content(tmp_path / "out")) == {"list_0000000.tar.gz", "list_manifest.json", "list_rejects.tsv"}


@pytest.mark.parametrize("damage", ["{", "[]", '{"shards": [{}]}', '{"shards": []}'])
def test_shards_without_a_readable_manifest_are_left_alone(listed, tmp_path, damage):
    (tmp_path / "list_0000004.tar.gz").write_bytes(b"mine")
    code, output = run(listed, tmp_path, "-n", 1)
    assert (code, "list_0000004.tar.gz is there, but no list_manifest.json" in output) == (1, True)
    (tmp_path / "list_manifest.json").write_text(damage)
    code, output = run(listed, tmp_path, "-n", 1)
    assert (code, "list_manifest.json is damaged" in output) == (1, True)
    assert (tmp_path / "list_0000004.tar.gz").read_bytes() == b"mine"


def test_files_that_changed_before_a_shard_is_made_anew_are_told(listed, tmp_path, caplog):
    shutil.copytree(listed.parent, tmp_path / "in")
    paths = write_clips(tmp_path / "in", ["0.wav", "1.wav"])
    ours = write_table(tmp_path / "in" / "two.tsv", {"filename": paths})
    pack(ours, tmp_path, n_workers=1)
    (tmp_path / "two_0000000.tar").unlink()
    Path(paths[0]).unlink()
    pack(ours, tmp_path, n_workers=1)
    assert "two_0000000.tar was made anew and differs: its audio files changed meanwhile" in caplog.text
    assert len(rejects_of(tmp_path, "two")) == 1
    (tmp_path / "two_0000000.tar").unlink()
    Path(paths[1]).unlink()
    code, output = run(ours, tmp_path, "-n", 1)
    assert (code, "two_0000000.tar is gone, and so are all of its audio files" in output) == (1, True)


def test_two_runs_never_write_to_one_folder(listed, tmp_path):
    with FileLock(tmp_path / ".list.lock"):
        code, output = run(listed, tmp_path, "-n", 1)
    assert (code, "another run is writing the shards of list to " in output) == (1, True)


def test_what_a_killed_run_was_writing_is_deleted_and_nothing_else(listed, tmp_path):
    """Other lists may be written beside it, even one whose name begins alike."""
    token = "0123456789abcdef"
    others = {f".{stem}.{token}.partial" for stem in ("list.2", "list_2", "other")} | {"list_0000009.txt"}
    for name in [*others, f".list.{token}.partial", f".list.{token[::-1]}.partial"]:
        (tmp_path / name).touch()
    assert run(listed, tmp_path, "-n", 1, "-s", 100)[0] == 0
    assert set(content(tmp_path)) == {
        *others,
        "list_0000000.tar",
        "list_manifest.json",
        "list_rejects.tsv",
    }


@pytest.mark.parametrize(
    ("flags", "words"), [([], "same command goes"), (["--overwrite"], "without --overwrite")]
)
def test_the_way_on_is_told(listed, tmp_path, monkeypatch, flags, words):
    def interrupted(*_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(packing, "ordered_map", interrupted)
    code, output = run(listed, tmp_path, *flags)
    assert (code, words in output) == (130, True)
