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
        for parameter in model.parameters():
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


PATCH_DIM = 64
"""Width of the tiny ViTs: one head."""


def timm_vit(image: tuple[int, int], *, class_token: bool = True, seed: int = 0):
    """A tiny timm ViT over 16 x 16 patches of one channel."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(seed)
    vit = VisionTransformer(
        img_size=image,
        patch_size=16,
        in_chans=1,
        num_classes=0,
        global_pool="token" if class_token else "",
        class_token=class_token,
        embed_dim=PATCH_DIM,
        depth=2,
        num_heads=1,
    )
    return livened(vit)


def save_audiomae(folder: Path, *, finetuned: bool = False) -> Path:
    """The authors' pretrained.pth or finetuned.pth: timm's names, a decoder or a head, training's options."""
    import argparse

    folder.mkdir(parents=True, exist_ok=True)
    state = dict(timm_vit((1024, 128)).state_dict())
    if finetuned:
        state = {
            name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: value
            for name, value in state.items()
        }
        state |= {"head.weight": torch.randn(527, PATCH_DIM), "head.bias": torch.randn(527)}
    else:
        state |= {
            "mask_token": torch.randn(1, 1, 16),
            "decoder_pos_embed": torch.randn(1, 513, 16),
            "decoder_embed.weight": torch.randn(16, PATCH_DIM),
            "decoder_blocks.0.norm1.weight": torch.randn(16),
        }
    path = folder / ("finetuned.pth" if finetuned else "pretrained.pth")
    options = argparse.Namespace(batch_size=8, output_dir=Path("./out"), blr=2e-4)
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 32, "args": options}, path)
    return path


def save_msm_mae(folder: Path, *, frames: int = 208, class_token: bool = True, wrapped: bool = False) -> Path:
    """The authors' checkpoint-100.pth: query and value biases apart, no key bias, a decoder."""
    state = {}
    for name, value in timm_vit((80, frames), class_token=class_token).state_dict().items():
        if name.endswith("attn.qkv.bias"):
            query, _, values = value.chunk(3)
            state[name.replace("qkv.bias", "q_bias")] = query.clone()
            state[name.replace("qkv.bias", "v_bias")] = values.clone()
        else:
            state[name] = value
    state |= {"mask_token": torch.randn(1, 1, 16), "decoder_embed.weight": torch.randn(16, PATCH_DIM)}
    path = folder / f"80x{frames}p16x16_tiny" / "checkpoint-100.pth"
    path.parent.mkdir(parents=True)
    torch.save({"model": state} if wrapped else state, path)
    return path


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return torch.allclose(ours, theirs, atol=tolerance, rtol=tolerance)


def assert_alone_as_in_company(module, model, audio: torch.Tensor, lengths: list[int]) -> None:
    """A clip's embeddings do not depend on its batch, nor on padding beyond its length."""
    together = module.get_scene_embeddings(audio, model)
    padded = module.get_scene_embeddings(audio, model, lengths)
    tokens, times = module.get_timestamp_embeddings(audio, model, torch.tensor(lengths))
    for index, length in enumerate(lengths):
        alone = audio[index : index + 1]
        assert close(together[index], module.get_scene_embeddings(alone, model)[0])
        assert close(padded[index], module.get_scene_embeddings(alone[:, :length], model)[0])
        expected, centres = module.get_timestamp_embeddings(alone[:, :length], model)
        assert close(tokens[index, : expected.shape[1]], expected[0])
        assert torch.equal(times[index, : expected.shape[1]], centres[0])
        assert times[index, expected.shape[1] :].isnan().all()


def torchaudio_fbank(clip: torch.Tensor, n_mels: int) -> torch.Tensor:
    """Kaldi's filter banks as torchaudio has them, (frames, n_mels)."""
    from torchaudio.compliance.kaldi import fbank

    return fbank(
        clip[None],
        htk_compat=True,
        sample_frequency=16_000,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=n_mels,
        dither=0.0,
        frame_shift=10,
    )
