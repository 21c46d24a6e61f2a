"""Items in order -> items out of order, by a buffer whose content can be saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def shuffled(
    items: Iterable[T],
    buffer: list[T],
    capacity: int,
    rng: np.random.Generator,
    size: Callable[[T], int] = lambda item: 0,
    max_size: int = 1,
) -> Iterator[T]:
    """Give each item once, picked at random among those that wait in `buffer`.

    As webdataset's shuffle does it: the first item comes when the buffer is filled to a quarter;
    then two enter for one that leaves, until it is full. `buffer` and `rng` are all that it
    remembers: with copies of both, a new call on the rest of the items goes on exactly.

    Args:
        items: in order.
        buffer: the items waiting; changed in place.
        capacity: of the buffer; 0 keeps the order.
        rng: picks.
        size: of an item.
        max_size: once the items waiting have this size together, no more enter.

    >>> list(shuffled("abcdefgh", [], 4, np.random.default_rng(0)))
    ['b', 'c', 'e', 'd', 'g', 'a', 'f', 'h']
    """
    if not capacity:
        yield from items
        return
    stream = iter(items)
    total = sum(map(size, buffer))
    while True:
        n_wanted = max(1, min(2, capacity - len(buffer))) if total < max_size else 0
        new = list(islice(stream, n_wanted))
        buffer.extend(new)
        total += sum(map(size, new))
        if not buffer:
            return
        is_ended = len(new) < n_wanted
        if is_ended or total >= max_size or len(buffer) >= capacity // 4:
            place = int(rng.integers(len(buffer)))
            item, buffer[place] = buffer[place], buffer[-1]
            buffer.pop()
            total -= size(item)
            yield item
