"""Run code of a HEAR module: whatever it raises becomes one line, and old libraries are there for it."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from eval_recipes.modules.compatibility import old_libraries

OURS = ("hear_dasheng", "eval_recipes")
"""Packages whose modules are written for today's libraries."""

EXPECTED = (ValueError, OSError, ImportError)
"""Errors whose message speaks for itself; of others, the type and the line of code are told, too."""

LONGEST_MESSAGE = 400


class ModuleProblem(ValueError):
    """A module does not keep HEAR's contract, fails, or its checkpoint cannot be loaded."""


@contextmanager
def module_code(name: str, place: str, leave: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Run a HEAR module's code.

    A module of other people gets the names and signatures of old libraries meanwhile.

    Args:
        name: the module's.
        place: what runs, for messages: "get_scene_embeddings".
        leave: errors that the caller handles itself.

    Raises:
        ModuleProblem: the code raised anything but `leave` and KeyboardInterrupt. SystemExit counts: a
            module that calls `sys.exit(0)` must not end a command as if its work was done.
    """
    libraries = nullcontext() if name.partition(".")[0] in OURS else old_libraries()
    with libraries:
        try:
            yield
        except (KeyboardInterrupt, ModuleProblem):
            raise
        except leave:
            raise
        except BaseException as error:
            raise ModuleProblem(f"{shown_name(name)}: {place} failed: {told(error)}") from error


def told(error: BaseException, *, always_with_type: bool = False) -> str:
    """Return an error of foreign code in one line; the type of common errors is left out unless asked for.

    >>> told(ValueError("too old"))
    'too old'
    >>> told(SystemExit(0))
    'it calls sys.exit(0)'
    """
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({'' if error.code is None else shortened(repr(error.code))}){_line(error)}"
    try:
        message = shortened(" ".join(str(error).split()))
    except Exception as second:
        message = f"its message cannot be read ({type(second).__name__})"
    if message and isinstance(error, EXPECTED):
        return f"{type(error).__name__}: {message}" if always_with_type else message
    return f"{type(error).__name__}{': ' if message else ''}{message}{_line(error)}"


def shortened(text: str, limit: int = LONGEST_MESSAGE) -> str:
    """Return a text, or its beginning with the number of characters left out.

    >>> shortened("abcdef", 4)
    'abcd... (2 characters more)'
    """
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text) - limit} characters more)"


def quoted(value: str) -> str:
    """Return what a user has typed, for a message: quoted, on one line, and not longer than it is useful.

    >>> quoted("../x"), quoted("a\\nb")
    ("'../x'", "'a\\\\nb'")
    """
    return shortened(repr(value), 80)


def shown_name(name: str) -> str:
    """Return a module's name for a message: as it is, or quoted if nobody would call a module so."""
    return name if re.fullmatch(r"[\w.-]{1,80}", name) else quoted(name)


def _line(error: BaseException) -> str:
    """Where an error was raised: `" (mine.py, line 12)"`; empty if unknown."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
