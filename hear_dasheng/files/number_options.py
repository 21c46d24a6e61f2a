"""Numbers on the command line: finite and in range."""

from __future__ import annotations

import math
from typing import Any

import click


class FiniteRange(click.FloatRange):
    """A range of finite numbers; `click.FloatRange` lets NaN through, which compares with no bound."""

    name = "float range"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail with the value and the bounds."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number; the range is {self._describe_range()}.", param, ctx)
        return number


class WholeRange(click.IntRange):
    """A bounded range of whole numbers; without an upper bound, a slip of the keyboard fills the memory.

    Attributes:
        LARGEST: default upper bound, above anything useful: of neighbours, labels, files in a shard.
    """

    LARGEST = 1_000_000_000

    def __init__(self, lowest: int = 1, highest: int = LARGEST) -> None:
        super().__init__(lowest, highest)


MOST_WORKERS = 1024
"""Threads or processes of one command; each needs memory."""
MOST_HEADS = 1024
"""Attention heads of an encoder; the largest released one has 24."""
