"""Kept latents -> predicted patches: the half of the autoencoder that is thrown away.

Attribute names follow the published training code. The tokens stay in the
shuffled order of the mask, each with the position of its own place: attention
knows no other order, so the predictions are the published ones and the masked
tokens lie side by side.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hear_dasheng.blocks import LAYER_NORM_EPS, Block, Linear
from pretrain.masking import Mask


class Decoder(nn.Module):
    """A shallow transformer over all tokens of a clip.

    Args:
        latent_dim: width of the encoder's tokens.
        dim: width of the decoder.
        depth: number of blocks.
        heads: attention heads of each block.
        max_tokens: tokens of the longest clip. There is one learned position more,
            as published; it is never used.
        patch_values: mel levels of a patch, 256 as published.
    """

    def __init__(
        self, latent_dim: int, dim: int, depth: int, heads: int, max_tokens: int, patch_values: int
    ) -> None:
        super().__init__()
        self.input_proj = Linear(latent_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, max_tokens + 1, dim))
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.outputlayer = Linear(dim, patch_values)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial weights with the published distributions."""
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.zeros_(self.pos_embed)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self, latents: Float[Tensor, "clips kept latent_dim"], mask: Mask
    ) -> Float[Tensor, "clips masked values"]:
        """Predict the masked patches, in the order of `mask.masked`."""
        x = self.input_proj(latents)
        hidden = self.mask_token.to(x.dtype).expand(len(x), mask.masked.shape[1], -1)
        x = torch.cat([x, hidden], dim=1)
        x = x + self.pos_embed[0, torch.cat(mask, dim=1)]
        for block in self.blocks[:-1]:
            x = block(x, None)
        x = self.blocks[-1](x, None, n_last=hidden.shape[1])  # what becomes of the seen tokens, nobody asks
        return self.outputlayer(self.norm(x))
