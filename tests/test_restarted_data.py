"""A stream whose position is lost begins again with other crops, and says so."""

from __future__ import annotations

import logging
from itertools import islice

import pytest
from pretraining_data import settings, write_shards
from process_cases import on_processes
from shard_cases import all_keys, crop_batches, is_same, keys_of
from shard_cases import write_shards as write_small_shards

from pretrain.training.config import PretrainConfig
from pretrain.training.data import TrainingData
from pretrain.training.processes import Processes
from pretrain.training.read_config import config_of

LOGGER = "pretrain.training.data"


def training_data(folder, processes: Processes | None = None, **changes) -> TrainingData:
    config = config_of(settings(folder, **changes), kind=PretrainConfig)
    return TrainingData(config, processes or Processes(), is_for_gpu=False)


def first_keys(data: TrainingData) -> list[str]:
    return [key for batch in data.take(4) for key in batch.keys]


def stopped(folder, **changes) -> tuple[TrainingData, object]:
    """A run's data and their position after some batches."""
    data = training_data(folder, **changes)
    data.open(0)
    data.take(3)
    return data, data.position()


@pytest.mark.parametrize("resampled", [True, False])
@pytest.mark.parametrize("change", [{"num_workers": 1}, {"seed": 7}, {"crop_shuffle": 5}])
def test_a_lost_position_does_not_repeat_the_first_crops(tmp_path, caplog, resampled, change):
    write_shards(tmp_path)
    shared = {"resampled": resampled}
    _, position = stopped(tmp_path, **shared)
    beginning = training_data(tmp_path, **shared, **change)
    beginning.open(0)
    at_first = first_keys(beginning)
    orders = []
    for iteration in (3, 3, 5):
        data = training_data(tmp_path, **shared, **change)
        with caplog.at_level(logging.WARNING, logger=LOGGER):
            data.resume(0, position, iteration, {})
        orders.append(first_keys(data))
        assert f"begins again, with new shuffles for iteration {iteration}" in caplog.text
    assert orders[0] == orders[1], "the same run resumed twice"
    assert at_first != orders[0] != orders[2] != at_first


def test_a_position_that_fits_is_used(tmp_path, caplog):
    write_shards(tmp_path)
    before, position = stopped(tmp_path)
    data = training_data(tmp_path)
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        data.resume(0, position, 3, {})
    assert is_same(data.take(5), before.take(5))
    assert not caplog.records


def test_without_a_position_the_data_begin_again(tmp_path, caplog):
    """As in a process that the run did not have before."""
    write_shards(tmp_path)
    fresh, _ = stopped(tmp_path)
    data = training_data(tmp_path)
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        data.resume(0, None, 3, {"empty": 2})
    fresh.open(0)
    assert first_keys(data) != first_keys(training_data_opened(tmp_path))
    assert data.skipped() == {"empty": 2}
    assert "this process has no saved position" in caplog.text


def training_data_opened(folder) -> TrainingData:
    data = training_data(folder)
    data.open(0)
    return data


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_restarted_stream_is_resumed_exactly(tmp_path, n_workers):
    """Its later positions hold the iteration of the restart."""
    data = write_small_shards(tmp_path, [[3, 1, 2]] * 4)
    options = {"resampled": True, "shuffle_crops": 6, "n_workers": n_workers}
    batches = crop_batches([data], **options)
    batches.start_anew(40)
    list(islice(batches, 3))
    state = batches.state_dict()
    expected = list(islice(batches, 6))
    resumed = crop_batches([data], **options)
    resumed.load_state_dict(state)
    assert is_same(list(islice(resumed, 6)), expected)


def test_a_restarted_pass_gives_every_crop_once_over_all_ranks(tmp_path):
    files = [[3, 1, 2]] * 5
    data = write_small_shards(tmp_path, files)
    keys = []
    for rank in range(2):
        batches = crop_batches([data], shuffle_crops=6, rank=rank, n_ranks=2)
        batches.start_anew(40)
        keys += keys_of(batches)
    assert sorted(keys) == sorted(all_keys(files))


def _resume_with_one_position_lost(folder) -> None:
    """Rank 1 has lost its file: rank 0 must begin again too, or crops would come twice or never."""
    from accelerate import PartialState

    PartialState(cpu=True)
    processes = Processes.of_this_run()
    data = training_data(folder, processes, resampled=False, epoch_length=None)
    data.open(0)
    data.take(1)
    position = data.position() if processes.rank == 0 else None
    resumed = training_data(folder, processes, resampled=False, epoch_length=None)
    resumed.resume(0, position, 1, {})
    keys = [key for batch in resumed.take(1000) for key in batch.keys]
    gathered = processes.gathered(keys)
    everyones = [key for rank in gathered for key in rank]
    fresh = training_data(folder, processes, resampled=False, epoch_length=None)
    fresh.open(0)
    whole = processes.gathered([key for batch in fresh.take(1000) for key in batch.keys])
    assert sorted(everyones) == sorted(key for rank in whole for key in rank)
    assert gathered != whole
    processes.part()


@pytest.mark.slow
def test_if_one_process_has_lost_its_position_all_begin_again(tmp_path):
    write_shards(tmp_path)
    on_processes(_resume_with_one_position_lost, tmp_path)


def test_what_was_left_out_before_a_restart_still_counts_after_the_next_resume(tmp_path):
    write_shards(tmp_path)
    _, position = stopped(tmp_path)
    restarted = training_data(tmp_path, seed=7)
    restarted.resume(0, position, 3, {"empty": 2})
    restarted.take(1)
    resumed = training_data(tmp_path, seed=7)
    resumed.resume(0, restarted.position(), 4, {"empty": 2})
    assert resumed.skipped() == {"empty": 2}


def test_what_was_left_out_counts_once_if_another_process_has_lost_its_position(tmp_path):
    write_shards(tmp_path)
    data, position = stopped(tmp_path)
    position["skipped_total"] = {"empty": 2}
    processes = Processes()
    processes.sums = lambda numbers: [1.0]  # the other one has lost its position
    data = training_data(tmp_path, processes)
    data.resume(0, position, 3, {"empty": 2})
    assert data.skipped() == {"empty": 2}
