"""Log-mel spectrogram -> a score for each class: an encoder with a linear head.

The head of the published AudioSet-finetuned model: mean over the tokens, LayerNorm,
linear layer. Attribute names follow its checkpoint's keys.
Source: README of the package `dasheng` 0.0.9.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hear_dasheng.blocks import Linear
from hear_dasheng.encoder import Encoder


class Classifier(nn.Module):
    """An encoder, and what turns the mean of its tokens into classes.

    Attributes:
        encoder: the encoder.
        outputlayer: LayerNorm and linear layer.
        class_names: what each output stands for.
        is_multi_label: classes are independent of each other (sigmoid); otherwise
            exactly one is true (softmax).
    """

    def __init__(self, encoder: Encoder, class_names: Sequence[str], is_multi_label: bool = True) -> None:
        super().__init__()
        if not class_names:
            raise ValueError("class_names is empty; a classifier needs one class at least")
        self.encoder = encoder
        self.outputlayer = nn.Sequential(
            nn.LayerNorm(encoder.config.dim), Linear(encoder.config.dim, len(class_names))
        )
        self.class_names = tuple(class_names)
        self.is_multi_label = is_multi_label

    def forward(
        self,
        mel: Float[Tensor, "windows mels frames"],
        is_valid: Bool[Tensor, "windows tokens"] | None = None,
    ) -> Float[Tensor, "windows classes"]:
        """Score windows of log-mel frames.

        Args:
            mel: dB levels as `LogMel` gives them, at most one window of the encoder.
            is_valid: False at tokens that are padding; None if none is.

        Returns:
            One logit for each class.
        """
        tokens = self.encoder(mel, is_valid)
        if is_valid is None:
            return self.logits(tokens.mean(1))
        weights = is_valid[:, :, None].to(tokens.dtype)
        return self.logits((tokens * weights).sum(1) / weights.sum(1))

    def logits(self, mean_tokens: Float[Tensor, "*clips dim"]) -> Float[Tensor, "*clips classes"]:
        """Scores of clips whose tokens have these means."""
        return self.outputlayer(mean_tokens)

    def probabilities(self, logits: Float[Tensor, "*clips classes"]) -> Float[Tensor, "*clips classes"]:
        """Scores as probabilities: of each class by itself, or of one among all."""
        return logits.float().sigmoid() if self.is_multi_label else logits.float().softmax(-1)


def new_classifier(
    encoder: Encoder, class_names: Sequence[str], is_multi_label: bool = True, seed: int = 0
) -> Classifier:
    """Put a fresh head behind an encoder, its weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(encoder, class_names, is_multi_label)
