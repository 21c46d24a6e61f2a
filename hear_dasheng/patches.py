"""Log-mel spectrogram -> patches -> one vector a token, and tokens at given places.

A patch of the released models spans all 64 mel bands and four frames, so that a
token is 40 ms of sound. Other patches cut the mel axis as well: their tokens stand
band by band, each band from its first to its last moment, as published.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

PATCH_MELS = 64
PATCH_FRAMES = 4


class PatchEmbed(nn.Module):
    """Cuts a spectrogram into patches and projects each to a token.

    The weight keeps the shape of the published strided convolution; the product
    is a matrix product, which is the same sum and faster on a CPU.
    """

    def __init__(self, dim: int, patch_mels: int = PATCH_MELS, patch_frames: int = PATCH_FRAMES) -> None:
        super().__init__()
        size = (patch_mels, patch_frames)
        self.proj = nn.Conv2d(1, dim, kernel_size=size, stride=size)

    def forward(
        self,
        mel: Float[Tensor, "windows mels frames"],
        kept: Int[Tensor, "windows kept"] | None = None,
    ) -> Float[Tensor, "windows tokens dim"]:
        """Project each patch, or those at the `kept` places alone."""
        patches = patchify(mel, *self.proj.kernel_size)
        if kept is not None:
            patches = take_tokens(patches, kept)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


def patchify(
    mel: Float[Tensor, "windows mels frames"],
    patch_mels: int = PATCH_MELS,
    patch_frames: int = PATCH_FRAMES,
) -> Float[Tensor, "windows tokens {patch_mels*patch_frames}"]:
    """Cut a spectrogram into one vector a token; mel bands and frames that fill no patch are dropped.

    The order is that of `torch.nn.Unfold`: inside a vector mel by mel, among the
    vectors band of patches by band of patches, and in time within each.

    >>> import torch
    >>> patchify(torch.arange(64 * 9.0).reshape(1, 64, 9))[0, :, :5].tolist()
    [[0.0, 1.0, 2.0, 3.0, 9.0], [4.0, 5.0, 6.0, 7.0, 13.0]]
    >>> patchify(torch.arange(16.0).reshape(1, 4, 4), patch_mels=2, patch_frames=2)[0].tolist()
    [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0], [8.0, 9.0, 12.0, 13.0], [10.0, 11.0, 14.0, 15.0]]
    """
    windows, mels, frames = mel.shape
    bands, moments = mels // patch_mels, frames // patch_frames
    whole = mel[:, : bands * patch_mels, : moments * patch_frames]
    patches = whole.reshape(windows, bands, patch_mels, moments, patch_frames)
    return patches.transpose(2, 3).reshape(windows, bands * moments, patch_mels * patch_frames)


def take_tokens(
    tokens: Float[Tensor, "windows tokens features"], places: Int[Tensor, "windows taken"]
) -> Float[Tensor, "windows taken features"]:
    """The tokens at each window's own places, in the order of the places."""
    return tokens.gather(1, places[:, :, None].expand(-1, -1, tokens.shape[2]))
