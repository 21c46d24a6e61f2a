"""Whisper's encoder as a HEAR module.

Radford et al., "Robust speech recognition via large-scale weak supervision" (2023);
the peer here is Whisper-Base. Input as `WhisperFeatureExtractor` makes it, from
preprocessor_config.json: 16 kHz, 80 mel bands, log10 cut 8 under the window's maximum and
brought to about [-1, 1]. The model knows windows of 30 s and nothing else, and was trained
without a mask: a shorter clip is completed with zeros, a longer one cut into consecutive
windows, and the tokens of what was added are discarded after encoding.

Time: frames of the spectrogram are centred on 10 i ms; the convolutions keep centres and take each
second frame, so token j is centred on 20 j ms, and a clip has those tokens whose
centre lies before its end. 30 s are 1500 tokens: the formula holds across windows.

Tokens are the encoder's last hidden state, after its final LayerNorm: Whisper has no
HEAR submission that would say otherwise. A window's compute is the same however short the clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eval_recipes.baselines.peer import SAMPLE_RATE_HZ, Peer, get_scene_embeddings, get_timestamp_embeddings
from eval_recipes.baselines.transformers_encoder import load_transformers

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

PUBLISHED = "openai/whisper-base"
BATCH_WINDOWS = {"cpu": 4, "cuda": 32}


class WhisperTokens(nn.Module):
    """Windows of 30 s through the encoder; the padding's tokens dropped."""

    def __init__(self, encoder: nn.Module, extractor: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.extractor = extractor
        self.window_samples = extractor.n_samples
        strides = encoder.conv1.stride[0] * encoder.conv2.stride[0]
        self.token_samples = strides * extractor.hop_length
        self.features = encoder.config.d_model
        self.first_ms = 0.0
        self.step_ms = 1000.0 * self.token_samples / SAMPLE_RATE_HZ

    def finish(self, embeddings: Tensor) -> Tensor:
        """Nothing."""
        return embeddings

    def tokens(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """(samples) each -> (tokens, features) each."""
        per_clip = [clip.split(self.window_samples) for clip in clips]
        windows = [window for own in per_clip for window in own]
        at_once = BATCH_WINDOWS.get(clips[0].device.type, 4)
        encoded: list[Tensor] = []
        for start in range(0, len(windows), at_once):
            batch = windows[start : start + at_once]
            hidden = self.encoder(self._log_mel(batch)).last_hidden_state
            counts = [math.ceil(len(window) / self.token_samples) for window in batch]
            encoded += [tokens[:count] for tokens, count in zip(hidden, counts, strict=True)]
        in_order = iter(encoded)
        return [torch.cat([next(in_order) for _ in own]) for own in per_clip]

    def _log_mel(self, windows: Sequence[Tensor]) -> Tensor:
        device = windows[0].device
        arrays = [window.cpu().numpy() for window in windows]
        made = self.extractor(
            arrays,
            sampling_rate=SAMPLE_RATE_HZ,
            return_tensors="pt",
            device=str(device),
            padding="max_length",
        )
        return made.input_features.to(device)


def load_model(path: str | Path = "") -> Peer:
    """Load Whisper's encoder.

    Args:
        path: a folder with config.json, preprocessor_config.json and the weights, or a
            Hub id. Empty: `openai/whisper-base`.

    Raises:
        FileNotFoundError: there is no such model, or a file of it is missing.
        ValueError: the model is of another kind, damaged or incomplete.
    """
    source = path or PUBLISHED
    encoder, extractor, folder = load_transformers(source, "whisper", "WhisperModel", part="encoder")
    tokens = WhisperTokens(encoder, extractor)
    positions = encoder.config.max_source_positions
    if extractor.sampling_rate != SAMPLE_RATE_HZ or positions * tokens.token_samples != tokens.window_samples:
        raise ValueError(
            f"{source} contradicts itself: preprocessor_config.json makes windows of {tokens.window_samples} "
            f"samples at {extractor.sampling_rate} Hz, config.json has {positions} positions"
        )
    return Peer(tokens, folder)
