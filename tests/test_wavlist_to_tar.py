"""Shards: every file of the list is in one, once, or rejected with the reason."""

import gzip
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from wavlist_cases import manifest_of, rejects_of, run, samples_of, write_clips, write_table

from pretrain.packing.pack import Options, pack


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[str]:
    """Ten short files."""
    return write_clips(tmp_path_factory.mktemp("clips"), [f"{index}.wav" for index in range(10)])


NAMES = st.text("ab._ -é\"'\n0", min_size=1, max_size=4).filter(lambda name: name.strip("."))


@settings(max_examples=30, deadline=None)
@given(
    files=st.lists(
        st.tuples(
            st.sampled_from(["x", "y/z"]), NAMES, st.sampled_from(["", ".wav", ".WAV", ".tar.json", "._"])
        ),
        max_size=12,
    ),
    faults=st.lists(st.sampled_from(["good", "good", "gone", "junk", "empty"]), min_size=12, max_size=12),
    size=st.integers(1, 5),
    seed=st.none() | st.integers(0, 2**32 - 1),
)
def test_every_row_is_in_one_shard_or_rejected(files, faults, size, seed):
    with tempfile.TemporaryDirectory() as folder:
        names = [f"{parent}/{stem}{suffix}" for parent, stem, suffix in files]
        paths = write_clips(Path(folder), [*names, "one.wav"])
        for path, fault in zip(paths, faults, strict=False):
            if path != paths[-1] and fault != "good" and Path(path).exists():
                Path(path).write_bytes(b"junk" if fault == "junk" else b"")
                if fault == "gone":
                    Path(path).unlink()
        listed = write_table(Path(folder, "list.tsv"), {"filename": paths, "row": range(1, len(paths) + 1)})
        out = Path(folder, "out")
        pack(listed, out, Options(size_per_file=size, seed=seed), n_workers=1)

        samples, rejects = samples_of(out), rejects_of(out)
        assert len({sample["__key__"] for sample in samples}) == len(samples)
        rows = [json.loads(sample["json"])["row"] for sample in samples]
        assert sorted([*rows, *rejects]) == list(range(1, len(paths) + 1))
        for sample, row in zip(samples, rows, strict=True):
            (audio,) = (sample[name] for name in sample if not name.startswith("__") and name != "json")
            assert audio == Path(paths[row - 1]).read_bytes()
        assert all(paths[row - 1] == filename for row, (filename, _) in rejects.items())
        n_per_shard = [shard["samples"] for shard in manifest_of(out)["shards"]]
        assert all(count == size for count in n_per_shard[:-1])


def test_reasons_are_told_and_counted(tmp_path, clips):
    paths = {
        name: str(tmp_path / name) for name in ("gone.wav", "zero.wav", "page.mp3", "none.wav", "folder")
    }
    Path(paths["zero.wav"]).touch()
    Path(paths["page.mp3"]).write_text("<html>")
    soundfile.write(paths["none.wav"], np.zeros(0), 16_000)
    Path(paths["folder"]).mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    again = clips[0].replace("/0.wav", "/./0.wav")
    rows = [*paths.values(), str(tmp_path / "pipe.wav"), "", "a" * 300, clips[0], again]
    listed = write_table(tmp_path / "list.tsv", {"filename": [clips[0], *rows]})
    code, output = run(listed, tmp_path / "out", "-n", 1)
    reasons = [reason for _, reason in rejects_of(tmp_path / "out").values()]
    assert reasons[:3] == ["no such file", "empty: 0 bytes", "not readable as audio: Format not recognised."]
    assert reasons[3:7] == ["holds no samples", "not a regular file", "not a regular file", "no file name"]
    assert reasons[7].endswith("has 300 bytes; at most 255 are allowed")
    assert reasons[8:] == ["listed twice: the same file as row 1"] * 2
    assert code == 0
    assert ": 1 shard, 1 file, " in output
    assert "10 of 11 files rejected (2 listed twice, 2 not a regular file, 1 no file name, " in output


