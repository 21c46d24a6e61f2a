"""A look at the whole validation set, by all processes in step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import nn

from pretrain.shards import Batch, CropBatches, NoUsableAudio
from pretrain.training.objective import Objective
from pretrain.training.processes import Processes


def in_step(batches: Iterator[Batch], processes: Processes) -> Iterator[Batch | None]:
    """A process's batches; None for as long as other processes still have some.

    Raises:
        NoUsableAudio: those of one process cannot be used; raised on all.
    """
    while True:
        batch, failure = None, None
        try:
            batch = next(batches, None)
        except NoUsableAudio as error:
            failure = error
        n_batches, n_failures = processes.sums([batch is not None, failure is not None])
        if n_failures:
            processes.raise_first(failure)
        if not n_batches:
            return
        yield batch


@torch.no_grad()
def validate(
    model: nn.Module,
    objective: Objective,
    batches: CropBatches,
    accelerator: Accelerator,
    processes: Processes,
) -> dict[str, float]:
    """The objective's scores over all validation clips of all processes.

    Raises:
        NoUsableAudio: not one clip could be read.
    """
    model.eval()
    notes, own_clips = [], 0
    for batch in in_step(iter(batches), processes):
        examined = objective.silence() if batch is None else batch
        with accelerator.autocast():
            note = objective.examine(model, examined.to(accelerator.device))
        if batch is not None:
            notes.append(note)
            own_clips += len(batch.keys)
    model.train()
    if not processes.sums([own_clips])[0]:
        found = f"{objective.config.cv_data} could be used: {dict(batches.skipped_total)}"
        processes.raise_first(NoUsableAudio(f"not one clip of cv_data {found}"))
    return objective.scores(notes, processes)
