"""Rows of several splits -> batches, in the order in which they lie on the disk.

heareval means to shuffle its training rows and never does, since it compares a list of splits with
a string: every epoch has the same batches in the same order. So do these.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from eval_recipes.scoring.task_data import Split

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Rows that go through a probe together."""

    x: Float[Tensor, "rows features"]
    targets: Float[Tensor, "rows labels"]


def batches(splits: list[Split], batch_size: int, device: torch.device) -> list[Batch]:
    """Cut the rows of splits, one after another, into batches of `batch_size`; the last may be smaller.

    On a CPU these are views of the splits' files, but for a batch that crosses from one split to the
    next; on another device all of them are copied there.
    """
    total = sum(len(split.targets) for split in splits)
    return [
        Batch(
            _rows([split.embeddings for split in splits], first, first + batch_size).to(device),
            _rows([split.targets for split in splits], first, first + batch_size).to(device),
        )
        for first in range(0, total, batch_size)
    ]


def trainable(all_batches: list[Batch]) -> list[Batch]:
    """Leave out a last batch of one row, of which batch norm has no variance (heareval stops there)."""
    if len(all_batches[-1].x) > 1:
        return all_batches
    if len(all_batches) == 1:
        raise ValueError("there is one training row in all; batch norm needs two")
    logger.warning("the last training batch has one row, on which batch norm cannot train: left out")
    return all_batches[:-1]


def _rows(tensors: list[Tensor], first: int, last: int) -> Tensor:
    """Rows `first` to `last` of tensors stacked, copied only if they lie in two of them."""
    pieces, start = [], 0
    for tensor in tensors:
        piece = tensor[max(first - start, 0) : max(last - start, 0)]
        if len(piece):
            pieces.append(piece)
        start += len(tensor)
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
