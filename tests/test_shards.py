"""Batches of crops: everything once, nothing twice, faults counted, never a hang."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_cases import (
    CHUNK,
    all_keys,
    crop_batches,
    encoded,
    is_same,
    keys_of,
    noise,
    write_shards,
    write_tar,
)

from pretrain.reading import crop_stream
from pretrain.reading.sources import Source
from pretrain.shards import CropBatches

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning",  # fork, since Python 3.12
    "ignore:This DataLoader will create:UserWarning",  # more workers than cores
)

FILES = [[1, 2.5, 0.3], [4, 1], [3.9, 1, 1, 2]]


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
    plan = replace(batches._plan, n_streams=batches._n_ranks * n_workers)
    stream = crop_stream.CropStream(plan, worker * batches._n_ranks + batches._rank, pass_index)
    return stream.pieces()


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
    """The first batch must not wait for three full buffers: two crops enter one for each that leaves it."""
    data = write_shards(tmp_path, [[1] * 200])
    batches = crop_batches([data], shuffle_crops=40, batch_size=1)
    next(iter(batches))
    position = batches.state_dict()["positions"][0]
    n_read = position["next_member"]
    assert 10 + 10 + 10 <= n_read <= 10 + 2 * (10 + 2 * (10 + 2))


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


def test_encoded_files_in_memory_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(crop_stream, "FILE_BUFFER_BYTES", 20_000)
    long = encoded(noise(10 * CHUNK), "wav")
    write_tar(tmp_path / "0.tar", [(f"{n}.wav", long) for n in range(60)])
    most = 0
    batches = crop_batches([f"{tmp_path}/0.tar"], shuffle_crops=1000, batch_size=1)
    plan = batches._plan
    stream = crop_stream.CropStream(plan, 0, 0)
    n_crops = 0
    for batch in stream.pieces():
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
