"""A YAML file and command-line options -> a checked config of either kind."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeVar

import torch
from pydantic import ValidationError

from pretrain.training.config import PretrainConfig, RunConfig
from pretrain.training.finetune_config import FinetuneConfig
from pretrain.training.strict_yaml import parse_yaml

Config = TypeVar("Config", bound=RunConfig)
WRITTEN_BY_THE_PUBLISHED_TRAINER = ("config_file", "outputdir")
"""Keys that its own checkpoints' configs hold beside a user's; they mean nothing in a file."""
SHIPPED = Path(__file__).parent.parent / "configs"
NESTED = ("model_args", "optimizer_args")
SHOWN_CHARACTERS = 100
LARGEST_GROUP = 10_000
"""Neighbouring tokens that are masked together, at most; windows are shorter."""
RUN_FILES = {
    *(".run.lock", "config.yaml", "metrics.jsonl", "classes.json", "config.json", "preprocessor_config.json"),
    *("model.safetensors", "states", "best", "last", "averaged", "ema", "pictures", "tensorboard"),
}
"""Names in a run's folder that are not the log's."""


class ConfigError(ValueError):
    """A config that cannot be; the message names the key, the value and a valid one."""


def read_yaml(path: Path) -> Any:
    """Return the value of a YAML file.

    Raises:
        ConfigError: it cannot be read, or is not YAML; the message names it.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it so"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"cannot read the config {path}: {error.strerror}; give a YAML file, or one of "
            f"{', '.join(sorted(shipped.stem for shipped in SHIPPED.glob('*.yaml')))}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_config(path: str | Path, options: Sequence[str] = (), kind: type[Config] = PretrainConfig) -> Config:
    """Read a config file; options given as `--key value` or `--key=value` override it.

    Args:
        path: a YAML file, the published ones included, or the name of one in `pretrain/configs/`.
        options: e.g. ["--batch_size", "8", "--optimizer_args.lr=1e-4"].
        kind: of run that the file describes.

    Raises:
        ConfigError: unreadable file, unknown key, impossible value.
    """
    path = _shipped_or_own(Path(path))
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, not {type(values).__name__}")
    for key in WRITTEN_BY_THE_PUBLISHED_TRAINER:
        values.pop(key, None)
    given = parse_options(options)
    if given.get("task") == "multi" and values.get("task") == "single":
        values.pop("label_smoothing", None)  # of the task that is overridden
    for dotted, value in given.items():
        key, _, inner = dotted.partition(".")
        if inner and key in NESTED:
            inside = values.get(key) or {}
            if not isinstance(inside, dict):
                raise ConfigError(f"{path}: {key} is {_shown(inside)}: it must hold `key: value` lines")
            values[key] = {**inside, inner: value}
        else:
            values[dotted] = value
    return config_of(values, f"{path}, with the command line's options" if options else str(path), kind)


