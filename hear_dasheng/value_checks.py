"""Checks of a configuration's values: errors that name the option, its value and what was expected."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


class OptionError(ValueError):
    """An option with an impossible value.

    Attributes:
        name: of the option.
        value: what it was given.
        requirement: what it must be.
    """

    def __init__(self, name: str, value: object, requirement: str) -> None:
        super().__init__(f"{name}={value!r}: {requirement}")
        self.name, self.value, self.requirement = name, value, requirement


def check_count(name: str, value: Any) -> None:
    """Raise an `OptionError` unless the value is a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise OptionError(name, value, "must be a whole number above 0")


def check_flag(name: str, value: Any) -> None:
    """Raise an `OptionError` unless the value is True or False."""
    if not isinstance(value, bool):
        raise OptionError(name, value, "must be true or false")


def check_number(name: str, value: Any, requirement: str, is_possible: Callable[[float], bool]) -> None:
    """Raise an `OptionError` with the requirement unless the value is a finite, possible number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not is_possible(value):
        hint = " (YAML takes 1e-5 for text; write 1.0e-5)" if isinstance(value, str) else ""
        raise OptionError(name, value, requirement + hint)
