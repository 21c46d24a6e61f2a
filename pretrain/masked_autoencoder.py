"""Waveforms and a mask -> the loss: Dasheng's pretraining objective.

Source: Dinkel et al., Interspeech 2024, and the published training code.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hear_dasheng.encoder import Encoder
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.mel import LogMel
from hear_dasheng.patches import patchify, take_tokens
from hear_dasheng.sizes import SIZES
from pretrain.decoder import Decoder
from pretrain.front_end import spectrogram
from pretrain.masking import Mask

VARIANCE_EPS = 1e-6


class MaskedAutoencoder(nn.Module):
    """An encoder that sees some tokens of a clip and a decoder that guesses the others."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.patch_size = (encoder.config.patch_mels, encoder.config.patch_frames)
        self.log_mel = LogMel(encoder.config.mel, encoder.config.patch_frames)
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, waveforms: Float[Tensor, "clips samples"], mask: Mask) -> Float[Tensor, " clips"]:
        """The loss of each clip: mean squared error over its masked patches.

        Every clip has as many masked patches, so the batch's loss is the mean.

        Args:
            waveforms: 16 kHz, in [-1, 1].
            mask: which tokens of each clip are seen.
        """
        mel = self.spectrogram(waveforms)
        hidden = take_tokens(patchify(mel, *self.patch_size), mask.masked)
        latents = self.encoder(mel, kept=mask.kept)
        predictions = self.decoder(latents, mask)
        return F.mse_loss(predictions.float(), normalised(hidden), reduction="none").mean(dim=(1, 2))

    def n_tokens(self, n_samples: int) -> int:
        """Tokens of a clip of `n_samples`; frames that fill no patch are left out."""
        return self.encoder.config.n_tokens(n_samples)

    def spectrogram(self, waveforms: Float[Tensor, "clips samples"]) -> Float[Tensor, "clips mels frames"]:
        """Log-mel levels in dB."""
        return spectrogram(self.log_mel, waveforms)


def normalised(patches: Float[Tensor, "clips tokens values"]) -> Float[Tensor, "clips tokens values"]:
    """Each patch with mean 0 and (unbiased) variance 1."""
    mean = patches.mean(dim=-1, keepdim=True)
    return (patches - mean) / deviation(patches)


def deviation(patches: Float[Tensor, "clips tokens values"]) -> Float[Tensor, "clips tokens 1"]:
    """What a patch is divided by: its standard deviation, kept off zero as published."""
    return (patches.var(dim=-1, keepdim=True) + VARIANCE_EPS).sqrt()


def new_masked_autoencoder(encoder: Encoder, size: str) -> MaskedAutoencoder:
    """Put a fresh decoder of the named size of `SIZES` behind an encoder."""
    return MaskedAutoencoder(encoder, _new_decoder(encoder.config, size))


def autoencoder_without_weights(config: EncoderConfig, size: str) -> MaskedAutoencoder:
    """Return an autoencoder whose parameters are on the meta device: they have shapes, but no values."""
    with torch.device("meta"):
        encoder, decoder = Encoder(config), _new_decoder(config, size)
    return MaskedAutoencoder(encoder, decoder)


def autoencoder_of_state(state: Mapping[str, Tensor], config: EncoderConfig, size: str) -> MaskedAutoencoder:
    """The autoencoder that a state dict holds, its tensors and all, in evaluation mode."""
    model = autoencoder_without_weights(config, size)
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def _new_decoder(config: EncoderConfig, size: str) -> Decoder:
    shape = SIZES[size]
    return Decoder(
        config.dim,
        shape.decoder_dim,
        shape.decoder_depth,
        shape.decoder_heads,
        max_tokens=config.window_tokens,
        patch_values=config.patch_mels * config.patch_frames,
    )
