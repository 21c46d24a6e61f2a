"""From any position on, the data go on exactly as if nothing had happened."""

from __future__ import annotations

import io
import json
import multiprocessing
from itertools import islice

import pytest
import torch
from shard_cases import clip, crop_batches, is_same, keys_of, write_shards, write_tar

from pretrain.reading import crop_stream
from pretrain.shards import Batch, CropBatches

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning",  # fork, since Python 3.12
    "ignore:This DataLoader will create:UserWarning",  # more workers than cores
)


@pytest.fixture
def spoilt_data(tmp_path) -> list[str]:
    """Shards of different lengths with long and short files, and every kind of fault."""
    good = write_shards(tmp_path / "good", [[3, 1, 9, 0.5, 2]] * 3 + [[1]])
    write_tar(
        tmp_path / "spoilt.tar",
        [(f"{n}.flac", clip(2, n)) if n % 3 else (f"{n}.wav", b"junk" * (n % 2)) for n in range(15)],
    )
    cut = write_tar(tmp_path / "cut.tar", [(f"{n}.flac", clip(1, n)) for n in range(6)])
    with cut.open("r+b") as file:
        file.truncate(5000)
    (tmp_path / "junk.tar").write_bytes(b"junk")
    return [good, f"{tmp_path}/{{spoilt,cut,junk}}.tar"]


