"""The family of wav2vec 2.0 behind HEAR: strided convolutions on the waveform, then a transformer.

Input: 16 kHz; where preprocessor_config.json says `do_normalize`, each clip is brought
to zero mean and unit variance, `(x - mean) / sqrt(var + 1e-7)`, as `Wav2Vec2FeatureExtractor`
does it (for the layer-norm checkpoints, and for all large ones).

No padding and so no mask: clips of one length are encoded together and others apart.
Layer-norm checkpoints (`feat_extract_norm: layer`) were trained with masks that make
padding disappear, with the same result; group-norm ones see a whole clip's statistics,
and Data2Vec's stacked position convolutions leak padding whatever the mask, so that
for those this is the only exact way.

Time: with strides s and kernels k of the convolutions, token j sees the samples from
`j * S` to `j * S + R - 1`, where `S = s1 * s2 * ...` (320) and
`R = 1 + sum over i of (k_i - 1) * s_1 * ... * s_(i-1)` (400). Its centre is
`(j * S + R / 2)` samples: 12.5, 32.5, 52.5 ... ms. The rest after the last complete token has none
(group norm counts it in its statistics); a clip shorter than R is extended with zeros to one token.

Long clips: attention's memory grows with the square of the length (WavLM's position
bias is a matrix for each head), and none saw over 20 s in training. Clips over 30 s are
therefore cut into consecutive windows, equal but for rounding, each S samples after the
other's last token: no token is lost or seen twice and the formula above holds throughout.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from operator import mul
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eval_recipes.baselines.peer import SAMPLE_RATE_HZ, Peer
from eval_recipes.baselines.transformers_encoder import load_transformers

WINDOW_S = 30
BATCH_S = {"cpu": 60, "cuda": 480}
"""Seconds of audio encoded at once."""


class WaveformEncoder(nn.Module):
    """A `transformers` model on waveforms; its tokens are the last hidden state."""

    def __init__(self, model: nn.Module, normalizes: bool) -> None:
        super().__init__()
        self.model = model
        self.normalizes = normalizes
        strides, kernels = model.config.conv_stride, model.config.conv_kernel
        before = [1, *accumulate(strides, mul)]
        self.step_samples = before[-1]
        self.seen_samples = 1 + sum(
            (kernel - 1) * step for kernel, step in zip(kernels, before, strict=False)
        )
        self.features = model.config.hidden_size
        self.step_ms = 1000.0 * self.step_samples / SAMPLE_RATE_HZ
        self.first_ms = 1000.0 * self.seen_samples / 2 / SAMPLE_RATE_HZ

    def finish(self, embeddings: Tensor) -> Tensor:
        """Nothing."""
        return embeddings

    def tokens(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """(samples) each -> (tokens, features) each."""
        per_clip = [self._windows(clip) for clip in clips]
        windows = [window for own in per_clip for window in own]
        by_length = defaultdict(list)
        for index, window in enumerate(windows):
            by_length[len(window)].append(index)
        encoded: dict[int, Tensor] = {}
        budget = SAMPLE_RATE_HZ * BATCH_S.get(clips[0].device.type, 60)
        for length, indices in by_length.items():
            at_once = max(1, budget // length)
            for start in range(0, len(indices), at_once):
                batch = indices[start : start + at_once]
                hidden = self.model(torch.stack([windows[index] for index in batch])).last_hidden_state
                encoded.update(zip(batch, hidden, strict=True))
        in_order = (encoded[index] for index in range(len(windows)))
        return [torch.cat([next(in_order) for _ in own]) for own in per_clip]

    def _windows(self, clip: Tensor) -> list[Tensor]:
        if self.normalizes:
            clip = (clip - clip.mean()) / (clip.var(correction=0) + 1e-7).sqrt()
        clip = F.pad(clip, (0, max(0, self.seen_samples - len(clip))))
        total = 1 + (len(clip) - self.seen_samples) // self.step_samples
        n_windows = math.ceil(total * self.step_ms / (1000 * WINDOW_S))
        bounds = [total * index // n_windows for index in range(n_windows + 1)]
        overhang = self.seen_samples - self.step_samples
        ends = [last * self.step_samples + overhang for last in bounds[1:-1]] + [len(clip)]
        return [clip[first * self.step_samples : end] for first, end in zip(bounds[:-1], ends, strict=True)]


def load_waveform_encoder(source: str | Path, model_type: str, class_name: str) -> Peer:
    """Load a model of this family; the errors are `load_transformers`'s."""
    model, extractor, folder = load_transformers(source, model_type, class_name)
    if extractor.sampling_rate != SAMPLE_RATE_HZ:
        raise ValueError(f"{source} wants audio at {extractor.sampling_rate} Hz, not {SAMPLE_RATE_HZ}")
    return Peer(WaveformEncoder(model, bool(extractor.do_normalize)), folder)
