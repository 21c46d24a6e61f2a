"""AudioMAE as a HEAR module.

Huang et al., "Masked autoencoders that listen" (2022): ViT-B over 16 x 16 patches.
Loaded from the authors' `pretrained.pth` or `finetuned.pth`, `{"model": state_dict}`
with timm's names, or from a timm folder or Hub repository of the same names.

Input as in the authors' `dataset.py`: the clip less its mean, 128 Kaldi filter banks,
completed with zeros to 1024 frames and then `(x + 4.2677393) / (2 * 4.5689974)`, AudioSet's
statistics. There is no mask: the padding takes part in attention, and its tokens are
discarded afterwards. Longer clips are cut into consecutive windows of 1024 frames.

Tokens are the output of the last block. A moment is the mean of the eight tokens that lie above
each other, as the authors pool over all tokens in fine-tuning, without the class
token; AudioMAE has no HEAR submission that would say otherwise. The encoder's LayerNorm is applied to
each token of a pretrained model; a fine-tuned one (`fc_norm`) has it behind the mean.

Time: frame i is centred on 10 i + 12.5 ms, moment j holds frames 16 j to 16 j + 15, so its
centre is 160 j + 87.5 ms. A clip has the moments of which at least half the frames are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from eval_recipes.baselines.kaldi_mel import kaldi_mel
from eval_recipes.baselines.patch_transformer import build_vit, encode_windows
from eval_recipes.baselines.peer import Peer, get_scene_embeddings, get_timestamp_embeddings
from eval_recipes.baselines.weight_files import find_weights, read_weights

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

PUBLISHED = "gaunernst/vit_base_patch16_1024_128.audiomae_as2m"
N_MELS = 128
MEAN, STD = -4.2677393, 4.5689974
FRAME_MS, FIRST_FRAME_MS = 10.0, 12.5


class AudioMaeTokens(nn.Module):
    """Windows of Kaldi filter banks through the ViT."""

    def __init__(self, vit: nn.Module, is_norm_last: bool) -> None:
        super().__init__()
        norm, vit.norm = vit.norm, nn.Identity()
        self.vit = vit
        self.token_norm = nn.Identity() if is_norm_last else norm
        self.last_norm = norm if is_norm_last else nn.Identity()
        self.window_frames = vit.patch_embed.img_size[0]
        self.patch_frames = vit.patch_embed.patch_size[0]
        self.features = vit.embed_dim
        self.step_ms = FRAME_MS * self.patch_frames
        self.first_ms = FIRST_FRAME_MS + FRAME_MS * (self.patch_frames - 1) / 2

    def finish(self, embeddings: Tensor) -> Tensor:
        """A fine-tuned model's LayerNorm."""
        return self.last_norm(embeddings)

    def tokens(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """(samples) each -> (moments, features) each."""
        spectra = [(kaldi_mel(clip - clip.mean(), N_MELS) - MEAN) / (2 * STD) for clip in clips]
        moments = encode_windows(spectra, self.window_frames, (0 - MEAN) / (2 * STD), self._encode)
        half = self.patch_frames // 2
        counts = [max(1, (len(spectrum) + half) // self.patch_frames) for spectrum in spectra]
        return [found[:count] for found, count in zip(moments, counts, strict=True)]

    def _encode(self, windows: Tensor) -> Tensor:
        tokens = self.token_norm(self.vit.forward_features(windows[:, None])[:, self.vit.num_prefix_tokens :])
        return tokens.unflatten(1, self.vit.patch_embed.grid_size).mean(2)


def _window_of(patch_frames: int, patch_mels: int, n_patches: int) -> tuple[int, int]:
    return n_patches // (N_MELS // patch_mels) * patch_frames, N_MELS


def load_model(path: str | Path = "") -> Peer:
    """Load AudioMAE.

    Args:
        path: the authors' file, a folder that holds it, a Hub id, or a Hub id and a file's name
            (`owner/name/file.pth`). Empty: `gaunernst/vit_base_patch16_1024_128.audiomae_as2m`,
            a conversion of the pretrained weights for timm.

    Raises:
        FileNotFoundError: there is no such file, or the Hub cannot be asked.
        ValueError: it is damaged, unsafe, or holds another model.
    """
    file = find_weights(path or PUBLISHED)
    weights = read_weights(file)
    is_norm_last = "fc_norm.weight" in weights and "norm.weight" not in weights
    return Peer(AudioMaeTokens(build_vit(weights, _window_of, file), is_norm_last), file)
