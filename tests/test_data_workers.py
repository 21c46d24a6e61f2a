"""Data workers that die, are signalled, or share the trainer's random numbers."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from shard_cases import crop_batches, write_shards

from pretrain.reading import data_worker
from pretrain.shards import Batch

# fork, since Python 3.12
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def started(tmp_path) -> tuple[Iterator[Batch], list[multiprocessing.Process]]:
    """Endless batches, and the workers that make them."""
    data = write_shards(tmp_path, [[1] * 50] * 2)
    others = multiprocessing.active_children()
    iterator = iter(crop_batches([data], resampled=True, n_workers=2))
    list(islice(iterator, 2))  # one of each: only then have both come to heed signals
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


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.parametrize("is_told_again", [False, True])
def test_workers_end_some_time_after_a_signal(tmp_path, monkeypatch, is_told_again):
    """A worker may die while it hands over a batch: multiprocessing leaves our end of that socket open."""
    monkeypatch.setattr(data_worker, "GRACE_S", 600 if is_told_again else 1)
    iterator, workers = started(tmp_path)

    def signal_and_read_on(iterator):
        os.kill(workers[0].pid, signal.SIGTERM)
        for _ in iterator:
            if is_told_again:
                os.kill(workers[0].pid, signal.SIGTERM)

    with pytest.raises(RuntimeError, match="worker .* killed|worker .* exited|worker died"):
        signal_and_read_on(iterator)
    workers[1].kill()
    del iterator
    gc.collect()


@pytest.mark.parametrize("n_workers", [0, 1])
def test_random_numbers_of_others_are_left_alone(tmp_path, n_workers):
    data = write_shards(tmp_path, [[1, 2.5, 0.3], [4, 1]])
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(crop_batches([data], shuffle_crops=4, n_workers=n_workers))
    assert torch.equal(torch.get_rng_state(), torch_before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)
