"""Tiny random peers in the layout in which each is published."""

from __future__ import annotations

from pathlib import Path

import torch

WIDTH = 32
"""Features of the tiny models."""

TINY = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 8,
}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


def livened(model: torch.nn.Module) -> torch.nn.Module:
    """Move biases and norms away from their initial zeros and ones, so that each counts."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save_waveform_peer(folder: Path, kind: str) -> Path:
    """A wav2vec2 (layer-norm or group-norm), WavLM or Data2Vec folder as published."""
    import transformers

    torch.manual_seed(0)
    if kind == "data2vec":
        config = transformers.Data2VecAudioConfig(**TINY, num_conv_pos_embeddings=5)
        model = transformers.Data2VecAudioModel(config)
    elif kind == "wavlm":
        config = transformers.WavLMConfig(**TINY, **LAYER_NORM, num_conv_pos_embeddings=16)
        model = transformers.WavLMModel(config)
    else:  # published with the heads of pretraining, under the prefix "wav2vec2."
        norm = LAYER_NORM if kind == "wav2vec2" else {}
        sizes = {"codevector_dim": 16, "proj_codevector_dim": 16, "num_conv_pos_embeddings": 16}
        config = transformers.Wav2Vec2Config(**TINY, **norm, **sizes)
        model = transformers.Wav2Vec2ForPreTraining(config)
    livened(model).save_pretrained(folder)
    is_layer_norm = kind != "wav2vec2-group"
    transformers.Wav2Vec2FeatureExtractor(
        do_normalize=True, return_attention_mask=is_layer_norm
    ).save_pretrained(folder)
    return folder


def save_whisper(folder: Path) -> Path:
    """A Whisper folder as published: encoder and decoder with the language model's head."""
    import transformers

    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=20,
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    livened(transformers.WhisperForConditionalGeneration(config)).save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    return folder