def _shipped_or_own(path: Path) -> Path:
    """Return the shipped file if the path is one's name, and no file of one's own has that name."""
    names = {file.stem for file in SHIPPED.glob("*.yaml")}
    is_name = str(path) in names and not path.is_file()
    return SHIPPED / f"{path}.yaml" if is_name else path


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Command-line options as keys and YAML values.

    >>> parse_options(["--batch-size", "8", "--optimizer_args.lr=1e-4"])
    {'batch_size': 8, 'optimizer_args.lr': 0.0001}
    """
    values: dict[str, Any] = {}
    remaining = list(options)
    while remaining:
        option = remaining.pop(0)
        if not option.startswith("--"):
            raise ConfigError(f"{option!r} is not an option; write --key value")
        key, separator, text = option[2:].partition("=")
        if not separator:
            if not remaining:
                raise ConfigError(f"--{key} has no value; write --{key} VALUE")
            text = remaining.pop(0)
        try:
            values[key.replace("-", "_")] = parse_yaml(text)
        except ValueError as error:
            raise ConfigError(f"--{key} {_shown(text)}: {error}") from error
    return values


def fields_of(kind: type[RunConfig]) -> set[str]:
    """The keys that a kind of config has."""
    return {field.name for field in dataclasses.fields(kind)}


def config_of(
    values: Mapping[str, Any], source: str = "the config", kind: type[Config] = PretrainConfig
) -> Config:
    """Check values and make a config of them."""
    check_keys(values, fields_of(kind), source)
    try:
        config = kind(**values)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {problem}" for problem in _problems(error))) from None
    own_check = _check_classification if isinstance(config, FinetuneConfig) else _check_group
    for check in (_check_text, _check_data, _check_logfile, own_check, _check_optimizer):
        check(config, source)
    return config


def check_keys(keys: Iterable[str], valid: Iterable[str], source: str) -> None:
    """Refuse keys that mean nothing, naming the nearest that does."""
    valid = sorted(valid)
    for key in keys:
        if key not in valid:
            nearest = difflib.get_close_matches(str(key), valid, n=1, cutoff=0)[0]
            raise ConfigError(f"{source}: there is no key {_shown(key)}; the nearest is {nearest!r}")


def _problems(error: ValidationError) -> list[str]:
    problems = {}
    for detail in error.errors():
        key = str(detail["loc"][0])
        reason = (
            detail["msg"]
            .partition(", unable to parse")[0]
            .replace("Input should be", "it must be")
            .replace("Field required", "is missing")
        )
        given = "" if detail["type"] == "missing" else f" is {_shown(detail['input'])}:"
        problems.setdefault(key, f"{key}{given} {reason}")
    return list(problems.values())


def _shown(value: object) -> str:
    """Return a value for a message, shortened."""
    shown = repr(value)
    return shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}..."


def _check_text(config: RunConfig, source: str) -> None:
    """Refuse NUL, which no path, URL or name can hold."""
    for key in fields_of(type(config)):
        value = getattr(config, key)
        if isinstance(value, str) and "\0" in value:
            raise ConfigError(f"{source}: {key} is {_shown(value)}: it holds a NUL character; remove it")


def _check_logfile(config: RunConfig, source: str) -> None:
    path = PurePath(config.logfile)
    if path.is_absolute() or ".." in path.parts or not path.parts or path.parts[0] in RUN_FILES:
        raise ConfigError(
            f"{source}: logfile is {_shown(config.logfile)}: it must be a name in the run folder that "
            "nothing else there has, e.g. train.log"
        )


def _check_data(config: RunConfig, source: str) -> None:
    for key in ("train_data", "cv_data"):
        if not getattr(config, key):
            raise ConfigError(
                f"{source}: {key} is empty; list tar shards, e.g. shards/train_{{0000..0009}}.tar"
            )
    if config.resampled and config.epoch_length is None:
        raise ConfigError(
            f"{source}: epoch_length is null, but resampled data never end; "
            "give a number or `resampled: false`"
        )
    if config.chunk_samples < 1:
        raise ConfigError(f"{source}: chunk_length is {config.chunk_length} s: that is less than a sample")
    if config.chosen_by[0] == "kNN" and config.knn_data is None:
        raise ConfigError(f"{source}: score_function is kNN, but knn_data names no folder")


def _check_group(config: PretrainConfig, source: str) -> None:
    group = config.model_args.get("group_masking", False)
    if not isinstance(group, int) or not 1 <= config.mask_group <= LARGEST_GROUP:
        raise ConfigError(
            f"{source}: group_masking is {_shown(group)}: it must be true, false or a number from 1 to "
            f"{LARGEST_GROUP}"
        )


def _check_classification(config: FinetuneConfig, source: str) -> None:
    if (config.model is None) == (config.init_from is None):
        raise ConfigError(
            f"{source}: model is {config.model!r} and init_from {config.init_from!r}; give one of them: "
            "a checkpoint to start from, or the size of an untrained model"
        )
    if {"multi": "accuracy", "single": "mAP"}[config.task] == config.chosen_by[0]:
        raise ConfigError(
            f"{source}: score_function is {config.chosen_by[0]}, but task {config.task} has none; "
            "give --score_function null to choose by what it has"
        )
    if config.is_multi_label and config.label_smoothing:
        raise ConfigError(
            f"{source}: label_smoothing is {config.label_smoothing}, but is for task single; "
            "give --label_smoothing 0 or --task single"
        )
    if config.is_multi_label and not config.label_separator:
        raise ConfigError(f"{source}: label_separator is empty; task multi needs one, e.g. ';'")


def _check_optimizer(config: RunConfig, source: str) -> None:
    kind = optimizer_class(config.optimizer, source)
    arguments = inspect.signature(kind).parameters
    check_keys(
        config.optimizer_args, set(arguments) - {"params"}, f"{source}: optimizer_args of {kind.__name__}"
    )
    rate = config.optimizer_args.get("lr")
    is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if not is_number or not 0 < rate < math.inf:
        raise ConfigError(f"{source}: optimizer_args.lr is {_shown(rate)}: it must be a number above 0")
    _check_step(kind, config.optimizer, source)


def _check_step(kind: type[torch.optim.Optimizer], name: str, source: str) -> None:
    """Refuse an optimizer that cannot step as the trainer does: on dense gradients, without a closure."""
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.zeros(2, 2)
    try:
        kind([parameter], lr=1e-3).step()
    except (TypeError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{source}: optimizer is {name!r}, which cannot train here "
            f"({' '.join(str(error).split())}); choose another, e.g. AdamW"
        ) from error


def optimizer_class(name: str, source: str = "the config") -> type[torch.optim.Optimizer]:
    """The class of torch.optim behind a name, itself or the 8-bit one's 32-bit namesake."""
    plain = name.removesuffix("8bit")
    kind = getattr(torch.optim, plain, None)
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        names = [key for key, value in vars(torch.optim).items() if isinstance(value, type)]
        nearest = difflib.get_close_matches(plain, names, n=1, cutoff=0)[0]
        raise ConfigError(
            f"{source}: optimizer is {name!r}, which torch.optim lacks; the nearest is {nearest!r}"
        )
    return kind
