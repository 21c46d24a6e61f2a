"""WavLM as a HEAR module.

Chen et al., "WavLM: large-scale self-supervised pre-training for full stack speech
processing" (2022). The paper's row is WavLM-Large: 24 layers of 1024 features, layer-norm
convolutions, input of zero mean and unit variance (the authors normalise the waveform
where their config says `normalize`, and preprocessor_config.json carries that on). Tokens are the
last hidden state: WavLM has no HEAR submission that would say otherwise.

Time, normalisation, long and short clips: see `waveform_encoder.py`.
"""

from __future__ import annotations

from pathlib import Path

from eval_recipes.baselines.peer import Peer, get_scene_embeddings, get_timestamp_embeddings
from eval_recipes.baselines.waveform_encoder import load_waveform_encoder

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

PUBLISHED = "microsoft/wavlm-large"


def load_model(path: str | Path = "") -> Peer:
    """Load WavLM.

    Args:
        path: a folder with config.json, preprocessor_config.json and the weights, or a
            Hub id. Empty: `microsoft/wavlm-large`.

    Raises:
        FileNotFoundError: there is no such model, or a file of it is missing.
        ValueError: the model is of another kind, damaged or incomplete.
    """
    return load_waveform_encoder(path or PUBLISHED, "wavlm", "WavLMModel")