def through_a_file(state: dict) -> dict:
    """As a checkpoint is written and read."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def run(batches: CropBatches, n: int | None) -> tuple[list[Batch], list[dict]]:
    """The first n batches, and the state before each and after the last."""
    given, states = [], [batches.state_dict()]
    for batch in islice(batches, n):
        given.append(batch)
        states.append(batches.state_dict())
    return given, states


@pytest.mark.parametrize(("n_workers", "every"), [(0, 1), (2, 3), pytest.param(3, 4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("resampled", [False, True])
@pytest.mark.parametrize("shuffle_crops", [0, 12])
def test_resumed_is_uninterrupted(spoilt_data, n_workers, every, resampled, shuffle_crops):
    """From each of many points, also among the last batches of a pass, with the same counts of faults."""
    options = {"n_workers": n_workers, "resampled": resampled, "shuffle_crops": shuffle_crops, "seed": 3}
    n = 40 if resampled else None
    batches = crop_batches(spoilt_data, **options)
    batches.set_pass(2)
    whole, states = run(batches, n)
    assert len(whole) >= 16
    for done in {*range(0, len(whole), every), len(whole) - 1, len(whole)}:
        resumed = crop_batches(spoilt_data, **options)
        resumed.load_state_dict(through_a_file(states[done]))
        resumed.set_pass(2)  # as a loop over passes says it
        rest, _ = run(resumed, None if n is None else n - done)
        assert is_same(rest, whole[done:])
        if not resampled:
            assert resumed.skipped_total == batches.skipped_total


@pytest.mark.parametrize("n_workers", [0, 2])
def test_resumed_twice(spoilt_data, n_workers):
    """A resumed run can be interrupted in its turn, before and after it gave a batch."""
    options = {"n_workers": n_workers, "resampled": True, "shuffle_crops": 12}
    whole, states = run(crop_batches(spoilt_data, **options), 12)
    for between in (0, 1, 4):
        second = crop_batches(spoilt_data, **options)
        second.load_state_dict(states[5])
        list(islice(second, between))
        third = crop_batches(spoilt_data, **options)
        third.load_state_dict(through_a_file(second.state_dict()))
        assert is_same(list(islice(third, 12 - 5 - between)), whole[5 + between :])


@pytest.mark.parametrize("n_workers", [0, 2])
def test_ended_pass_stays_ended(spoilt_data, n_workers):
    batches = crop_batches(spoilt_data, n_workers=n_workers)
    whole = list(batches)
    resumed = crop_batches(spoilt_data, n_workers=n_workers)
    resumed.load_state_dict(through_a_file(batches.state_dict()))
    assert list(resumed) == []
    assert is_same(list(resumed), whole)  # the next iteration is a new one
    resumed.load_state_dict(batches.state_dict())
    resumed.set_pass(1)
    assert is_same(list(resumed), whole)  # unshuffled passes are alike


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("resampled", [False, True])
def test_consumed_audio_is_not_decoded_again(tmp_path, monkeypatch, n_workers, resampled):
    """Beyond the shuffle buffers: late in an epoch, a resume decodes what waits there and what comes."""
    counter = multiprocessing.Value("i", 0)  # shared with forked workers
    decode = crop_stream.decode_crops

    def counting(*args):
        with counter.get_lock():
            counter.value += 1
        return decode(*args)

    monkeypatch.setattr(crop_stream, "decode_crops", counting)
    n_files, capacity, n_streams = 400, 12, max(1, n_workers)
    data = write_shards(tmp_path, [[1] * (n_files // 4)] * 4)
    options = {"n_workers": n_workers, "shuffle_crops": capacity, "resampled": resampled}
    n = n_files // 4
    whole, states = run(crop_batches([data], **options), n)
    decoded_in_all = counter.value

    for left in (25, 5):
        counter.value = 0
        resumed = crop_batches([data], **options)
        resumed.load_state_dict(states[n - left])
        assert is_same(list(islice(resumed, left)), whole[-left:])
        prefetched = 4 * 2 * n_streams * bool(n_workers)  # batches of 4 that workers make in advance
        new = left * 4
        in_buffers = 2 * capacity * n_streams
        assert new - capacity * n_streams <= counter.value <= new + in_buffers + prefetched
        assert counter.value < decoded_in_all / 2


def test_long_file_goes_on_in_its_middle(tmp_path):
    write_tar(tmp_path / "0.tar", [("long.flac", clip(100)), ("short.flac", clip(1))])
    batches = crop_batches([f"{tmp_path}/0.tar"], shuffle_crops=3)
    whole, states = run(batches, None)
    position = states[12]["positions"][0]
    assert position["open_file"][:2] == [0, 0]
    assert 48 < position["open_file"][2] < 52 + 2 * 3  # both buffers of crops are ahead
    resumed = crop_batches([f"{tmp_path}/0.tar"], shuffle_crops=3)
    resumed.load_state_dict(states[12])
    assert is_same(list(resumed), whole[12:])


def test_positions_are_small_and_plain(tmp_path):
    """They travel with each batch."""
    data = write_shards(tmp_path, [[1] * 100] * 12)
    batches = crop_batches([data], shuffle_crops=512, resampled=True)
    list(islice(batches, 250))
    state = batches.state_dict()
    position = state["positions"][0]
    assert len(position["crops"].split()) == len(position["files"].split()) == 511
    assert json.loads(json.dumps(state)) == state
    assert len(json.dumps(state)) < 12_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_workers": 2}, "n_workers 0, here 2"),
        ({"rank": 1, "n_ranks": 2}, "rank 0, here 1; n_ranks 1, here 2"),
        ({"seed": 1}, "seed 0, here 1"),
        ({"shuffle_crops": 9}, "shuffle_crops 4, here 9"),
        ({"resampled": True}, "resampled False, here True"),
        ({"chunk_samples": 100}, "chunk_samples 160, here 100"),
        ({"data": ["0.tar"]}, r"shards '3 \(.*\)', here '1 \("),
        ({"data": ["{0,2,1}.tar"]}, r"shards '3 \(.*\)', here '3 \("),
    ],
)
def test_positions_of_other_data_are_refused(tmp_path, monkeypatch, change, message):
    write_shards(tmp_path, [[1]] * 3)
    monkeypatch.chdir(tmp_path)
    state = crop_batches(["{0..2}.tar"], shuffle_crops=4).state_dict()
    options = {"data": ["{0..2}.tar"], "shuffle_crops": 4} | change
    with pytest.raises(ValueError, match=message):
        crop_batches(**options).load_state_dict(state)


def test_data_may_lie_elsewhere(tmp_path):
    """The same shards on another disk: only their names count."""
    one, other = (write_shards(tmp_path / name, [[2, 3, 1]] * 3) for name in ("one", "other"))
    whole, states = run(crop_batches([one], shuffle_crops=4), None)
    resumed = crop_batches([other], shuffle_crops=4)
    resumed.load_state_dict(states[2])
    assert is_same(list(resumed), whole[2:])


def test_vanished_audio_is_counted(tmp_path):
    """What waited in the buffers is gone: the run goes on without it and says so."""
    data = write_shards(tmp_path, [[1] * 20] * 2)
    batches = crop_batches([data], shuffle_crops=40)
    _, states = run(batches, 1)
    waiting = states[1]["positions"][0]
    n_waiting = sum(word.startswith("0,") for word in (waiting["files"] + " " + waiting["crops"]).split()) + (
        waiting["open_file"][:1] == [0]
    )
    n_mixing = sum(word.split(",")[1] == "0" for word in states[1]["waiting"].split())
    assert n_mixing > 0
    (tmp_path / "0.tar").write_bytes(b"junk")
    resumed = crop_batches([data], shuffle_crops=40)
    resumed.load_state_dict(states[1])
    keys = keys_of(resumed)
    assert {key[0] for key in keys} == {"1"}
    assert resumed.skipped_total["not found again"] == n_waiting + n_mixing
    assert resumed.skipped_total["shard unreadable"] in (1, 2)  # for the buffers, and to go on in it