def test_nothing_written_is_an_error(tmp_path):
    listed = write_table(tmp_path / "list.tsv", {"filename": ["gone.wav", "also.wav"]})
    code, output = run(listed, tmp_path / "out", "-n", 1)
    assert code == 1
    assert "no shard written: 2 of 2 files rejected (2 no such file)" in output
    assert len(rejects_of(tmp_path / "out")) == 2
    assert not list((tmp_path / "out").glob("*.tar"))


def test_a_unique_stem_is_the_key_and_shared_ones_get_the_paths_hash(tmp_path):
    names = ["a/x.wav", "b/x.wav", "c/x.1.wav", "d/x_1.wav", "own.v2.wav", "ünï.wav", "long" * 40 + ".wav"]
    paths = write_clips(tmp_path, names)
    listed = write_table(tmp_path / "list.tsv", {"filename": paths})
    pack(listed, tmp_path / "out", Options(size_per_file=2), n_workers=1)
    digests = [hashlib.sha256(path.encode()).hexdigest()[:16] for path in paths]
    assert {sample["__key__"]: sample["wav"] for sample in samples_of(tmp_path / "out")} == {
        key: Path(path).read_bytes()
        for key, path in zip(
            [
                f"x_{digests[0]}",
                f"x_{digests[1]}",
                f"x_1_{digests[2]}",
                f"x_1_{digests[3]}",
                "own_v2",
                "ünï",
                "long" * 40,
            ],
            paths,
            strict=True,
        )
    }


def test_the_whole_list_is_shuffled_by_the_seed(tmp_path, clips):
    listed = write_table(tmp_path / "list.tsv", {"filename": clips})

    def order(name: str, *flags) -> list[str]:
        assert run(listed, tmp_path / name, "-s", 5, "-n", 1, *flags)[0] == 0
        return [sample["__key__"] for sample in samples_of(tmp_path / name)]

    assert order("kept", "--no-shuffle") == [str(number) for number in range(10)]
    first = order("first")
    assert first == order("again", "--seed", 0)
    assert first != order("other", "--seed", 1)
    assert set(first[:5]) != set("01234")  # not within a shard's share of the list alone
    assert (tmp_path / "first" / "list_0000001.tar").read_bytes() == (
        tmp_path / "again" / "list_0000001.tar"
    ).read_bytes()


def test_the_manifest_tells_the_truth(tmp_path, clips):
    listed = write_table(tmp_path / "list.tsv", {"filename": [*clips, "gone.wav"]})
    pack(listed, tmp_path / "out", Options(size_per_file=4), n_workers=1)
    manifest = manifest_of(tmp_path / "out")
    for shard in manifest["shards"]:
        content = (tmp_path / "out" / shard["file"]).read_bytes()
        assert shard["sha256"] == hashlib.sha256(content).hexdigest()
        assert shard["bytes"] == len(content)
        assert shard["seconds"] == pytest.approx(0.05 * shard["samples"])
        with tarfile.open(tmp_path / "out" / shard["file"]) as tar:
            assert len(tar.getmembers()) == shard["samples"]
    assert [shard["samples"] for shard in manifest["shards"]] == [4, 4, 2]
    assert manifest["totals"] == {
        "shards": 3,
        "samples": 10,
        "rejected": 1,
        "seconds": pytest.approx(0.5),
        "bytes": sum(shard["bytes"] for shard in manifest["shards"]),
    }
    assert manifest["is_complete"]
    assert manifest["list"]["sha256"] == hashlib.sha256(listed.read_bytes()).hexdigest()


def test_compressed_shards_hold_the_same_and_no_time(tmp_path, clips):
    listed = write_table(tmp_path / "list.tsv", {"filename": clips, "label": range(10)})
    for name, flags in {"plain": [], "zipped": ["--compress"]}.items():
        assert run(listed, tmp_path / name, "-n", 1, *flags)[0] == 0
    zipped = (tmp_path / "zipped/list_0000000.tar.gz").read_bytes()
    assert gzip.decompress(zipped) == (tmp_path / "plain/list_0000000.tar").read_bytes()
    assert zipped[4:8] == bytes(4)


