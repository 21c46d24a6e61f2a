"""What commands take about a model: `--model`, a path or a name, and `--model-options`, without weights."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hear_dasheng.files.strict_json import JsonProblem, parse_json

WEIGHTS_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
NAME = re.compile(r"https?://.+|[\w-][\w.-]*(/[\w-][\w.-]*){0,2}")
"""A URL, a published name, a Hub id `owner/name`, or a file of a Hub repository."""
WEIGHTS_KEYS = re.compile(r"(.*_)?(path|file|checkpoint|ckpt|weights)", re.IGNORECASE)
USE_MODEL = "name weights with --model, whose content is recorded and told from other weights"


class PathOrName(click.ParamType):
    """A checkpoint on this disk, or a name that a module may know how to find."""

    name = "PATH or NAME"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is neither; whether a module knows a name is its own to say."""
        is_file_name = value.count("/") < 2 and value.endswith(WEIGHTS_SUFFIXES) and "://" not in value
        path = Path(value).expanduser()
        if value and _exists(str(path)):
            return str(path)
        if is_file_name or not NAME.fullmatch(value):
            self.fail(
                f"there is no file or folder {_short(value)} (seen from {Path.cwd()}), and it is no name, "
                "such as the Hub id owner/name, either",
                param,
                ctx,
            )
        return value


model_option = click.option(
    "--model",
    type=PathOrName(),
    help="Checkpoint file or folder, or a name that MODULE finds, such as a Hub id.",
)


def parse_options(text: str) -> dict[str, Any]:
    """`--model-options` as a dict, or an error that quotes it."""
    try:
        options = parse_json(text, f"--model-options {_short(text)}")
    except JsonProblem as error:
        remedy = USE_MODEL if _exists(text) else """write an object such as '{"layers": 5}'"""
        raise click.BadParameter(f"{error}; {remedy}") from error
    if not isinstance(options, dict):
        raise click.BadParameter(
            f'--model-options {_short(text)} must be a JSON object such as {{"layers": 5}}'
        )
    for key, value in options.items():
        if WEIGHTS_KEYS.fullmatch(key) and isinstance(value, str):
            raise click.BadParameter(f"--model-options {_short(text)} has the key {key!r}; {USE_MODEL}")
    return options


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long for a name, or with a null character
        return False


def refuse_weights_among_options(load_model: Callable[..., Any], options: dict[str, Any]) -> None:
    """Whatever a module calls its checkpoint, its first argument, is no option.

    Raises:
        ValueError: it is among the options.
    """
    try:
        first = next(iter(inspect.signature(load_model).parameters), None)
    except (TypeError, ValueError):  # some callables tell no signature
        return
    if first in options:
        raise ValueError(f"the option {first!r} is the module's checkpoint; {USE_MODEL}")


def cannot_load(name: str, model: str | None, reason: object) -> str:
    """What to say when a module's `load_model` fails."""
    if model and not Path(model).expanduser().exists():
        return f"{model!r} is no path here, and {name}.load_model cannot load it as a name: {reason}"
    return f"{name}.load_model({model or ''}) failed: {reason}"
