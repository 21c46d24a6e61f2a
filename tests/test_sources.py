"""What a config may name as data, and what is said of mistakes."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.reading.sources import Source, is_remote, local_path, parse_sources, shard_labels


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("a_000.tar", "a_001.tar", "a_002.tar", "odd{1,2}.tar", "b c.tar"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def urls_of(*entries) -> list[str]:
    return [url for source in parse_sources(entries) for url in source.urls]


@pytest.mark.parametrize(
    ("pattern", "urls"),
    [
        ("a_{000..002}.tar", ["a_000.tar", "a_001.tar", "a_002.tar"]),
        ("a_00{0,2}.tar", ["a_000.tar", "a_002.tar"]),
        ("a_*.tar", ["a_000.tar", "a_001.tar", "a_002.tar"]),
        ("{a_00[01],b*}.tar", ["a_000.tar", "a_001.tar", "b c.tar"]),
        ("odd{1,2}.tar", ["odd{1,2}.tar"]),
        ("pipe:cat x_{0..1}.tar | zcat", ["pipe:cat x_0.tar | zcat", "pipe:cat x_1.tar | zcat"]),
        (r"pipe:find . -exec cat \;", [r"pipe:find . -exec cat \;"]),
        ("https://host/x_{8..10}.tar?a=b", [f"https://host/x_{n}.tar?a=b" for n in (8, 9, 10)]),
        ("s3://bucket/x.tar", ["s3://bucket/x.tar"]),
        ("simplecache::s3://bucket/x.tar", ["simplecache::s3://bucket/x.tar"]),
    ],
)
def test_patterns_are_expanded(folder, pattern, urls):
    assert urls_of(pattern) == urls


def test_file_urls_and_home(folder, monkeypatch):
    assert urls_of(f"file://{folder}/b%20c.tar") == [str(folder / "b c.tar")]
    monkeypatch.setenv("HOME", str(folder))
    assert urls_of("~/a_000.tar") == [str(folder / "a_000.tar")]
    assert local_path("file:///x%20y.tar") == "/x y.tar"


def test_mappings_hold_weights(folder):
    assert parse_sources(["a_000.tar", {"urls": ["a_001.tar", "a_002.tar"], "weight": 3}]) == [
        Source(("a_000.tar",)),
        Source(("a_001.tar", "a_002.tar"), 3.0),
    ]
    assert parse_sources("a_000.tar") == parse_sources(["a_000.tar"]) == [Source(("a_000.tar",), 1.0)]


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        ("a_{000..004}.tar", FileNotFoundError, "2 of the 5 shards .* a_003.tar, a_004.tar; .* a_000.tar"),
        ("a_01.tar", FileNotFoundError, "no shard 'a_01.tar'; the nearest folder .* holds a_001.tar"),
        ("nowhere/at/all/*.tar", FileNotFoundError, "no shard 'nowhere/at/all/"),
        ("empty/x.tar", FileNotFoundError, "empty, is empty"),
        ("empty", ValueError, "is a folder; name the shards in it, e.g. 'empty/\\*.tar'"),
        ("a_{000..", ValueError, "braces in 'a_{000..' do not match"),
        ("pipe: ", ValueError, "holds no command"),
        ("gopher://host/x.tar", ValueError, "'gopher://host/x.tar' cannot be read: Protocol not known"),
        ("", ValueError, "none empty"),
        (7, ValueError, "7 names no data"),
        ({"urls": []}, ValueError, "must be a string or a list of strings"),
        ({"urls": ["a_000.tar", 3]}, ValueError, "must be a string or a list of strings"),
        ({"weight": 2}, ValueError, "must be a string or a list of strings"),
        ({"url": "a_000.tar"}, ValueError, "'url' .* the nearest is 'urls'"),
        ({"urls": "a_000.tar", "weight": 0}, ValueError, "weight 0 of 'a_000.tar' must be a number above 0"),
        ({"urls": "a_000.tar", "weight": "2"}, ValueError, "weight '2'"),
        ({"urls": "a_000.tar", "weight": True}, ValueError, "weight True"),
        ({"urls": "a_000.tar", "weight": float("inf")}, ValueError, "weight inf"),
        ({"urls": "a_000.tar", "weight": float("nan")}, ValueError, "weight nan"),
    ],
)
def test_mistakes_are_named(folder, entry, error, message):
    with pytest.raises(error, match=message):
        parse_sources([entry])


@pytest.mark.parametrize(
    ("path", "held"),
    [
        ("elsewhere/train_0.tar", "holds x_0.tar, x_1.tar, x_2.tar, x_3.tar and 2 more."),
        ("shard/train_0.tar", "holds shards."),
        ("shards/train_1.tar", "holds train_0.tar."),
        ("sources/train_0.tar", "holds no tar archive."),
        ("hidden/train_0.tar", "holds no tar archive."),
    ],
)
def test_only_what_may_be_meant_is_named_beside_a_missing_shard(tmp_path, path, held):
    names = ["shards/train_0.tar", "sources/train.py", "sources/.gitignore", "hidden/.train_0.tar"]
    for name in [*names, ".git", "README.md", *(f"x_{number}.tar" for number in range(6))]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError) as error:
        parse_sources([str(tmp_path / path)])
    folder = (tmp_path / path).parent if (tmp_path / path).parent.exists() else tmp_path
    assert f"the nearest folder that exists, {folder}, {held}" in str(error.value)


def test_no_entries():
    with pytest.raises(ValueError, match="the list of data is empty"):
        parse_sources([])


def test_repeated_shards_are_told(folder, caplog):
    assert len(urls_of("a_000.tar", "a_*.tar")) == 4
    assert [(r.levelno, r.args) for r in caplog.records] == [(logging.WARNING, ("a_000.tar",))]


@given(st.lists(st.from_regex(r"(https://h/)?([ab]/){0,3}[xy]\.tar(\?t=[12])?", fullmatch=True)))
def test_labels_are_distinct_and_end_like_their_shards(urls):
    labels = shard_labels(urls)
    assert len(set(labels)) == len(urls)
    for label, url in zip(labels, urls, strict=True):
        assert label.split(" (")[0] in url
        assert "?" not in label or not is_remote(url)


def test_labels_are_short():
    assert shard_labels([f"/data/train/{n}.tar" for n in range(3)]) == ["0.tar", "1.tar", "2.tar"]
    assert shard_labels(["/a/train/0.tar", "/a/test/0.tar"]) == ["train/0.tar", "test/0.tar"]
    assert shard_labels(["pipe:cat /x/0.tar", "/y/1.tar"]) == ["0.tar", "1.tar"]
