"""The JSON beside a clip -> what a classifier is to say of it, and how often the clip is to be given."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from pretrain.reading.skip_log import NoUsableAudio

SHOWN = 6
"""Names in an error message."""
WHOLE_NUMBER = re.compile(r"\s*[+-]?\d+\s*")


class UnusableLabels(NoUsableAudio):
    """Labels that are missing, or of no known class; the message names clip, column and value."""


@dataclass(frozen=True)
class LabelColumn:
    """Where a clip's labels stand.

    Attributes:
        name: the key in the JSON, a column of the list given to `wavlist_to_tar`.
        separator: between the labels of a clip; None: each clip has exactly one.
        refused: what no text holds where each clip has exactly one label; None: anything goes.
    """

    name: str
    separator: str | None
    refused: str | None = None

    def labels_of(self, encoded: bytes | None, clip: str) -> list[str]:
        """A clip's labels as text; numbers and truth values as JSON writes them.

        Raises:
            UnusableLabels: there is no JSON, it lacks the column, or (one label a clip) the cell is empty
                or seems to hold several.

        >>> LabelColumn("tags", ";").labels_of(b'{"tags": "dog; rain"}', "a.flac")
        ['dog', 'rain']
        """
        if encoded is None:
            raise UnusableLabels(
                f"{clip} has no labels: no JSON of its name stands beside it in the shard. Shards made by "
                "wavlist_to_tar have one if the list has other columns than the file names"
            )
        try:
            columns = json.loads(encoded)
        except ValueError as error:
            raise UnusableLabels(f"the labels of {clip} are no JSON: {error}") from error
        if not isinstance(columns, dict) or self.name not in columns:
            there = ", ".join(map(repr, columns)) if isinstance(columns, dict) else "no columns"
            raise UnusableLabels(
                f"the labels of {clip} have no column {self.name!r}, but {there}; choose with label_column"
            )
        cell = columns[self.name]
        labels = self._split(cell)
        if self.refused and isinstance(cell, str) and self.refused in cell:
            raise UnusableLabels(
                f"{clip} is labelled {cell!r} in column {self.name!r}, which holds the "
                f"label_separator {self.refused!r}, but with task single each clip has one label. Are these "
                "several, give --task multi; is this one name, give a separator that no name holds, e.g. "
                "--label_separator //"
            )
        if self.separator is None and len(labels) != 1:
            raise UnusableLabels(
                f"{clip} has {len(labels)} labels in column {self.name!r} ({cell!r}); "
                "with task single each clip needs one. Leave the clip out of the list, or choose task multi"
            )
        return labels

    def _split(self, cell: object) -> list[str]:
        if cell is None:
            return []
        if isinstance(cell, list):
            return [_text(label) for label in cell]
        if self.separator is None:
            return [_text(cell)] if _text(cell).strip() else []
        return [label.strip() for label in _text(cell).split(self.separator) if label.strip()]


def _text(label: object) -> str:
    return label if isinstance(label, str) else json.dumps(label)


@dataclass(frozen=True)
class ClipLabels:
    """What all clips of a run can be.

    Attributes:
        column: where their labels stand.
        classes: the classes' names, in the order of the targets.
        repeats: how often a clip is to be given for each of its classes; None: every clip once.
        max_repeats: the most times that a clip is given.
    """

    column: LabelColumn
    classes: tuple[str, ...]
    repeats: tuple[float, ...] | None = None
    max_repeats: int = 1

    @cached_property
    def _numbers(self) -> dict[str, int]:
        by_name = {name: number for number, name in enumerate(self.classes)}
        if self._has_numerals:
            return by_name
        return {str(number): number for number in range(len(self.classes))} | by_name

    @cached_property
    def _has_numerals(self) -> bool:
        """Whether a class is called by a whole number, so that no label may mean a class's place."""
        return any(WHOLE_NUMBER.fullmatch(name) for name in self.classes)

    def target(self, encoded: bytes | None, clip: str) -> Float[np.ndarray, " classes"]:
        """1 for each of a clip's classes, else 0.

        A label is the name of a class or, if no class is called by a whole number, a class's number from 0.

        Raises:
            UnusableLabels: the labels are missing, or not among the classes.
        """
        target = np.zeros(len(self.classes), np.float32)
        target[list(self.numbers_of(self.column.labels_of(encoded, clip), clip).values())] = 1
        return target

    def numbers_of(self, labels: Iterable[str], clip: str) -> dict[str, int]:
        """The class's number of each label.

        Raises:
            UnusableLabels: one is no class.
        """
        labels = list(labels)
        for label in labels:
            if label not in self._numbers:
                nearest = difflib.get_close_matches(label, self.classes, n=1, cutoff=0.6)
                hint = f"; the nearest is {nearest[0]!r}" if nearest else ""
                if self._has_numerals and WHOLE_NUMBER.fullmatch(label):
                    hint = "; where names are numbers, a number is no class's place in the list"
                raise UnusableLabels(
                    f"{clip} is labelled {label!r}, which is none of the {len(self.classes)} classes "
                    f"({some(self.classes)}){hint}. Correct the label, or name all classes with `classes`"
                )
        return {label: self._numbers[label] for label in labels}

    @property
    def repeats_in_words(self) -> str | None:
        """What a position in the data depends on, short."""
        if self.repeats is None:
            return None
        numbers = hashlib.sha256(json.dumps(self.repeats).encode()).hexdigest()[:8]
        return f"of {len(self.repeats)} classes, at most {self.max_repeats} ({numbers})"

    def copies(self, target: Float[np.ndarray, " classes"], chance: float) -> int:
        """How many times a clip is given: the sum of its classes' repeats, on the average.

        Args:
            target: of the clip.
            chance: a number from 0 to 1 (without 1), that decides over the sum's broken part.
        """
        return int(self.mean_copies(target) + chance)

    def mean_copies(self, target: Float[np.ndarray, " classes"]) -> float:
        """How many times a clip is given on the average of many passes."""
        return 1.0 if self.repeats is None else min(float(target @ np.array(self.repeats)), self.max_repeats)


def balancing_repeats(counts: Sequence[int], n_clips: int) -> tuple[float, ...]:
    """Repeats that make all classes equally frequent without making the data longer.

    A class of n clips is given n times as often as one of its clips, so its clips' share is
    proportional to 1 / n. Summed over a clip's classes and over all clips this is the number
    of classes that occur; scaled by clips / classes, as many clips come as there are. Drawing so is what
    Kong et al. (PANNs, 2020) do class by class: each class is drawn equally often, then one of its clips.

    Args:
        counts: clips of each class; a class without any has no repeats.
        n_clips: clips in all.

    >>> balancing_repeats([30, 10, 0], 40)
    (0.6666666666666666, 2.0, 0.0)
    """
    occurring = sum(count > 0 for count in counts)
    return tuple(n_clips / occurring / count if count else 0.0 for count in counts)


def some(names: Sequence[str]) -> str:
    """The first few of many names, in words."""
    return ", ".join(map(repr, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
