"""Unusable shards and files are skipped and counted; data of nothing else stop the run."""

from __future__ import annotations

import logging
import os
from collections import Counter

import numpy as np
import pytest
from shard_cases import CHUNK, all_keys, clip, crop_batches, encoded, keys_of, write_shards, write_tar

from pretrain.reading import crop_stream, skip_log
from pretrain.shards import NoUsableAudio

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning",  # fork, since Python 3.12
    "ignore:This DataLoader will create:UserWarning",  # more workers than cores
)

FILES = [[1, 2.5, 0.3], [4, 1], [3.9, 1, 1, 2]]
SPOILT = [
    ("junk.wav", b"junk"),
    ("empty.flac", b""),
    ("nan.wav", encoded(np.full(CHUNK, np.nan), "wav", subtype="FLOAT")),
]


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("shuffle_crops", [0, 5])
def test_faults_are_counted_and_the_rest_is_used(tmp_path, n_workers, shuffle_crops):
    data = write_shards(tmp_path, FILES)
    good = [(f"{n}.flac", clip(1, n)) for n in range(6)]
    write_tar(tmp_path / "spoilt.tar", good[:3] + SPOILT + good[3:])
    cut = write_tar(tmp_path / "cut.tar", good)
    os.truncate(cut, 1000)
    (tmp_path / "junk.tar").write_bytes(b"junk")
    write_tar(tmp_path / "none.tar", [("x.json", b"{}")])
    (tmp_path / "gone.tar").touch()
    batches = crop_batches(
        [data, f"{tmp_path}/{{spoilt,cut,junk,none,gone}}.tar"],
        n_workers=n_workers,
        shuffle_crops=shuffle_crops,
    )
    (tmp_path / "gone.tar").unlink()
    given = list(batches)
    cut_files = [key for key in keys_of(given) if key.startswith("cut")]
    assert cut_files == ["cut.tar/0.flac#0"]
    expected = all_keys(FILES) + [f"spoilt.tar/{n}.flac#0" for n in range(6)]
    assert sorted(keys_of(given)) == sorted(expected + cut_files)
    assert batches.skipped_total == {
        "undecodable": 1,
        "empty": 1,
        "not finite": 1,
        "shard truncated": 1,
        "shard unreadable": 2,
        "shard without audio": 1,
    }
    told = sum((Counter(batch.skipped) for batch in given), Counter())
    assert told <= batches.skipped_total


def test_each_reason_is_told_once(tmp_path, caplog):
    write_tar(tmp_path / "x.tar", [("good.flac", clip(1))] + [(f"{n}.wav", b"junk") for n in range(5)])
    with caplog.at_level(logging.DEBUG, logger="pretrain"):
        assert len(list(crop_batches([f"{tmp_path}/x.tar"]))) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"] + ["DEBUG"] * 4
    assert "undecodable: x.tar/0.wav: Format not recognised" in caplog.messages[0]


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("resampled", [False, True])
@pytest.mark.parametrize("is_shard_bad", [False, True])
def test_data_that_all_fail_stop_the_run(tmp_path, n_workers, resampled, is_shard_bad, monkeypatch):
    monkeypatch.setattr(crop_stream, "MEMBERS_IN_VAIN", 50)
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", [] if is_shard_bad else SPOILT)
    batches = crop_batches(
        [f"{tmp_path}/{{0..2}}.tar"], n_workers=n_workers, resampled=resampled, shuffle_crops=3
    )
    reason = "shard without audio" if is_shard_bad else "undecodable"
    with pytest.raises(NoUsableAudio, match=rf"no usable audio .*\d {reason}.* [012]\.tar") as error:
        next(iter(batches))
    assert "Traceback" not in str(error.value)
    assert batches.skipped_total[reason] >= 3


def test_one_good_file_among_many_bad_ones_is_found(tmp_path):
    """Buffers fill while nothing is decoded yet; that is no reason to give up."""
    for number in range(40):
        (tmp_path / f"{number:02}.tar").write_bytes(b"junk")
    write_tar(tmp_path / "good.tar", [("good.flac", clip(1))])
    batches = crop_batches([f"{tmp_path}/*.tar"], resampled=True, shuffle_crops=40)
    assert set(keys_of(batches, 3)) == {"good.tar/good.flac#0"}


@pytest.mark.parametrize("which", ["FIRST_PATIENCE_S", "PATIENCE_S"])
def test_waiting_too_long_stops_the_run(tmp_path, monkeypatch, which):
    monkeypatch.setattr(skip_log, which, -1)
    write_tar(tmp_path / "0.tar", [("good.flac", clip(1))] * (which == "PATIENCE_S") + SPOILT)
    with pytest.raises(
        NoUsableAudio, match="among the last 0 shards and 1 audio members, in 0 s: 1 undecodable"
    ):
        list(crop_batches([f"{tmp_path}/0.tar"]))


def test_a_rank_without_audio_just_ends(tmp_path):
    """Only the trainer can know whether other ranks have some."""
    write_tar(tmp_path / "0.tar", SPOILT)
    batches = crop_batches([f"{tmp_path}/0.tar"], n_ranks=2, rank=1)
    assert list(batches) == []
    assert batches.skipped_total == {"empty": 1}


def test_too_few_crops_for_a_batch(tmp_path):
    batches = crop_batches([write_shards(tmp_path, [[2]])], drop_last=True)
    with pytest.raises(NoUsableAudio, match="the 2 crops in 1 shards do not fill one batch of 4"):
        list(batches)
