"""`--dry_run` of `hear-dasheng pretrain` and `finetune`: what a run would need, and whether it fits.

Nothing is written, downloaded or read but the config, a local `init_from` and the file of `classes`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from pretrain.masking import n_kept
from pretrain.reading.clip_labels import ClipLabels, LabelColumn
from pretrain.training.build import must_use_cpu
from pretrain.training.class_list import named_classes
from pretrain.training.classification import Classification
from pretrain.training.config import MODELS, PretrainConfig, RunConfig
from pretrain.training.estimate import (
    GIB,
    Device,
    Estimator,
    Memory,
    Setting,
    machine_memory_bytes,
    own_memory_bytes,
)
from pretrain.training.finetune_config import FinetuneConfig
from pretrain.training.masked_modelling import MaskedModelling
from pretrain.training.objective import Objective
from pretrain.training.precision import training_precision
from pretrain.training.read_config import ConfigError

DOES_NOT_FIT = 3
"""Exit code; 1 is an error of the config, 2 one of the command line."""
ASSUMED_CLASSES = 527
"""AudioSet's: for a head whose classes are known only when the shards are read."""
SIZE_OF_PUBLISHED = {name: name for name in MODELS} | {"dasheng_audioset": "dasheng_base"}


def plan(config: RunConfig, device_memory_gib: float | None, processes: int | None) -> tuple[list[str], bool]:
    """Return what a run would need, in lines, and whether it fits.

    Args:
        config: of the run.
        device_memory_gib: memory of a GPU that need not be here; None: the device that a run here would use.
        processes: of the run; None: those that a launcher has started, else one.

    Raises:
        ConfigError: such a run is refused.
    """
    processes = processes or int(os.environ.get("WORLD_SIZE", "1"))
    if config.fsdp and processes == 1:
        raise ConfigError("fsdp: true needs two or more processes; give --processes N, or --fsdp false")
    device = _device(device_memory_gib, processes)
    objective = _objective(config)
    kind = "cuda" if device.is_gpu else "cpu"
    has_bfloat16 = None if device.is_here else True
    setting = Setting(
        training_precision(config.precision, kind, has_bfloat16),
        config.batch_size,
        config.gradient_accumulation,
        config.activation_checkpointing,
        config.fsdp,
        processes,
    )
    estimator = Estimator(objective, device, own_memory_bytes())
    memory = estimator.memory(setting)
    lines = [
        *_introduction(estimator, setting),
        *_work(estimator, setting),
        *_table(estimator, setting, memory),
    ]
    fits = estimator.fits(memory)
    lines.append(_verdict(memory, device, fits))
    if not fits:
        lines += _remedies(estimator, setting)
    return lines, fits


def _device(memory_gib: float | None, processes: int) -> Device:
    """Return the device of each process: the one that was described, or this machine's."""
    if memory_gib is not None:
        return Device(f"a GPU of {memory_gib:g} GiB", memory_gib * GIB, is_gpu=True, is_here=False)
    if not must_use_cpu() and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Device(properties.name, properties.total_memory, is_gpu=True)
    return Device("this machine's CPU", machine_memory_bytes() / processes, is_gpu=False)


def _objective(config: RunConfig) -> Objective:
    """Return the run's objective, without reading weights of a published model."""
    published = SIZE_OF_PUBLISHED.get(config.init_from or "")
    is_here = config.init_from is None or Path(config.init_from).expanduser().exists()
    if isinstance(config, PretrainConfig):
        return MaskedModelling(replace(config, init_from=None))
    if not is_here and published is None:
        raise ConfigError(
            f"init_from {config.init_from} is not on this disk, and --dry_run downloads nothing; bring it "
            "here with `hear-dasheng export`, or name a published model"
        )
    if published is not None and not is_here:
        config = replace(config, init_from=None, model=published)
    column = LabelColumn(config.label_column, config.label_separator)
    return Classification(config, ClipLabels(column, _class_names(config)))


def _class_names(config: FinetuneConfig) -> tuple[str, ...]:
    if config.classes is not None:
        return named_classes(config.classes)
    return tuple(f"class {number}" for number in range(ASSUMED_CLASSES))


def _introduction(estimator: Estimator, setting: Setting) -> Iterator[str]:
    config, model = estimator.config, estimator.model
    encoder = sum(parameter.numel() for parameter in model.encoder.parameters())
    rest = sum(parameter.numel() for parameter in model.parameters()) - encoder
    other = "decoder" if isinstance(config, PretrainConfig) else "head"
    yield f"Parameters: encoder {encoder / 1e6:.1f} M, {other} {rest / 1e6:.2f} M"
    if isinstance(config, FinetuneConfig) and config.classes is None:
        yield f"  (classes are found in the shards; the head is counted with {ASSUMED_CLASSES})"
    yield f"Device: {estimator.device.name}; {setting.processes} process(es)"
    yield f"Precision: {setting.precision.name} ({setting.precision.reason})"
    on_off = {True: "on", False: "off"}
    yield (
        f"Activation checkpointing {on_off[setting.activation_checkpointing]}, FSDP {on_off[setting.fsdp]}"
    )


def _work(estimator: Estimator, setting: Setting) -> Iterator[str]:
    config, objective = estimator.config, estimator.objective
    clips = setting.batch_size * setting.gradient_accumulation * setting.processes
    tokens = objective.encoder_config.n_tokens(config.chunk_samples)
    text = f"{clips * tokens:,} tokens"
    if isinstance(config, PretrainConfig):
        try:
            visible = n_kept(tokens, config.mask_ratio)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        text += f" ({clips * visible:,} visible to the encoder)"
    flop = estimator.cost(setting).flop * setting.gradient_accumulation
    yield f"A step: {clips:,} crops of {config.chunk_length:g} s, {text}"
    yield f"  {flop / 1e12:,.2f} TFLOP on each device, {flop * setting.processes / 1e12:,.2f} TFLOP in all"


def _table(estimator: Estimator, setting: Setting, memory: Memory) -> Iterator[str]:
    bits = 8 if estimator.uses_8bit(setting) else 32
    what = "CUDA, fragmentation (assumed)" if estimator.device.is_gpu else "Python and its libraries"
    rows = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        f"{estimator.config.optimizer}, {bits}-bit state": memory.optimizer,
        "moving average": memory.moving_average,
        "gathered by FSDP": memory.unsharded,
        "activations": memory.activations,
        "temporaries": memory.temporaries,
        what: memory.allowance,
        "total": memory.total,
    }
    yield "Memory of each process, estimated:"
    for name, n_bytes in rows.items():
        if n_bytes:
            yield f"  {name:<34}{n_bytes / GIB:>9.2f} GiB"


def _verdict(memory: Memory, device: Device, fits: bool) -> str:
    verb = "Fits" if fits else "Does not fit"
    return f"{verb}: {memory.total / GIB:.2f} of {device.memory_bytes / GIB:.2f} GiB"


def _remedies(estimator: Estimator, setting: Setting) -> Iterator[str]:
    yield "What would help:"
    for options, other in estimator.remedies(setting):
        memory = estimator.memory(other)
        verdict = "fits" if estimator.fits(memory) else "does not fit"
        yield f"  {options}: {memory.total / GIB:.2f} GiB, {verdict}"
