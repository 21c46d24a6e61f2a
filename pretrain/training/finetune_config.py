"""What a fine-tuning run is told: all of `RunConfig`, and the keys of labels, loss and augmentation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pretrain.training.config import MODELS, Finite, Positive, RunConfig, Whole, WholeOr0


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FinetuneConfig(RunConfig):
    """A run that trains an encoder and a linear head on labelled shards."""

    # What the classes are
    task: Literal["single", "multi"] = "multi"
    """single: a clip has one class (cross-entropy, accuracy); multi: any number (binary, mAP)."""
    label_column: str = "label"
    """The key of the labels in the shards' JSON: the column's name in the list given to wavlist_to_tar."""
    label_separator: str = ";"
    """What separates a clip's labels (task multi; single refuses text with it); a JSON list needs none."""
    classes: str | None = None
    """A file with a class a line, or "audioset"; null: the classes that train_data holds, in sorted order."""

    # Model
    model: Literal["dasheng_tiny", "dasheng_base", "dasheng_06B", "dasheng_12B"] | None = None
    """A size of `MODELS`, untrained; null: that of `init_from`."""
    freeze_encoder: bool = False
    """Train the head alone: a linear probe."""

    # Data
    balanced: bool = False
    """Repeat clips of rare classes and leave out some of frequent ones, until classes come equally often."""
    balanced_max_repeats: Whole = 20
    """Most times that a clip is given in a row of its shard; classes rarer than this can mend stay rarer."""
    resampled: bool = False
    """Draw shards forever, with replacement; false: one pass after another."""
    epoch_length: Whole | None = None
    """Iterations of an epoch; null (with `resampled: false`): one pass over the data."""

    # Loss and augmentation
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of a target that is spread over all classes (task single; else a file's is not taken)."""
    mixup: Positive | None = None
    """Alpha of the Beta distribution that mixes spectrograms and targets, e.g. 0.5; null: none are mixed."""
    time_mask: WholeOr0 = 0
    """Frames (10 ms) that a time mask is narrower than; 0: no time masks."""
    frequency_mask: WholeOr0 = 0
    """Mel bands that a frequency mask is narrower than; 0: no frequency masks."""
    n_masks: Whole = 1
    """Masks of each kind on a clip."""
    mask_level_db: float | None = None
    """What masks put into a spectrogram; null: the clip's mean level."""
    time_shift: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Clips are rolled by up to this part of their length, to either side."""

    # Published keys with other defaults
    score_function: tuple[Literal["mAP", "accuracy", "Loss", "kNN"], Finite] | None = None
    """What the best are chosen by, and what makes higher better; null: mAP (multi), accuracy (single)."""
    optimizer: str = "AdamW"
    """As in pretraining."""
    optimizer_args: dict[str, Any] = Field(default_factory=lambda: {"lr": 1e-4, "weight_decay": 0.01})
    """As in pretraining; lr is the head's."""
    epochs: Whole = 10
    """Validations come between them."""

    @property
    def size(self) -> str | None:
        """The name of the size in `SIZES`; None: that of `init_from`."""
        return None if self.model is None else MODELS[self.model]

    @property
    def chosen_by(self) -> tuple[str, float]:
        """`score_function`, or what goes with the task."""
        return self.score_function or ("mAP" if self.is_multi_label else "accuracy", 1.0)

    @property
    def is_multi_label(self) -> bool:
        """Whether a clip may have several classes, or none."""
        return self.task == "multi"
