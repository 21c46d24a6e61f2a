"""Batches mix the crops of all data workers, in bounded memory, and are restored exactly."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from shard_cases import CHUNK, all_keys, clip, crop_batches, is_same, keys_of, write_shards, write_tar

from pretrain.reading import mixing
from pretrain.reading.clip_labels import ClipLabels, LabelColumn
from pretrain.reading.crop_stream import Piece
from pretrain.reading.data_worker import Delivery
from pretrain.reading.mixing import Mixture, Snapshot, made_in_advance
from pretrain.shards import Batch

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning",  # fork, since Python 3.12
    "ignore:This DataLoader will create:UserWarning",  # more workers than cores
)


def test_batches_mix_the_crops_of_all_workers(tmp_path):
    """Four workers read a shard each; files of 18 crops."""
    data = write_shards(tmp_path, [[18] * 24] * 4)
    options = {"shuffle_crops": 64, "batch_size": 64}
    batches = list(crop_batches([data], n_workers=4, **options))
    for batch in batches[:-4]:  # at the end of the pass some shards are read out
        assert {key[0] for key in batch.keys} == set("0123")
    alone = list(crop_batches([data.replace("{0..3}", "0")], shuffle_crops=64, batch_size=64))
    assert mean_files(batches[:-4]) > 1.5 * mean_files(alone[1:-1])


def mean_files(batches: list[Batch]) -> float:
    """Different files in a batch, on the average."""
    return float(np.mean([len({key.split("#")[0] for key in batch.keys}) for batch in batches]))


def test_one_worker_is_mixed_over_more_files_than_its_own_buffer_holds(tmp_path):
    """As in the published loader, which shuffles once in the worker and once more in the training process."""
    data = write_shards(tmp_path, [[18] * 120])
    files = mean_files(list(crop_batches([data], shuffle_crops=64, batch_size=64))[4:-4])
    assert files > 17  # 14 with the worker's buffer alone


@pytest.mark.parametrize("n_workers", [0, 3])
@pytest.mark.parametrize("shuffle_crops", [0, 7, 1000])
def test_a_pass_gives_every_crop_once_in_full_batches(tmp_path, n_workers, shuffle_crops):
    files = [[3, 1, 9, 0.5], [2], [1, 1, 5], [4] * 7]
    data = write_shards(tmp_path, files)
    batches = crop_batches([data], n_workers=n_workers, shuffle_crops=shuffle_crops, batch_size=5)
    for data_pass in range(2):
        batches.set_pass(data_pass)
        given = list(batches)
        assert sorted(keys_of(given)) == sorted(all_keys(files))
        assert all(len(batch.keys) == 5 for batch in given[:-1])


def pieces(n_pieces: int, n_crops: int = 16) -> Iterator[Delivery]:
    """What two workers send in turn: crop n of a worker consists of the number n."""
    for number in range(n_pieces):
        worker, first = number % 2, number // 2 * n_crops
        values = torch.arange(first, first + n_crops, dtype=torch.float32)
        waveforms = values[:, None].repeat(1, CHUNK).share_memory_()
        places = [(worker, int(value), 0) for value in values]
        piece = Piece(
            places, [f"{worker}/{int(value)}" for value in values], waveforms, values[:, None].clone()
        )
        yield Delivery(worker, {"given": first + n_crops}, {}, piece)


def mixture(capacity: int, **options) -> Mixture:
    settings = {"batch_size": 8, "capacity": capacity, "is_last_dropped": False, "is_pinned": False} | options
    return Mixture(Snapshot((None, None)), np.random.default_rng(0), **settings)


def test_waiting_crops_are_bounded_and_keep_no_piece_in_shared_memory():
    mixed = mixture(capacity=48)
    most = 0
    for _ in mixed.batches(pieces(200), 0):
        waiting = [*mixed._buffer, *mixed._arriving]
        most = max(most, len(waiting))
        assert all(crop.samples.base is None and crop.samples.flags.owndata for crop in waiting)
    assert 48 <= most <= 48 + 16


def test_names_waveforms_and_targets_stay_together():
    numbers = []
    for batch, _ in mixture(capacity=20).batches(pieces(10), 0):
        if batch is None:
            break
        values = torch.tensor([float(key.split("/")[1]) for key in batch.keys])
        assert torch.equal(batch.waveforms, values[:, None].expand(-1, CHUNK))
        assert torch.equal(batch.targets, values[:, None])
        numbers += batch.keys
    assert sorted(numbers) == sorted(f"{worker}/{n}" for worker in range(2) for n in range(80))


def test_the_record_of_what_waits_holds_no_audio(tmp_path):
    data = write_shards(tmp_path, [[2] * 60] * 2)
    batches = crop_batches([data], n_workers=2, shuffle_crops=32, batch_size=16)
    next(iter(batches))
    state = batches.state_dict()
    rows = state["waiting"].split()
    assert 8 <= len(rows) <= 32 + 16
    assert {row[0] for row in rows} == {"0", "1"}, "crops of both workers wait"
    assert len(str(state)) < 5_000 < len(rows) * CHUNK * 4 / 4


def test_labels_of_waiting_crops_are_restored(tmp_path):
    members = []
    for number in range(40):
        members += [(f"{number}.flac", clip(1, number)), (f"{number}.json", b'{"label": %d}' % (number % 5))]
    write_tar(tmp_path / "0.tar", members)
    options = {
        "clip_labels": ClipLabels(LabelColumn("label", None), tuple("01234")),
        "shuffle_crops": 16,
        "n_workers": 2,
        "resampled": True,
    }
    first = crop_batches([f"{tmp_path}/0.tar"], **options)
    list(islice(first, 3))
    state = first.state_dict()
    assert state["waiting"]
    expected = list(islice(first, 8))
    resumed = crop_batches([f"{tmp_path}/0.tar"], **options)
    resumed.load_state_dict(state)
    given = list(islice(resumed, 8))
    assert is_same(given, expected)
    assert all(torch.equal(one.targets, other.targets) for one, other in zip(given, expected, strict=True))


def test_positions_from_before_crops_were_mixed_here_are_read(tmp_path):
    data = write_shards(tmp_path, [[1] * 30])
    batches = crop_batches([data], shuffle_crops=4)
    state = batches.state_dict()
    for key in ("waiting", "n_arriving", "mixing_rng", "restarted_at"):
        del state[key]
    resumed = crop_batches([data], shuffle_crops=4)
    resumed.load_state_dict(state)
    assert sorted(keys_of(resumed)) == sorted(all_keys([[1] * 30]))


def test_batches_for_a_gpu_are_put_together_in_page_locked_memory(monkeypatch):
    """Without another copy: torch is asked for such memory, and the crops are written into it."""
    asked = []

    def empty(shape, *, dtype, pin_memory):
        asked.append(pin_memory)
        return torch.zeros(shape, dtype=dtype)

    monkeypatch.setattr(mixing.torch, "empty", empty)
    batch, _ = next(mixture(capacity=4, is_pinned=True).batches(pieces(4), 0))
    assert asked == [True, True]  # waveforms and targets
    assert batch.waveforms.any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU for page-locked memory")
@pytest.mark.parametrize("n_workers", [0, 2])
def test_batches_for_a_gpu_are_pinned(tmp_path, n_workers):
    data = write_shards(tmp_path, [[1] * 30])
    for batch in crop_batches([data], shuffle_crops=4, n_workers=n_workers, pin_memory=True):
        assert batch.waveforms.is_pinned()


def test_made_in_advance_gives_all_and_hands_on_errors():
    def three():
        yield from range(3)
        raise ValueError("spoilt")

    items = made_in_advance(three(), is_pinned=False)
    assert list(islice(items, 3)) == [0, 1, 2]
    with pytest.raises(ValueError, match="spoilt"):
        next(items)


def test_made_in_advance_is_one_ahead_and_ends_its_thread():
    made = []
    second = threading.Event()

    def endless():
        while True:
            made.append(len(made))
            if len(made) == 2:
                second.set()
            yield made[-1]

    before = threading.active_count()
    items = made_in_advance(endless(), is_pinned=False)
    assert next(items) == 0
    assert second.wait(60), "the next is made while the first is used"
    items.close()
    assert made == [0, 1]
    assert threading.active_count() == before
