"""What commands take about a model: `--model`, a path or a name, and `--model-options`, without weights."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from eval_recipes.modules.guard import quoted, shown_name
from hear_dasheng.files.strict_json import JsonProblem, parse_json

WEIGHTS_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
NAME = re.compile(r"https?://.+|[\w-][\w.-]*(/[\w-][\w.-]*){0,2}")
"""A URL, a published name, a Hub id `owner/name`, or a file of a Hub repository."""
LONGEST_NAME = 255
LONGEST_URL = 4_000
"""In characters."""
WEIGHTS_KEYS = re.compile(r"(.*_)?(path|file|checkpoint|ckpt|weights)", re.IGNORECASE)
USE_MODEL = "name weights with --model, whose content is recorded and told from other weights"


class PathOrName(click.ParamType):
    """A checkpoint on this disk, or a name that a module may know how to find."""

    name = "PATH or NAME"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is neither; whether a module knows a name is its own to say."""
        is_file_name = value.count("/") < 2 and value.endswith(WEIGHTS_SUFFIXES) and "://" not in value
        path = os.path.expanduser(value)
        if value and os.path.exists(path):  # which, unlike pathlib's, takes names that no file can have
            return str(Path(path))
        is_too_long = len(value) > (LONGEST_URL if "://" in value else LONGEST_NAME)
        if is_file_name or is_too_long or not NAME.fullmatch(value):
            self.fail(
                f"there is no file or folder {quoted(value)} (seen from {Path.cwd()}), and it is no name, "
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


def parse_options(text: str, source: str = "--model-options") -> dict[str, Any]:
    """Return `--model-options` as a dict.

    Args:
        text: a JSON object.
        source: the option's name, for messages.

    Raises:
        click.BadParameter: it is no strict JSON object (a key given twice, NaN), or names weights.
    """
    what = f"{source}{quoted(text)}" if source.endswith("=") else f"{source} {quoted(text)}"
    try:
        options = parse_json(text, what)
    except JsonProblem as error:
        remedy = USE_MODEL if os.path.exists(text) else """write an object such as '{"layers": 5}'"""
        raise click.BadParameter(f"{error}; {remedy}") from error
    if not isinstance(options, dict):
        raise click.BadParameter(f'{what} must be a JSON object such as {{"layers": 5}}')
    for key, value in options.items():
        if WEIGHTS_KEYS.fullmatch(key) and isinstance(value, str):
            raise click.BadParameter(f"{what} has the key {quoted(key)}; {USE_MODEL}")
    return options


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
    if model and not os.path.exists(os.path.expanduser(model)):
        what = f"{quoted(model)} is no path here, and {shown_name(name)}.load_model cannot load it as a name"
        return f"{what}: {reason}"
    return f"{shown_name(name)}.load_model({model or ''}) failed: {reason}"
