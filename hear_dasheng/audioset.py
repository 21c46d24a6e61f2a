"""The names of AudioSet's 527 classes.

Source: `class_labels_indices.csv` of AudioSet (Gemmeke et al., ICASSP 2017), by Google, CC BY 4.0.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

N_CLASSES = 527


@cache
def audioset_names() -> tuple[str, ...]:
    """Display names in the order of AudioSet's indices, which is that of the published classifier's outputs.

    >>> names = audioset_names()
    >>> len(names), names[0], names[137], names[526]
    (527, 'Speech', 'Music', 'Field recording')
    """
    text = files("hear_dasheng").joinpath("data", "audioset_labels.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return tuple(row["display_name"] for row in rows)
