"""wav2vec 2.0 as a HEAR module.

Baevski et al. (2020), pretrained on VoxPopuli by Wang et al. (2021). The paper's row is
wav2vec2-large-100k-voxpopuli: 24 layers of 1024 features, layer-norm convolutions, input of zero
mean and unit variance as its preprocessor_config.json says. Tokens are the last hidden
state, as in HEAR's own wav2vec2 baseline. Published weights hold the heads of pretraining
as well; these are left out.

Time, normalisation, long and short clips: see `waveform_encoder.py`.
"""

from __future__ import annotations

from pathlib import Path

from eval_recipes.baselines.peer import Peer, get_scene_embeddings, get_timestamp_embeddings
from eval_recipes.baselines.waveform_encoder import load_waveform_encoder

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

PUBLISHED = "facebook/wav2vec2-large-100k-voxpopuli"


def load_model(path: str | Path = "") -> Peer:
    """Load wav2vec 2.0.

    Args:
        path: a folder with config.json, preprocessor_config.json and the weights, or a
            Hub id. Empty: `facebook/wav2vec2-large-100k-voxpopuli`.

    Raises:
        FileNotFoundError: there is no such model, or a file of it is missing.
        ValueError: the model is of another kind, damaged or incomplete.
    """
    return load_waveform_encoder(path or PUBLISHED, "wav2vec2", "Wav2Vec2Model")
