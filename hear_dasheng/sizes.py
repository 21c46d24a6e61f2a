"""The sizes of Dasheng, written down once.

Source: the released checkpoints (Zenodo record 11511780) and Dinkel et al.,
"Scaling up masked audio encoder learning for general audio classification",
Interspeech 2024. The training code published with them builds another model
under the name 0.6B (`0.6B-trainer` below); the released 0.6B is the one named so.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """Width, depth and heads of an encoder and of the decoder it is pretrained with."""

    dim: int
    depth: int
    heads: int
    decoder_dim: int
    decoder_depth: int
    decoder_heads: int


SIZES = {
    "tiny": Size(192, 6, 3, decoder_dim=128, decoder_depth=2, decoder_heads=4),
    "base": Size(768, 12, 12, decoder_dim=512, decoder_depth=8, decoder_heads=16),
    "0.6B": Size(1280, 32, 16, decoder_dim=512, decoder_depth=8, decoder_heads=16),
    "0.6B-trainer": Size(1536, 24, 24, decoder_dim=512, decoder_depth=8, decoder_heads=16),
    "1.2B": Size(1536, 40, 24, decoder_dim=768, decoder_depth=8, decoder_heads=24),
}

CED_HEADS = {(192, 12): 3, (256, 12): 4, (384, 12): 6, (768, 12): 12}
"""Heads of CED-Tiny, -Mini, -Small and -Base (RicherMans/CED) by width and depth."""


def heads_of(dim: int, depth: int) -> int | None:
    """Attention heads of the size with this width and depth; None if there is no such size.

    >>> heads_of(1280, 32), heads_of(256, 12)
    (16, 4)
    """
    of_dasheng = {(size.dim, size.depth): size.heads for size in SIZES.values()}
    return (CED_HEADS | of_dasheng).get((dim, depth))