def test_the_published_command_line_gives_what_the_published_tool_gives(tmp_path):
    """Same shards' names, keys, members and index; within a shard the order is chance there."""
    paths = write_clips(tmp_path, ["a.wav", "b.c.wav", "d.WAV", "e"][:3])
    labels = {
        "label": ["x", "y", "z"],
        "score": [1, 2.5, 3],
        "count": [1, 2, 3],
        "is_loud": [True, False, True],
    }
    listed = write_table(tmp_path / "list.csv", {"file": paths, **labels}, ",")
    arguments = [
        listed,
        "out",
        "-s",
        3,
        "-n",
        2,
        "--filename_column",
        "file",
        "-d",
        ",",
        "--write_json",
        "i.json",
    ]
    folder = Path(importlib.util.find_spec("dasheng").origin).parent / "prepare"
    script = f"import sys; sys.path.insert(0, {str(folder)!r}); import wavlist_to_tar; wavlist_to_tar.main()"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    (tmp_path / "theirs").mkdir()
    subprocess.run(command, cwd=tmp_path / "theirs", check=True, capture_output=True)
    (tmp_path / "ours").mkdir()
    before = Path.cwd()
    os.chdir(tmp_path / "ours")
    try:
        assert run(*arguments, "-n", 1)[0] == 0
    finally:
        os.chdir(before)

    def content(whose: str) -> dict:
        return {
            sample["__key__"]: {name: sample[name] for name in sample if not name.startswith("__")}
            for sample in samples_of(tmp_path / whose / "out")
        }

    assert content("ours") == content("theirs")
    names = [
        {path.name for path in (tmp_path / whose / "out").glob("*.tar*")} for whose in ("ours", "theirs")
    ]
    assert names[0] == names[1]
    indexes = [json.loads((tmp_path / whose / "i.json").read_text()) for whose in ("ours", "theirs")]
    assert indexes[0] == indexes[1]


def test_relative_paths_start_here_or_at_the_list(tmp_path, monkeypatch):
    write_clips(tmp_path, ["lists/both.wav", "lists/there.wav"], rate_hz=8_000)
    write_clips(tmp_path, ["here/both.wav"], rate_hz=16_000)
    listed = write_table(tmp_path / "lists/list.tsv", {"filename": ["both.wav", "there.wav"]})
    monkeypatch.chdir(tmp_path / "here")
    pack(listed, tmp_path / "out", n_workers=1)
    found = {sample["__key__"]: sample["wav"] for sample in samples_of(tmp_path / "out")}
    assert found["both"] == (tmp_path / "here/both.wav").read_bytes()
    assert found["there"] == (tmp_path / "lists/there.wav").read_bytes()
    monkeypatch.chdir(tmp_path)
    assert "relative_to was" in run(listed, tmp_path / "out", "-n", 1)[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format", "mp3", "--rate", "12345"], "cannot write mp3 at 12345 Hz"),
        (["--rate", "400000"], "400000 is not in the range"),
        (["-s", "0"], "0 is not in the range"),
    ],
)
def test_impossible_options_are_told_at_once(tmp_path, clips, flags, message):
    listed = write_table(tmp_path / "list.tsv", {"filename": clips})
    code, output = run(listed, tmp_path / "out", *flags)
    assert code == 2
    assert message in output
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_its_extra(tmp_path, clips, monkeypatch):
    listed = write_table(tmp_path / "list.tsv", {"filename": clips})
    monkeypatch.setitem(sys.modules, "pandas", None)
    code, output = run(listed, tmp_path / "out")
    assert (code, output) == (
        1,
        "Error: needs the package pandas; in the checkout: pip install '.[pretraining]'\n",
    )
