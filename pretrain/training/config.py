"""What a training run is told: a dataclass, whose fields are a YAML file's keys.

`RunConfig` holds what every run has, `PretrainConfig` adds the masked autoencoder's keys; fine-tuning's
are in `finetune_config.py`. The keys of the published training code keep their names, meanings and defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

MODELS = {
    "dasheng_tiny": "tiny",
    "dasheng_base": "base",
    "dasheng_06B": "0.6B",
    "dasheng_12B": "1.2B",
}
"""The published names of the sizes; `dasheng_06B` is the released model, not the trainer's."""

SCORES = {
    "Loss": "valid_loss",
    "kNN": "knn_accuracy",
    "mAP": "valid_map",
    "accuracy": "valid_accuracy",
}
"""What the best weights can be chosen by, and its name in the metrics."""

DEFAULT_TIMEOUT_MIN = 120
"""Longer than a reader without usable audio waits before it gives up (`skip_log.PATIENCE_S`, 30 minutes)."""

Shards = Annotated[list[Any], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
Whole = Annotated[int, Field(ge=1, le=10**9)]
WholeOr0 = Annotated[int, Field(ge=0, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Part = Annotated[float, Field(gt=0, lt=1)]
Minutes = Annotated[float, Field(gt=0, le=7 * 24 * 60)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RunConfig:
    """A training run, whatever it trains; `pretrain/training/read_config.py` makes it from YAML.

    An iteration is one optimizer step. The published keys come first; what follows
    them goes beyond the published code and is off by default.
    """

    # Data
    train_data: Shards
    """Shards: paths, URLs, `pipe:` commands with {a..b} braces; or {urls: ..., weight: ...}."""
    cv_data: Shards
    """Shards of the validation set."""
    chunk_length: Positive = 10.0
    """Seconds of a crop."""
    sample_rate: Literal[16_000] = 16_000
    """Hz; the front end knows no other rate than 16 000, other audio is resampled to it."""
    batch_size: Whole = 32
    """Crops of a batch, in each process."""
    crop_shuffle: WholeOr0 = 512
    """Files and crops in each worker's shuffle buffers, and crops in the buffer of each training process,
    which mixes those of its workers and takes crop_shuffle x chunk_length x 64 kB (512 x 10 s: 328 MB)."""
    resampled: bool = True
    """Draw shards forever, with replacement; false: every crop once in a pass."""
    max_member_mib: Whole = 1024
    """Largest file in a shard, in MiB; larger ones are skipped, for files are read whole."""
    num_workers: WholeOr0 = 4
    """Processes that decode audio, for each training process; 0: none beside it."""

    # Model
    model: Literal["dasheng_tiny", "dasheng_base", "dasheng_06B", "dasheng_12B"] = "dasheng_base"
    """One of `MODELS`."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Any encoder option, as published."""

    # Optimizer and schedule
    optimizer: str = "AdamW8bit"
    """A class of torch.optim, or (…8bit) of bitsandbytes. Without CUDA, or with fsdp, an 8-bit optimizer is
    replaced by its 32-bit namesake."""
    optimizer_args: dict[str, Any] = field(default_factory=lambda: {"lr": 3e-4, "weight_decay": 0.01})
    """Its arguments; lr is the learning rate after the warm-up."""
    epochs: Whole = 100
    """Validations come between them."""
    epoch_length: Whole | None = 15_000
    """Iterations of an epoch; null (with `resampled: false`): one pass over the data."""
    use_scheduler: bool = True
    """Warm-up and cosine; false: a constant learning rate."""
    warmup_epochs: NotNegative | None = None
    """Linear warm-up from 0, in epochs."""
    warmup_iters: WholeOr0 | None = None
    """The same in iterations; comes before `warmup_epochs`."""
    decay_frac: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Where the cosine ends, as a part of the learning rate."""

    # Validation and results
    valid_every: Whole = 1
    """Epochs between validations."""
    n_saved: Whole = 4
    """How many of the best encoders are kept."""
    score_function: tuple[Literal["Loss", "kNN"], Finite] = ("Loss", -1.0)
    """What the best are chosen by (kNN needs `knn_data`), and the factor that makes higher better."""
    average_final_model: bool = True
    """At the end, average the kept ones; this is then the run's encoder."""
    outputpath: str = "experiments"
    """Runs go to outputpath/<name of the config>/<model>/<time>_<id>."""
    logfile: str = "train.log"
    """In the run's folder."""

    # Beyond the published code
    run_dir: str | None = None
    """Where this run goes, instead of a new folder under `outputpath`."""
    seed: Seed = 42
    """Of weights, shuffles and masks."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] | None = None
    """fp32 (no TF32 anywhere), tf32 (GPU products take TF32 inputs; fp32 on a CPU), bf16 or fp16; null: what
    `accelerate launch --mixed_precision` says, else bf16 on a GPU that computes in it, and fp32 elsewhere."""
    init_from: str | None = None
    """Start from this checkpoint's encoder (anything load_model takes); what is not encoder begins afresh."""
    gradient_clip_norm: Positive | None = None
    """Largest norm of the gradient."""
    gradient_accumulation: Whole = 1
    """Batches of one iteration."""
    no_decay_on_vectors: bool = False
    """Spare biases, norms, positions and the mask token the weight decay."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer of the encoder learns at this part of the next one's rate, e.g. 0.75; 1: all alike."""
    ema_decay: Part | None = None
    """Also keep an exponential moving average, e.g. 0.999."""
    activation_checkpointing: bool = False
    """Compute each block's activations twice instead of keeping them."""
    compile: bool = False
    """torch.compile the model."""
    fsdp: bool = False
    """Shard weights, gradients and optimizer state over the processes (FSDP2); needs two or more."""
    process_timeout_min: Minutes = DEFAULT_TIMEOUT_MIN
    """Minutes that processes wait for each other. Slow reading, and what the first process does alone at an
    epoch's end (pictures, probe), must take less."""
    save_every: Whole | None = None
    """Iterations between resumable states, beside one at each epoch's end."""
    save_every_minutes: Positive | None = 10.0
    """Minutes between resumable states, by the first process's clock; null: no such states."""
    log_every: Whole = 50
    """Iterations between lines of metrics."""
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Accelerate's trackers: tensorboard, wandb, mlflow, ..."""
    knn_data: str | None = None
    """A folder with a folder of audio files per class, for a probe during training. The first process runs it
    in the run's precision; with fsdp on its CPU."""
    knn_every: Whole = 1
    """Epochs between probes."""

    @property
    def size(self) -> str:
        """The name of the model's size in `SIZES`."""
        return MODELS[self.model]

    @property
    def chosen_by(self) -> tuple[str, float]:
        """What the best are chosen by, and the factor that makes higher better."""
        return self.score_function

    @property
    def encoder_options(self) -> Mapping[str, Any]:
        """What `model_args` says of the encoder."""
        return self.model_args

    @property
    def chunk_samples(self) -> int:
        """Samples of a crop."""
        return int(self.chunk_length * self.sample_rate)

    @property
    def iterations(self) -> int | None:
        """Of the whole run, where the config tells."""
        return None if self.epoch_length is None else self.epochs * self.epoch_length


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PretrainConfig(RunConfig):
    """A run that trains a masked autoencoder."""

    model_args: dict[str, Any] = field(default_factory=dict)
    """`group_masking` (false, true: pairs, or a number) and any encoder option, as published."""
    mask_ratio: Part = 0.75
    """Part of the tokens that the encoder does not see."""
    picture_clips: WholeOr0 = 4
    """Validation clips whose reconstruction is drawn; 0: none."""

    @property
    def mask_group(self) -> int:
        """Neighbouring tokens that are masked together."""
        group = self.model_args.get("group_masking", False)
        return {False: 1, True: 2}[group] if isinstance(group, bool) else group

    @property
    def encoder_options(self) -> Mapping[str, Any]:
        """`model_args` without what is not the encoder's."""
        return {key: value for key, value in self.model_args.items() if key != "group_masking"}
