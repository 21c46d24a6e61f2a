"""Waveforms of labelled clips -> a score for each class, on augmented clips if asked: fine-tuning's model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hear_dasheng.classifier import Classifier
from hear_dasheng.encoder import Encoder
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.mel import LogMel
from pretrain.augmentation import Augmentation, masked, mixed, shifted
from pretrain.front_end import spectrogram

HEAD_STD = 0.02
"""Of a fresh head's weights, as in CED's published code."""


class AugmentedClassifier(nn.Module):
    """A classifier behind its front end.

    Args:
        classifier: is trained, and kept.
        mask_level_db: what masks put into a spectrogram; None: the clip's mean level.
        is_encoder_frozen: the head alone learns; the encoder stays as it is, batch statistics included.
    """

    def __init__(
        self, classifier: Classifier, mask_level_db: float | None = None, is_encoder_frozen: bool = False
    ) -> None:
        super().__init__()
        config = classifier.encoder.config
        self.classifier = classifier
        self.log_mel = LogMel(config.mel, config.patch_frames)
        self.mask_level_db = mask_level_db
        self.is_encoder_frozen = is_encoder_frozen
        classifier.encoder.requires_grad_(not is_encoder_frozen)

    @property
    def encoder(self) -> Encoder:
        """The classifier's."""
        return self.classifier.encoder

    def train(self, mode: bool = True) -> AugmentedClassifier:
        """Switch dropout and batch statistics; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.is_encoder_frozen:
            self.encoder.eval()
        return self

    def forward(
        self, waveforms: Float[Tensor, "clips samples"], augmentation: Augmentation | None = None
    ) -> Float[Tensor, "clips classes"]:
        """A logit for each class; of mixed clips, their targets must be mixed alike.

        Args:
            waveforms: 16 kHz, in [-1, 1], at most one of the encoder's windows long.
            augmentation: what is done to the clips first.
        """
        if augmentation is None:
            return self.classifier(spectrogram(self.log_mel, waveforms))
        mel = spectrogram(self.log_mel, shifted(waveforms, augmentation.shift))
        mel = masked(mel, augmentation, self.mask_level_db)
        return self.classifier(mixed(mel, augmentation.weight))


def with_fresh_head(encoder: Encoder, class_names: tuple[str, ...], is_multi_label: bool) -> Classifier:
    """Put a head behind an encoder, its weights drawn from torch's random numbers as they are."""
    classifier = Classifier(encoder, class_names, is_multi_label)
    linear = classifier.outputlayer[1]
    nn.init.trunc_normal_(linear.weight, std=HEAD_STD)
    nn.init.zeros_(linear.bias)
    return classifier


def classifier_without_weights(
    config: EncoderConfig, class_names: tuple[str, ...], is_multi_label: bool
) -> Classifier:
    """Return a classifier whose parameters are on the meta device: they have shapes, but no values."""
    with torch.device("meta"):
        return Classifier(Encoder(config), class_names, is_multi_label)


def classifier_of_state(
    state: Mapping[str, Tensor], config: EncoderConfig, class_names: tuple[str, ...], is_multi_label: bool
) -> AugmentedClassifier:
    """The model that a state dict holds, its tensors and all, in evaluation mode."""
    classifier = classifier_without_weights(config, class_names, is_multi_label)
    weights = {name.removeprefix("classifier."): value for name, value in state.items()}
    classifier.load_state_dict(weights, assign=True)
    return AugmentedClassifier(classifier).eval().requires_grad_(False)
