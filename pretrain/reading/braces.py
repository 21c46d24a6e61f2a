"""Braces in the names of shards -> the names, counted before they are made."""

from __future__ import annotations

import re

from braceexpand import braceexpand

MOST_NAMES = 100_000
"""Names from one pattern; the published data are 1 824 shards."""

RANGE = re.compile(r"(-?\d+|[A-Za-z])\.\.(-?\d+|[A-Za-z])(?:\.\.(-?\d+))?")


def expand_braces(pattern: str) -> list[str]:
    """Return the names that a pattern with `{a,b}` and `{000..009}` stands for.

    Raises:
        ValueError: the braces do not match, or stand for more than `MOST_NAMES` names.

    >>> expand_braces("{a,b}_{09..11}.tar")
    ['a_09.tar', 'a_10.tar', 'a_11.tar', 'b_09.tar', 'b_10.tar', 'b_11.tar']
    """
    try:
        count = count_names(pattern)
        if count > MOST_NAMES:
            raise ValueError(
                f"{_shown(pattern)} stands for {_in_digits(count)} shards, more than {MOST_NAMES:,}: "
                "correct its braces, or give several entries"
            )
        return list(braceexpand(pattern))
    except (ValueError, RecursionError) as error:
        if str(error).startswith(_shown(pattern)):
            raise
        raise ValueError(
            f"braces in {_shown(pattern)} do not match; write e.g. train_{{000..009}}.tar"
        ) from error


def count_names(pattern: str) -> int:
    """Return how many names a pattern stands for, in time that does not depend on their number.

    A pattern's count is the product of its braces' counts; that of braces is the sum over what commas
    separate, or the length of a range.

    >>> count_names("{a,b}_{0..9}"), count_names("{x{0..9},y}"), count_names("{0..99999999}")
    (20, 11, 100000000)
    """
    products, sums, starts = [1], [0], [0]  # of the braces that are open, the outermost first
    position = 0
    while position < len(pattern):
        character = pattern[position]
        if character == "\\":
            position += 1  # the next character is itself
        elif character == "{":
            products.append(1)
            sums.append(0)
            starts.append(position + 1)
        elif character == "," and len(products) > 1:
            sums[-1] += products[-1]
            products[-1] = 1
        elif character == "}" and len(products) > 1:
            inside = RANGE.fullmatch(pattern[starts.pop() : position])
            count = sums.pop() + products.pop()
            products[-1] *= _length(*inside.groups()) if inside else count
        position += 1
    return products[0]


def _length(first: str, last: str, step: str | None) -> int:
    """Return how many values `{first..last..step}` has."""
    low, high = (int(end) if end.lstrip("-").isdigit() else ord(end) for end in (first, last))
    return abs(high - low) // (abs(int(step or 1)) or 1) + 1


def _in_digits(count: int) -> str:
    return f"{count:,}" if count < 10**12 else "over 10^12"


def _shown(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 100 else f"{pattern[:100]}...")
