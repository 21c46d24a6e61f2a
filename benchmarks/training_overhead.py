"""What the training loop adds to a bare step: masks, agreement, schedule, metrics, bar.

The audio is in memory: reading it is `data_pipeline.py`'s matter. Loop and bare step
take turns on the same weights in one process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import measure
import torch

from pretrain.masking import random_mask
from pretrain.shards import Batch
from pretrain.training.build import join_processes, new_accelerator
from pretrain.training.journal import Journal
from pretrain.training.masked_modelling import MaskedModelling
from pretrain.training.processes import Processes, StopRequest
from pretrain.training.read_config import config_of
from pretrain.training.trainer import Trainer


def new_trainer(model: str, clips: int, folder: Path) -> Trainer:
    """A trainer whose data are one batch in memory, over and over."""
    (folder / "none.tar").touch()
    config = config_of(
        {
            "train_data": [str(folder / "none.tar")],
            "cv_data": [str(folder / "none.tar")],
            "model": model,
            "model_args": {"group_masking": True},
            "batch_size": clips,
            "optimizer": "AdamW",
            "optimizer_args": {"lr": 1e-5},
            "num_workers": 0,
            "log_every": 50,
        }
    )
    join_processes()
    trainer = Trainer(MaskedModelling(config), folder, new_accelerator(config, folder), Processes())
    batch = Batch(0.1 * torch.randn(clips, config.chunk_samples), [f"clip {i}" for i in range(clips)], {})
    trainer.data.open(0)
    trainer.data.take = lambda n_batches: [batch] * n_batches
    trainer.journal = Journal(folder, trainer.accelerator, 0, None, "benchmark")
    trainer.model.train()
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="dasheng_tiny", help="the smaller, the harder")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()
    measure.use_cores(args.cores)
    with tempfile.TemporaryDirectory() as folder:
        trainer = new_trainer(args.model, args.clips, Path(folder))
        waveforms = trainer.data.take(1)[0].waveforms
        model, optimizer = trainer.step.bare_model, trainer.step.optimizer.optimizer
        stop, n_tokens = StopRequest(), model.n_tokens(waveforms.shape[1])
        mask = random_mask(args.clips, n_tokens, 0.75, 2)

        def bare() -> None:
            model(waveforms, mask).mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        seconds = measure.alternate({"bare step": bare, "loop": lambda: trainer._advance(stop)}, args.rounds)
        trainer.journal.close()
    print(f"{args.model}, {args.clips} clips of 10 s; {measure.machine()}")
    measure.report(seconds, "bare step")
    added = statistics.median(a - b for a, b in zip(seconds["loop"], seconds["bare step"], strict=True))
    part = added / statistics.median(seconds["bare step"])
    print(f"the loop adds {1000 * added:.1f} ms, {100 * part:.1f} % of a step")


if __name__ == "__main__":
    main()
