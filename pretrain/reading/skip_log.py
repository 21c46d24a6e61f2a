"""What a stream could not use: counted by reason, told once for each, and when to give up."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Literal

logger = logging.getLogger(__name__)

PATIENCE_S = 1800
"""Seconds of waiting without one usable crop, after which a stream gives up."""
FIRST_PATIENCE_S = 120
"""The same before the stream's first crop, when a mistake is likelier than a server's bad hour."""


class NoUsableAudio(RuntimeError):
    """The data hold nothing to train on; the message says what was found instead."""


class SkipLog:
    """Counts shards and audio members that are left out.

    Args:
        shards_in_vain: shards in a row without an audio member, after which the stream gives up.
        members_in_vain: members in a row without a usable crop, after which it does.

    Attributes:
        last_example: what was left out last, and why.
    """

    def __init__(self, shards_in_vain: int | float, members_in_vain: int | float) -> None:
        self.last_example = ""
        self._limits = {"shards": shards_in_vain, "members": members_in_vain}
        self._in_vain = {"shards": 0, "members": 0}
        self._reasons_in_vain: Counter[str] = Counter()
        self._new: Counter[str] = Counter()
        self._told: set[str] = set()
        self._waiting_since_s = time.monotonic()
        self._has_found_crop = False

    def start_waiting(self) -> None:
        """Somebody asks for crops; the time until now was not spent waiting for them."""
        self._waiting_since_s = time.monotonic()

    def found_member(self) -> None:
        """An audio member could be read."""
        self._in_vain["shards"] = 0

    def found_crop(self) -> None:
        """A crop could be decoded."""
        self._has_found_crop = True
        self._in_vain["members"] = 0
        self._reasons_in_vain.clear()
        self._waiting_since_s = time.monotonic()

    def take_new(self) -> dict[str, int]:
        """The counts by reason since the last call."""
        new = dict(self._new)
        self._new.clear()
        return new

    def add(self, kind: Literal["shards", "members"], reason: str, name: str, detail: object) -> None:
        """Count one that is left out, or the rest of one.

        Args:
            kind: whether it is a shard or an audio member.
            reason: counted under this.
            name: of the shard or member.
            detail: what was wrong with it.

        Raises:
            NoUsableAudio: there were too many in a row, or none that is usable for too long.
        """
        self.last_example = f"{name}: {detail}"
        level = logging.DEBUG if reason in self._told else logging.WARNING
        logger.log(
            level, "Skipped %s: %s (further ones for this reason are only counted)", reason, self.last_example
        )
        self._told.add(reason)
        self._new[reason] += 1
        self._reasons_in_vain[reason] += 1
        self._in_vain[kind] += 1
        waited_s = time.monotonic() - self._waiting_since_s
        patience_s = PATIENCE_S if self._has_found_crop else FIRST_PATIENCE_S
        if self._in_vain[kind] >= self._limits[kind] or waited_s > patience_s:
            raise NoUsableAudio(
                f"no usable audio among the last {self._in_vain['shards']} shards and "
                f"{self._in_vain['members']} audio members, in {waited_s:.0f} s: "
                f"{counts_in_words(self._reasons_in_vain)}; the last was {self.last_example}"
            )


def counts_in_words(counts: dict[str, int]) -> str:
    """Counts by reason, most frequent first.

    >>> counts_in_words({"empty": 1, "undecodable": 3})
    '3 undecodable, 1 empty'
    """
    return (
        ", ".join(f"{count} {reason}" for reason, count in Counter(counts).most_common()) or "nothing skipped"
    )
