"""Functions run on several processes, as a launcher would run them."""

from __future__ import annotations

import multiprocessing
import os
import socket

import torch

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["pretrain.train", "safetensors.torch", "accelerate"])


def _as_rank(rank: int, count: int, port: int, task, arguments) -> None:
    torch.set_num_threads(1)
    addresses = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ.update(addresses | {name: str(value) for name, value in ranks.items()})
    task(*arguments)


def on_processes(task, *arguments, count: int = 2, limit_s: float = 240) -> None:
    """Run a function on several processes, as a launcher would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        FORKED.Process(target=_as_rank, args=(rank, count, port, task, arguments)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(limit_s)
    still_running = [process for process in processes if process.is_alive()]
    for process in still_running:
        process.kill()
    assert not still_running, "a process waits for another"
    assert [process.exitcode for process in processes] == [0] * count
