"""Which tokens the encoder sees, and which the decoder must guess.

Source: the published training code's two masking functions. Groups of
neighbouring tokens are shuffled as wholes; the first int(tokens * (1 - ratio))
tokens of the shuffled sequence are kept.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hear_dasheng.compute.transfer import to_device


class Mask(NamedTuple):
    """Each clip's tokens, parted in two; each place appears exactly once.

    Attributes:
        kept: places that the encoder sees, in the shuffled order.
        masked: places that are to be predicted, in the shuffled order.
    """

    kept: Int[Tensor, "clips kept"]
    masked: Int[Tensor, "clips masked"]

    def to(self, device: torch.device) -> Mask:
        """The same mask on another device."""
        return Mask(*(to_device(places, device) for places in self))


def n_kept(n_tokens: int, ratio: float) -> int:
    """How many tokens the encoder sees: int(n_tokens * (1 - ratio)), as published.

    >>> n_kept(250, 0.75)
    62

    Raises:
        ValueError: nothing would be kept, or nothing masked.
    """
    kept = int(n_tokens * (1 - ratio))
    if not 0 < kept < n_tokens:
        raise ValueError(
            f"mask_ratio {ratio} of {n_tokens} tokens keeps {kept}; at least one must be kept and one masked"
        )
    return kept


def n_groups(n_tokens: int, group: int) -> int:
    """Groups of `group` neighbours; the last is short where `group` does not divide `n_tokens`."""
    return -(-n_tokens // group)


def mask_of_noise(noise: Float[Tensor, "clips groups"], n_tokens: int, ratio: float, group: int = 1) -> Mask:
    """The mask that random numbers determine: groups are kept in the order of their noise.

    Args:
        noise: one number for each of the `n_groups` groups of each clip.
        n_tokens: tokens of each clip.
        ratio: part of the tokens that is masked.
        group: neighbouring tokens that are kept or masked together; the kept
            count may still cut one group in two, as published.

    Raises:
        ValueError: the noise does not fit, or the ratio keeps none or all.
    """
    if noise.shape[1] != n_groups(n_tokens, group):
        raise ValueError(
            f"{n_tokens} tokens in groups of {group} need {n_groups(n_tokens, group)} random numbers, "
            f"not {noise.shape[1]}"
        )
    rank = noise.argsort(dim=1).argsort(dim=1)
    rank_of_token = rank.repeat_interleave(group, dim=1)[:, :n_tokens]
    shuffled = rank_of_token.argsort(dim=1, stable=True)
    kept = n_kept(n_tokens, ratio)
    return Mask(shuffled[:, :kept], shuffled[:, kept:])


def random_mask(
    n_clips: int, n_tokens: int, ratio: float, group: int = 1, generator: torch.Generator | None = None
) -> Mask:
    """A fresh mask for each clip."""
    noise = torch.rand(n_clips, n_groups(n_tokens, group), generator=generator)
    return mask_of_noise(noise, n_tokens, ratio, group)


def fixed_mask(clips: list[int], n_tokens: int, ratio: float, group: int = 1) -> Mask:
    """Masks that depend on nothing but each clip's own number.

    A validation clip is masked alike in every epoch, in every batch and on every process.
    """
    noise = torch.stack(
        [torch.rand(n_groups(n_tokens, group), generator=torch.Generator().manual_seed(c)) for c in clips]
    )
    return mask_of_noise(noise, n_tokens, ratio, group)
