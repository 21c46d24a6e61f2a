"""The loss on the validation set, with the same masks each time."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import nn

from pretrain.masking import Mask, fixed_mask
from pretrain.shards import Batch, CropBatches, NoUsableAudio
from pretrain.training.config import PretrainConfig
from pretrain.training.processes import Processes


def in_step(batches: Iterator[Batch], processes: Processes) -> Iterator[Batch | None]:
    """A process's batches; None for as long as other processes still have some."""
    for _ in iter(int, 1):
        batch = next(batches, None)
        if not processes.sums([batch is not None])[0]:
            return
        yield batch


def mask_of_keys(keys: list[str], n_tokens: int, config: PretrainConfig) -> Mask:
    """Each clip's own mask: of its name and the run's seed, whatever batch it is in."""
    numbers = [zlib.crc32(key.encode("utf-8", "surrogateescape"), config.seed) for key in keys]
    return fixed_mask(numbers, n_tokens, config.mask_ratio, config.mask_group)


@torch.no_grad()
def validation_loss(
    model: nn.Module,
    batches: CropBatches,
    config: PretrainConfig,
    n_tokens: int,
    accelerator: Accelerator,
    processes: Processes,
) -> float:
    """Mean loss of all validation clips, over all processes.

    Raises:
        NoUsableAudio: not one clip could be read.
    """
    model.eval()
    total, clips = 0.0, 0
    silence = torch.zeros(1, config.chunk_samples)
    for batch in in_step(iter(batches), processes):
        waveforms, keys = (silence, ["none"]) if batch is None else (batch.waveforms, batch.keys)
        mask = mask_of_keys(keys, n_tokens, config).to(accelerator.device)
        with accelerator.autocast():
            losses = model(waveforms.to(accelerator.device, non_blocking=True), mask)
        if batch is not None:
            total += losses.double().sum().item()
            clips += len(losses)
    model.train()
    total, clips = processes.sums([total, clips])
    if not clips:
        raise NoUsableAudio(
            f"not one clip of cv_data {config.cv_data} could be used: {dict(batches.skipped_total)}"
        )
    return total / clips
