"""Data2Vec-Audio as a HEAR module.

Baevski et al., "data2vec: a general framework for self-supervised learning in speech, vision
and language" (2022). The peer here is Data2Vec-Audio-Large: 24 layers of 1024 features, layer-norm
convolutions, input of zero mean and unit variance as its preprocessor_config.json says. Tokens are the
last hidden state: it has no HEAR submission that would say otherwise.

Time, normalisation, long and short clips: see `waveform_encoder.py`.
"""

from __future__ import annotations

from pathlib import Path

from eval_recipes.baselines.peer import Peer, get_scene_embeddings, get_timestamp_embeddings
from eval_recipes.baselines.waveform_encoder import load_waveform_encoder

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

PUBLISHED = "facebook/data2vec-audio-large"


def load_model(path: str | Path = "") -> Peer:
    """Load Data2Vec-Audio.

    Args:
        path: a folder with config.json, preprocessor_config.json and the weights, or a
            Hub id. Empty: `facebook/data2vec-audio-large`.

    Raises:
        FileNotFoundError: there is no such model, or a file of it is missing.
        ValueError: the model is of another kind, damaged or incomplete.
    """
    return load_waveform_encoder(path or PUBLISHED, "data2vec-audio", "Data2VecAudioModel")
