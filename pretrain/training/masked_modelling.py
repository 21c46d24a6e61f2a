"""Masked autoencoding as a run's objective: masks, the loss under fixed masks, reconstructions."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hear_dasheng.checkpoint import load_encoder
from hear_dasheng.encoder import Encoder
from pretrain.masked_autoencoder import (
    MaskedAutoencoder,
    autoencoder_of_state,
    autoencoder_without_weights,
    new_masked_autoencoder,
)
from pretrain.masking import Mask, fixed_mask, n_kept, random_mask
from pretrain.shards import Batch
from pretrain.training.build import EncoderStart
from pretrain.training.config import PretrainConfig
from pretrain.training.encoders import write_encoder
from pretrain.training.pictures import draw_reconstructions, reconstruct
from pretrain.training.processes import Processes
from pretrain.training.read_config import ConfigError


class MaskedModelling:
    """See `Objective`. What is kept is the encoder.

    Raises:
        ConfigError: the config's encoder is impossible, or `init_from` is another model or not there.
    """

    name = "pretraining"
    loss_name = "mean squared error of normalised patches"
    training_labels = validation_labels = None

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self.picture_clips = config.picture_clips
        self._start = EncoderStart(config)
        self.encoder_config = self._start.config
        self.n_tokens = self.encoder_config.n_tokens(config.chunk_samples)

    def new_model(self) -> MaskedAutoencoder:
        """The autoencoder with weights drawn from the config's seed, or its encoder's from `init_from`.

        Raises:
            ConfigError: a crop does not fit the encoder.
        """
        model = new_masked_autoencoder(self._start.new_encoder(), self.config.size)
        try:
            n_kept(self.n_tokens, self.config.mask_ratio)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return model

    def model_without_weights(self) -> MaskedAutoencoder:
        """Return the autoencoder with its parameters on the meta device."""
        return autoencoder_without_weights(self.encoder_config, self.config.size)

    def description(self, model: MaskedAutoencoder) -> str:
        """How large both halves are."""
        encoder, decoder = (
            sum(parameter.numel() for parameter in part.parameters()) / 1e6
            for part in (model.encoder, model.decoder)
        )
        return f"{self.config.model}: {encoder:.1f} M parameters, and {decoder:.1f} M of the decoder"

    def silence(self) -> Batch:
        """A crop of zeros."""
        return Batch(torch.zeros(1, self.config.chunk_samples), ["none"])

    def losses(self, model: nn.Module, batch: Batch, random: torch.Generator) -> Float[Tensor, " clips"]:
        """The loss of each clip under a fresh mask."""
        config = self.config
        mask = random_mask(len(batch.keys), self.n_tokens, config.mask_ratio, config.mask_group, random)
        return model(batch.waveforms, mask.to(batch.waveforms.device))

    def examine(self, model: nn.Module, batch: Batch) -> Float[Tensor, " clips"]:
        """The loss of each clip under its own mask."""
        return model(batch.waveforms, self.mask_of_keys(batch.keys).to(batch.waveforms.device))

    def mask_of_keys(self, keys: list[str]) -> Mask:
        """Each clip's own mask: of its name and the run's seed, whatever batch it is in."""
        config = self.config
        numbers = [zlib.crc32(key.encode("utf-8", "surrogateescape"), config.seed) for key in keys]
        return fixed_mask(numbers, self.n_tokens, config.mask_ratio, config.mask_group)

    def scores(self, notes: list[Float[Tensor, " _"]], processes: Processes) -> dict[str, float]:
        """The mean loss of all clips."""
        own = [sum(losses.double().sum().item() for losses in notes), sum(map(len, notes))]
        total, clips = processes.sums(own)
        return {"valid_loss": total / clips}

    def result_of(self, model: MaskedAutoencoder) -> Encoder:
        """The encoder; the decoder has done its work."""
        return model.encoder

    def copy_of_state(self, state: Mapping[str, Tensor]) -> MaskedAutoencoder:
        """The autoencoder that a state dict on the CPU holds, its tensors and all, in evaluation mode."""
        return autoencoder_of_state(state, self.encoder_config, self.config.size)

    def write(self, result: Encoder, path: Path) -> None:
        """Write the encoder in both layouts."""
        write_encoder(result, path)

    def load(self, path: Path) -> Encoder:
        """Read an encoder."""
        return load_encoder(path)

    def validated(self, result: Encoder) -> None:
        """Nothing: the decoders that went with the encoders are not kept."""

    def farewell(self, source: str, run_dir: Path) -> str:
        """The folder's use."""
        return f"The run's encoder (from {source}) is a HEAR checkpoint: {run_dir}"

    def draw(self, model: MaskedAutoencoder, batch: Batch, title: str, path: Path) -> None:
        """The clips, what the encoder sees of them, and their reconstruction."""
        spectrograms = reconstruct(model, batch.waveforms, self.mask_of_keys(batch.keys))
        frame_s = self.encoder_config.mel.hop_samples / self.config.sample_rate
        draw_reconstructions(spectrograms, batch.keys, frame_s, title, path)
