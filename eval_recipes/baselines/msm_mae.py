"""MSM-MAE as a HEAR module.

Niizumi et al., "Masked spectrogram modeling using masked autoencoders for learning
general-purpose audio representation" (HEAR 2021, PMLR 166): ViT-B over 16 x 16 patches.
Loaded from the authors' `checkpoint-*.pth` (`80x512p16x16_paper` and others): a state dict, alone or
under "model", with `attn.q_bias` and `attn.v_bias` and no bias of the keys. The length of a window
comes from the weights, not from the folder's name.

As in the authors' `RuntimeMAE`, which is their HEAR submission: 80 Slaney mel bands from 50 to
8000 Hz of a 400-point power spectrum each 10 ms, `log(x + 1.19e-7)`; zero mean and unit
variance; completed with zeros to whole windows, without a mask, the windows encoded one by
one; the five tokens above each other side by side, low to high, which makes 3840 features; those
of the padding dropped, a moment counting if any frame of it is the clip's. A scene is the mean
over moments. One thing differs: the authors take mean and variance over a whole batch, so that
a clip depends on its neighbours. Here they are the clip's own (theirs for a batch of one), or,
as they advise, a data set's: the option `statistics=[mean, std]`.

Time: frame i is centred on 10 i ms, moment j holds frames 16 j to 16 j + 15, so its centre
is 160 j + 75 ms. A last moment whose centre lies after the clip's end counts in the scene, as
with the authors, and is no timestamp.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eval_recipes.baselines.patch_transformer import build_vit, encode_windows
from eval_recipes.baselines.peer import (
    SAMPLE_RATE_HZ,
    Peer,
    get_scene_embeddings,
    get_timestamp_embeddings,
    package,
)
from eval_recipes.baselines.weight_files import find_weights, read_weights

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

N_MELS = 80
N_FFT = 400
HOP_SAMPLES = 160
FRAME_MS = 10.0
EPS = torch.finfo(torch.float32).eps


class MsmMaeTokens(nn.Module):
    """Windows of a normalised log-mel spectrogram through the ViT."""

    window: Tensor
    filter_bank: Tensor

    def __init__(self, vit: nn.Module, statistics: tuple[float, float] | None) -> None:
        super().__init__()
        self.vit = vit
        self.statistics = statistics
        mel = package("librosa.filters").mel
        bank = mel(sr=SAMPLE_RATE_HZ, n_fft=N_FFT, n_mels=N_MELS, fmin=50, fmax=8_000)
        self.register_buffer("filter_bank", torch.from_numpy(bank))
        self.register_buffer("window", torch.hann_window(N_FFT))
        self.bands, _ = vit.patch_embed.grid_size
        self.patch_frames = vit.patch_embed.patch_size[1]
        self.features = self.bands * vit.embed_dim
        self.step_ms = FRAME_MS * self.patch_frames
        self.first_ms = FRAME_MS * (self.patch_frames - 1) / 2

    def finish(self, embeddings: Tensor) -> Tensor:
        """Nothing."""
        return embeddings

    def tokens(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """(samples) each -> (moments, features) each."""
        spectra = [self._normalized(self.log_mel(clip)) for clip in clips]
        moments = encode_windows(spectra, self.vit.patch_embed.img_size[1], 0.0, self._encode)
        counts = [-(-len(spectrum) // self.patch_frames) for spectrum in spectra]
        return [found[:count] for found, count in zip(moments, counts, strict=True)]

    def log_mel(self, clip: Tensor) -> Tensor:
        """(samples) -> (frames, 80); the ends are reflected, for which too short a clip gets zeros."""
        clip = F.pad(clip, (0, max(0, N_FFT // 2 + 1 - len(clip))))
        spectrum = torch.stft(clip, N_FFT, HOP_SAMPLES, window=self.window, return_complex=True)
        return (self.filter_bank @ spectrum.abs().square() + EPS).log().T

    def _normalized(self, log_mel: Tensor) -> Tensor:
        mean, std = self.statistics or (log_mel.mean(), log_mel.std())
        return (log_mel - mean) / (std + EPS)

    def _encode(self, windows: Tensor) -> Tensor:
        tokens = self.vit.forward_features(windows.mT[:, None])[:, self.vit.num_prefix_tokens :]
        return tokens.unflatten(1, self.vit.patch_embed.grid_size).transpose(1, 2).flatten(2)


def _window_of(patch_mels: int, patch_frames: int, n_patches: int) -> tuple[int, int]:
    return N_MELS, n_patches // (N_MELS // patch_mels) * patch_frames


def load_model(path: str | Path = "", statistics: Sequence[float] | None = None) -> Peer:
    """Load MSM-MAE.

    Args:
        path: the authors' file, a folder that holds it, or a Hub id, perhaps with a file's name.
        statistics: mean and standard deviation of a data set's log-mel values; None: each clip's own.

    Raises:
        FileNotFoundError: there is no such file, or the Hub cannot be asked.
        ValueError: no path, impossible statistics, or the file is damaged, unsafe, or
            holds another model.
    """
    if not path:
        raise ValueError(
            "MSM-MAE has no Hub repository of its own: give the path of a checkpoint from "
            "https://github.com/nttcslab/msm-mae/releases, such as 80x512p16x16_paper/checkpoint-100.pth"
        )
    if statistics is not None and (len(statistics) != 2 or not statistics[1] > 0):
        raise ValueError(f"statistics={statistics!r}: give [mean, std] with std above 0")
    file = find_weights(path)
    vit = build_vit(read_weights(file), _window_of, file)
    chosen = (statistics[0], statistics[1]) if statistics is not None else None
    return Peer(MsmMaeTokens(vit, chosen), file)
