"""Which shards, or parts of shards, a stream reads, in which order.

A stream is one data worker of one process. The streams of a run share its shards without
talking to each other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Unit(NamedTuple):
    """What is read in one go: of a shard's audio members, those whose index is `part` modulo `parts`."""

    shard: int
    part: int = 0
    parts: int = 1


def units_of_pass(n_shards: int, n_streams: int, stream: int, rng: np.random.Generator | None) -> list[Unit]:
    """A stream's part of one pass over all shards.

    Each member of each shard is in exactly one stream's units. If there are fewer shards than
    streams, shards are cut so that each stream has at least one unit.

    Args:
        n_shards: in all.
        n_streams: in all.
        stream: which one.
        rng: shuffles the shards, the same for all streams; None keeps their order.

    >>> units_of_pass(n_shards=1, n_streams=2, stream=1, rng=None)
    [Unit(shard=0, part=1, parts=2)]
    """
    shards = range(n_shards) if rng is None else rng.permutation(n_shards).tolist()
    parts = math.ceil(n_streams / n_shards)
    units = (Unit(shard, part, parts) for shard in shards for part in range(parts))
    return list(itertools.islice(units, stream, None, n_streams))


def drawn_units(weights: np.ndarray, rng: np.random.Generator) -> Iterator[Unit]:
    """Whole shards forever, with replacement, as likely as `weights` says.

    Only `rng` remembers anything.
    """
    bounds = np.cumsum(weights)
    while True:
        place = np.searchsorted(bounds, rng.random() * bounds[-1], side="right")
        yield Unit(int(min(place, len(bounds) - 1)))
