"""What is done to labelled clips in training: they are shifted, masked and mixed with each other.

All random choices are drawn once, on the CPU, into an `Augmentation`; applying it is arithmetic.

Sources: SpecAugment's masks (Park et al., Interspeech 2019); mixup (Zhang et al., ICLR 2018). That
spectrograms are mixed, each with the clip at the batch's mirrored place, the order (shift, mask, mix), and
how wide masks are drawn, is as in the published code of CED (Dinkel et al., 2023).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hear_dasheng.compute.transfer import to_device


class Augmentation(NamedTuple):
    """Of a batch.

    Attributes:
        shift: samples by which each clip is rolled to the right.
        frames: first frame and the one after the last of each time mask.
        mels: the same of each frequency mask.
        weight: how much of each clip is its mirrored partner's.
    """

    shift: Int[Tensor, " clips"]
    frames: Int[Tensor, "clips masks 2"]
    mels: Int[Tensor, "clips masks 2"]
    weight: Float[Tensor, " clips"]

    def to(self, device: torch.device) -> Augmentation:
        """The same on another device."""
        return Augmentation(*(to_device(choice, device) for choice in self))


def draw_spans(
    n_clips: int, n_masks: int, widest: int, length: int, random: torch.Generator
) -> Int[Tensor, "clips masks 2"]:
    """Where masks begin and end: floor(u * widest) wide, all u and all places that fit equally likely.

    Args:
        n_clips: of the batch.
        n_masks: of each clip.
        widest: masks are narrower than this, as published; 0: they mask nothing.
        length: places there are.
        random: draws.
    """
    width = (torch.rand(n_clips, n_masks, generator=random) * min(widest, length)).floor()
    start = (torch.rand(n_clips, n_masks, generator=random) * (length - width + 1)).floor()
    return torch.stack([start, start + width], dim=-1).long()


def draw_weights(n_clips: int, alpha: float | None, random: torch.Generator) -> Float[Tensor, " clips"]:
    """Mixing weights of Beta(alpha, alpha); None: nothing is mixed."""
    if alpha is None:
        return torch.zeros(n_clips)
    seed = torch.randint(2**63 - 1, (), generator=random).item()  # torch's own Beta takes no generator
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, n_clips)).float()


def draw_shift(n_clips: int, n_samples: int, part: float, random: torch.Generator) -> Int[Tensor, " clips"]:
    """Shifts by at most `part` of a clip, to either side."""
    return ((2 * torch.rand(n_clips, generator=random) - 1) * part * n_samples).long()


def shifted(
    waveforms: Float[Tensor, "clips samples"], shift: Int[Tensor, " clips"]
) -> Float[Tensor, "clips samples"]:
    """Roll each clip: what leaves it at one end comes back at the other.

    >>> shifted(torch.arange(4.0).repeat(2, 1), torch.tensor([1, -1])).tolist()
    [[3.0, 0.0, 1.0, 2.0], [1.0, 2.0, 3.0, 0.0]]
    """
    n_samples = waveforms.shape[1]
    places = torch.arange(n_samples, device=waveforms.device) - shift[:, None]
    return waveforms.gather(1, places % n_samples)


def masked(
    mel: Float[Tensor, "clips mels frames"], augmentation: Augmentation, level_db: float | None
) -> Float[Tensor, "clips mels frames"]:
    """Put one level where the masks are.

    Args:
        mel: log-mel levels in dB.
        augmentation: where the masks are.
        level_db: the level; None: each clip's mean, which is SpecAugment's.
    """
    is_masked = _covered(augmentation.mels, mel.shape[1])[:, :, None]
    is_masked = is_masked | _covered(augmentation.frames, mel.shape[2])[:, None, :]
    if level_db is not None:
        return mel.masked_fill(is_masked, level_db)
    return torch.where(is_masked, mel.mean(dim=(1, 2), keepdim=True), mel)


def _covered(spans: Int[Tensor, "clips masks 2"], length: int) -> Bool[Tensor, "clips {length}"]:
    places = torch.arange(length, device=spans.device)
    return ((places >= spans[..., :1]) & (places < spans[..., 1:])).any(dim=1)


def mixed(
    values: Float[Tensor, " clips *shape"], weight: Float[Tensor, " clips"]
) -> Float[Tensor, " clips *shape"]:
    """Each clip's values with those of its mirrored partner: spectrograms, or targets.

    >>> mixed(torch.tensor([[0.0], [1.0], [8.0]]), torch.tensor([0.25, 0.5, 0.0])).tolist()
    [[2.0], [1.0], [8.0]]
    """
    weight = weight.view(-1, *[1] * (values.ndim - 1))
    return values + weight * (values.flip(0) - values)
