"""The published AudioSet recipe on the published encoder, with random weights: the taggers' oracle."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def flat_state(oracle: nn.Module, seed: int = 1) -> dict[str, Tensor]:
    """The layout of `dasheng_audioset_mAP497.pt`: the encoder's keys, and a head drawn from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    dim = oracle.embed_dim
    head = {
        "outputlayer.0.weight": 1 + 0.1 * torch.randn(dim, generator=generator),
        "outputlayer.0.bias": 0.1 * torch.randn(dim, generator=generator),
        "outputlayer.1.weight": 0.3 * torch.randn(527, dim, generator=generator),
        "outputlayer.1.bias": torch.randn(527, generator=generator),
    }
    return {name: value.clone() for name, value in oracle.state_dict().items()} | head


@torch.no_grad()
def recipe(oracle: nn.Module, state: dict[str, Tensor], clip: Tensor) -> Tensor:
    """Encoder, mean over tokens, LayerNorm, linear layer, sigmoid: (1, samples) -> (1, 527)."""
    head = nn.Sequential(nn.LayerNorm(oracle.embed_dim), nn.Linear(oracle.embed_dim, 527))
    head.load_state_dict(
        {name.removeprefix("outputlayer."): value for name, value in state.items() if "outputlayer" in name}
    )
    return head(oracle(clip).mean(1)).sigmoid()
