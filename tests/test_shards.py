"""Batches of crops: everything once, nothing twice, faults counted, never a hang."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_cases import (
    CHUNK,
    all_keys,
    clip,
    crop_batches,
    encoded,
    is_same,
    keys_of,
    noise,
    write_shards,
    write_tar,
)

from pretrain.reading import crop_stream, data_worker, skip_log
from pretrain.reading.sources import Source
from pretrain.shards import Batch, CropBatches, NoUsableAudio

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


def test_crops_in_order(tmp_path):
    batches = list(crop_batches([write_shards(tmp_path, FILES)], batch_size=5))
    assert keys_of(batches) == all_keys(FILES)
    assert [len(batch.keys) for batch in batches] == [5, 5, 5, 1]
    first = batches[0].waveforms
    assert first.dtype == torch.float32
    assert first.shape == (5, CHUNK)
    expected = noise(round(2.5 * CHUNK), seed=1)[:, 0]  # file 1 of shard 0 is the second to the third crop
    np.testing.assert_array_equal(first[1:3].numpy().ravel(), expected[: 2 * CHUNK])


def test_last_batches_can_be_dropped(tmp_path):
    batches = crop_batches([write_shards(tmp_path, FILES)], batch_size=5, drop_last=True)
    assert [len(batch.keys) for batch in batches] == [5, 5, 5]


@settings(max_examples=60, deadline=None)
@given(
    crops_of_files=st.lists(st.lists(st.sampled_from([0.5, 1, 3]), max_size=4), min_size=1, max_size=5),
    n_ranks=st.integers(1, 4),
    n_workers=st.integers(0, 3),
    shuffle_crops=st.sampled_from([0, 1, 3, 50]),
    pass_index=st.integers(0, 2),
)
def test_a_pass_gives_every_crop_once(
    tmp_path_factory, crops_of_files, n_ranks, n_workers, shuffle_crops, pass_index
):
    """Over all ranks, however many shards, samples, ranks and workers there are."""
    data = write_shards(tmp_path_factory.mktemp("shards"), crops_of_files)
    keys = []
    for rank in range(n_ranks):
        batches = crop_batches([data], n_ranks=n_ranks, rank=rank, shuffle_crops=shuffle_crops)
        for worker in range(max(1, n_workers)):
            keys += keys_of(stream_of(batches, worker, max(1, n_workers), pass_index))
    assert sorted(keys) == sorted(all_keys(crops_of_files))


def stream_of(batches: CropBatches, worker: int, n_workers: int, pass_index: int):
    """What one of several workers would give, without starting processes."""
    plan = crop_stream.replace(batches._plan, n_streams=batches._n_ranks * n_workers)
    stream = crop_stream.CropStream(plan, worker * batches._n_ranks + batches._rank, pass_index)
    return stream.batches()


@pytest.mark.parametrize(("n_shards", "n_ranks", "n_workers"), [(3, 2, 2), (1, 2, 0), (1, 2, 2), (1, 1, 3)])
def test_processes_share_a_pass(tmp_path, n_shards, n_ranks, n_workers):
    files = [[1, 2, 1, 3]] * n_shards
    data = write_shards(tmp_path, files)
    of_ranks = [
        keys_of(crop_batches([data], rank=rank, n_ranks=n_ranks, n_workers=n_workers, shuffle_crops=3))
        for rank in range(n_ranks)
    ]
    assert all(of_ranks)
    assert sorted(chain(*of_ranks)) == sorted(all_keys(files))


@pytest.mark.parametrize("n_workers", [0, 2])
def test_passes_differ_and_repeat(tmp_path, n_workers):
    data = write_shards(tmp_path, [[2] * 6] * 4)
    batches = crop_batches([data], shuffle_crops=8, n_workers=n_workers)
    orders = []
    for index in (0, 1, 1):
        batches.set_pass(index)
        orders.append(list(batches))
    assert keys_of(orders[0]) != keys_of(orders[1])
    assert sorted(keys_of(orders[0])) == sorted(keys_of(orders[1]))
    assert is_same(orders[1], orders[2])
    again = crop_batches([data], shuffle_crops=8, n_workers=n_workers)
    assert is_same(list(again), orders[0])
    other = crop_batches([data], shuffle_crops=8, n_workers=n_workers, seed=1)
    assert keys_of(other) != keys_of(orders[0])


def test_passes_shuffle_the_shards(tmp_path):
    """Alike on all ranks, as each takes its own of them."""
    data = write_shards(tmp_path, [[1, 1]] * 8)
    batches = crop_batches([data], shuffle_crops=1)
    orders = []
    for index in range(3):
        batches.set_pass(index)
        orders.append([key[0] for key in keys_of(batches)][::2])
    assert all(sorted(order) == list("01234567") for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_ranks_shuffle_differently(tmp_path):
    data = write_shards(tmp_path, [[1] * 20] * 2)
    files = [
        [key.split("/")[1] for key in keys_of(crop_batches([data], shuffle_crops=20, rank=rank, n_ranks=2))]
        for rank in range(2)
    ]
    assert sorted(files[0]) == sorted(files[1])
    assert files[0] != files[1]


def test_shuffling_mixes_shards_and_files(tmp_path):
    data = write_shards(tmp_path, [[4] * 8] * 8)
    keys = keys_of(crop_batches([data], shuffle_crops=64))
    shards = [key[0] for key in keys]
    neighbours = sum(a == b for a, b in pairwise(shards)) / len(shards)
    assert neighbours < 0.5  # 0.97 in order, 0.125 at random
    assert shards[:32] != sorted(shards[:32])


def test_published_buffers_fill_to_a_quarter(tmp_path):
    """The first batch must not wait for 512 files."""
    data = write_shards(tmp_path, [[1] * 50])
    batches = crop_batches([data], shuffle_crops=40)
    next(iter(batches))
    position = batches.state_dict()["positions"][0]
    n_read = position["next_member"]
    assert 10 + 10 <= n_read <= 10 + 10 + 2 * (4 + 10)


def test_resampled_data_follow_the_weights(tmp_path):
    data = write_shards(tmp_path, [[1]] * 4)
    shards = [data.replace("{0..3}", str(n)) for n in range(4)]
    sources = [shards[0], {"urls": shards[1:3], "weight": 2}, {"urls": shards[3], "weight": 0.5}]
    keys = keys_of(crop_batches(sources, resampled=True, shuffle_crops=16, batch_size=20), 200)
    counts = Counter(key[0] for key in keys)
    shares = np.array([counts[str(n)] for n in range(4)]) / len(keys)
    # standard deviations of 4000 draws are below 0.008
    np.testing.assert_allclose(shares, np.array([1, 2, 2, 0.5]) / 5.5, atol=0.032)


def test_resampled_streams_differ_and_go_on(tmp_path):
    data = write_shards(tmp_path, [[1, 1, 1]] * 5)
    ranks = [crop_batches([data], resampled=True, shuffle_crops=8, rank=rank, n_ranks=2) for rank in range(2)]
    assert keys_of(ranks[0], 10) != keys_of(ranks[1], 10)
    whole = keys_of(crop_batches([data], resampled=True, shuffle_crops=8), 20)
    batches = crop_batches([data], resampled=True, shuffle_crops=8)
    assert keys_of(batches, 10) + keys_of(batches, 10) == whole


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


def started(tmp_path) -> tuple[Iterator[Batch], list[multiprocessing.Process]]:
    """Endless batches, and the workers that make them."""
    data = write_shards(tmp_path, [[1] * 50] * 2)
    others = multiprocessing.active_children()
    iterator = iter(crop_batches([data], resampled=True, n_workers=2))
    next(iterator)
    return iterator, [child for child in multiprocessing.active_children() if child not in others]


def test_dead_worker_raises(tmp_path):
    iterator, workers = started(tmp_path)

    def kill_and_read_on():  # the error may come between any two instructions
        os.kill(workers[0].pid, signal.SIGKILL)
        for _ in iterator:
            pass

    with pytest.raises(RuntimeError, match="worker .* killed|worker .* exited|worker died"):
        kill_and_read_on()
    workers[1].kill()  # if its queue is broken, it would end only after a while


def test_workers_live_through_signals_to_all(tmp_path):
    """The trainer must still get batches, to save and stop."""
    iterator, workers = started(tmp_path)
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
        os.kill(worker.pid, signal.SIGTERM)
    assert len(list(islice(iterator, 20))) == 20
    iterator.close()
    for worker in workers:
        worker.join(10)
        assert not worker.is_alive()


@pytest.mark.parametrize("is_told_again", [False, True])
def test_workers_end_some_time_after_a_signal(tmp_path, monkeypatch, is_told_again):
    monkeypatch.setattr(data_worker, "GRACE_S", 600 if is_told_again else 1)
    iterator, workers = started(tmp_path)

    def signal_and_read_on():
        os.kill(workers[0].pid, signal.SIGTERM)
        for _ in iterator:
            if is_told_again:
                os.kill(workers[0].pid, signal.SIGTERM)

    with pytest.raises(RuntimeError, match="worker .* killed|worker .* exited|worker died"):
        signal_and_read_on()
    workers[1].kill()


@pytest.mark.parametrize("n_workers", [0, 1])
def test_random_numbers_of_others_are_left_alone(tmp_path, n_workers):
    data = write_shards(tmp_path, FILES)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(crop_batches([data], shuffle_crops=4, n_workers=n_workers))
    assert torch.equal(torch.get_rng_state(), torch_before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)


def test_encoded_files_in_memory_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(crop_stream, "FILE_BUFFER_BYTES", 20_000)
    long = encoded(noise(10 * CHUNK), "wav")
    write_tar(tmp_path / "0.tar", [(f"{n}.wav", long) for n in range(60)])
    most = 0
    batches = crop_batches([f"{tmp_path}/0.tar"], shuffle_crops=1000, batch_size=1)
    plan = batches._plan
    stream = crop_stream.CropStream(plan, 0, 0)
    n_crops = 0
    for batch in stream.batches():
        most = max(most, sum(len(file.data) for file in stream.files))
        n_crops += len(batch.keys)
    assert n_crops == 600
    assert 20_000 - len(long) <= most <= 20_000 + 2 * len(long)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be a whole number from 1 on"),
        ({"chunk_samples": 1.5}, "chunk_samples is 1.5"),
        ({"shuffle_crops": -1}, "shuffle_crops is -1; it must be a whole number from 0 on"),
        ({"seed": -1}, "seed is -1"),
        ({"rank": 2, "n_ranks": 2}, "n_ranks is 2; it must be a whole number from 3 on"),
        ({"n_workers": True}, "n_workers is True"),
    ],
)
def test_impossible_settings(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        crop_batches([write_shards(tmp_path, [[1]])], **options)


def test_weights_need_resampling(tmp_path):
    with pytest.raises(ValueError, match=r"weights \[1.0, 2.0\] need resampling"):
        crop_batches([write_shards(tmp_path, [[1]]), {"urls": f"{tmp_path}/0.tar", "weight": 2}])


def test_no_shards():
    with pytest.raises(ValueError, match="there are no shards"):
        CropBatches([Source(())], batch_size=1, chunk_samples=1, shuffle_crops=0, resampled=True, seed=0)
