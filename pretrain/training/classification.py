"""Classification as a run's objective: augmented clips, their loss, mAP or accuracy of whole clips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hear_dasheng.audioset import audioset_names
from hear_dasheng.classifier import Classifier
from hear_dasheng.classifier_checkpoint import load_classifier, write_classifier
from pretrain.augmentation import Augmentation, draw_shift, draw_spans, draw_weights, mixed
from pretrain.augmented_classifier import (
    AugmentedClassifier,
    classifier_of_state,
    classifier_without_weights,
    with_fresh_head,
)
from pretrain.reading.clip_labels import ClipLabels, some
from pretrain.shards import Batch
from pretrain.training.build import EncoderStart
from pretrain.training.clip_metrics import accuracy, mean_average_precision, of_whole_clips
from pretrain.training.finetune_config import FinetuneConfig
from pretrain.training.processes import Processes
from pretrain.training.run_folder import written


class Classification:
    """See `Objective`. What is kept is the classifier, encoder and head.

    Args:
        config: of the run.
        labels: what clips can be, from `agreed_labels`.

    Raises:
        ConfigError: the config's encoder is impossible, or `init_from` is another model or not there.
    """

    name = "fine-tuning"
    picture_clips = 0

    def __init__(self, config: FinetuneConfig, labels: ClipLabels) -> None:
        self.config, self.labels = config, labels
        self.training_labels, self.validation_labels = labels, replace(labels, repeats=None)
        self._start = EncoderStart(config)
        self.encoder_config = self._start.config
        self.loss_name = "binary cross-entropy" if config.is_multi_label else "cross-entropy"

    def new_model(self) -> AugmentedClassifier:
        """The encoder of `init_from`, or an untrained one, with a fresh head.

        Raises:
            ConfigError: a crop does not fit the encoder.
        """
        config = self.config
        encoder = self._start.new_encoder()
        classifier = with_fresh_head(encoder, self.labels.classes, config.is_multi_label)
        return AugmentedClassifier(classifier, config.mask_level_db, config.freeze_encoder)

    def model_without_weights(self) -> AugmentedClassifier:
        """Return the classifier with its parameters on the meta device."""
        config = self.config
        classifier = classifier_without_weights(
            self.encoder_config, self.labels.classes, config.is_multi_label
        )
        return AugmentedClassifier(classifier, config.mask_level_db, config.freeze_encoder)

    def description(self, model: AugmentedClassifier) -> str:
        """How large the classifier is, and what it tells apart."""
        whole, head = (
            sum(parameter.numel() for parameter in part.parameters()) / 1e6
            for part in (model, model.classifier.outputlayer)
        )
        frozen = ", of which the head alone is trained" if self.config.freeze_encoder else ""
        start = self.config.init_from or f"{self.config.model}, untrained"
        classes = f"{len(self.labels.classes)} classes ({some(self.labels.classes)})"
        return f"{start}: {whole:.1f} M parameters, {head:.2f} M of the head{frozen}; {classes}"

    def silence(self) -> Batch:
        """A crop of zeros that is nothing."""
        targets = torch.zeros(1, len(self.labels.classes))
        return Batch(torch.zeros(1, self.config.chunk_samples), ["none"], targets=targets)

    def losses(self, model: nn.Module, batch: Batch, random: torch.Generator) -> Float[Tensor, " clips"]:
        """The loss of each clip, augmented as the config says."""
        augmentation = self.draw_augmentation(len(batch.keys), random)
        if augmentation is None:
            return self._losses(model(batch.waveforms), batch.targets, self.config.label_smoothing)
        augmentation = augmentation.to(batch.waveforms.device)
        targets = mixed(batch.targets, augmentation.weight)
        return self._losses(model(batch.waveforms, augmentation), targets, self.config.label_smoothing)

    def draw_augmentation(self, n_clips: int, random: torch.Generator) -> Augmentation | None:
        """What is done to a batch; None: nothing ever is."""
        config, mel = self.config, self.encoder_config.mel
        if not (config.time_shift or config.time_mask or config.frequency_mask or config.mixup):
            return None
        n_frames = mel.n_frames(config.chunk_samples)
        return Augmentation(
            draw_shift(n_clips, config.chunk_samples, config.time_shift, random),
            draw_spans(n_clips, config.n_masks, config.time_mask, n_frames, random),
            draw_spans(n_clips, config.n_masks, config.frequency_mask, mel.n_mels, random),
            draw_weights(n_clips, config.mixup, random),
        )

    def _losses(
        self,
        logits: Float[Tensor, "clips classes"],
        targets: Float[Tensor, "clips classes"],
        smoothing: float = 0.0,
    ) -> Float[Tensor, " clips"]:
        if self.config.is_multi_label:
            losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
            return losses.mean(dim=1)
        return F.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=smoothing)

    def examine(self, model: nn.Module, batch: Batch) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Names, logits and targets of the crops."""
        return batch.keys, model(batch.waveforms).float().cpu().numpy(), batch.targets.cpu().numpy()

    def scores(
        self, notes: list[tuple[list[str], np.ndarray, np.ndarray]], processes: Processes
    ) -> dict[str, float]:
        """Loss and mAP or accuracy of whole clips: a clip's logits are the mean of its crops'."""
        everyones = [note for own in processes.gathered(notes) for note in own]
        keys = [key for note in everyones for key in note[0]]
        logits, targets = (np.concatenate([note[part] for note in everyones]) for part in (1, 2))
        logits, targets = of_whole_clips(keys, logits, targets)
        loss = self._losses(torch.from_numpy(logits), torch.from_numpy(targets)).double().mean().item()
        if not self.config.is_multi_label:
            return {"valid_loss": loss, "valid_accuracy": accuracy(logits, targets)}
        mean_precision, n_left_out = mean_average_precision(logits, targets)
        return {"valid_loss": loss, "valid_map": mean_precision, "classes_without_clips": n_left_out}

    def result_of(self, model: AugmentedClassifier) -> Classifier:
        """Encoder and head."""
        return model.classifier

    def copy_of_state(self, state: Mapping[str, Tensor]) -> AugmentedClassifier:
        """The model that a state dict on the CPU holds, its tensors and all, in evaluation mode."""
        return classifier_of_state(
            state, self.encoder_config, self.labels.classes, self.config.is_multi_label
        )

    def write(self, result: Classifier, path: Path) -> None:
        """Write a folder; of AudioSet's classes also the published form, which has no place for others."""
        with written(path) as partial:
            write_classifier(result, partial)
        if result.is_multi_label and result.class_names == audioset_names():
            with written(path.with_name(f"{path.name}.pt")) as partial:
                write_classifier(result, partial, "published")

    def load(self, path: Path) -> Classifier:
        """Read a classifier."""
        return load_classifier(path)

    def validated(self, result: Classifier) -> AugmentedClassifier:
        """A classifier behind its front end."""
        return AugmentedClassifier(result)

    def farewell(self, source: str, run_dir: Path) -> str:
        """Both uses of the folder."""
        return (
            f"The run's classifier (from {source}) is a tagger, hear-dasheng tag FILES --model {run_dir}, "
            "and its encoder a HEAR checkpoint"
        )

    def draw(self, model: nn.Module, batch: Batch, title: str, path: Path) -> None:
        """Nothing: there is no picture of a classifier's clips."""
