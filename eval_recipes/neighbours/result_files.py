"""Accuracies -> a JSON file with its origin, a table of confusions, a picture."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from eval_recipes import provenance
from eval_recipes.datasets.clips import ClipList
from eval_recipes.neighbours.accuracy import Accuracy, mean_and_spread, together
from eval_recipes.neighbours.choices import Choices, protocol_of
from eval_recipes.neighbours.pictures import confusion_png
from hear_dasheng.files.atomic import write_atomically
from hear_dasheng.files.failures import shown

SUFFIX = ".knn.json"


def result_of(dataset: ClipList, title: str, found: dict[str, Accuracy]) -> dict[str, Any]:
    """What a result file says, but for its origin; accuracies are fractions.

    The accuracy of folds is their mean; interval, classes and confusions are of all their clips together.
    """
    mean, spread = mean_and_spread(list(found.values()))
    whole = together(list(found.values()))
    return {
        "dataset": dataset.name,
        "title": title,
        "protocol": protocol_of(dataset),
        "accuracy": mean,
        "std_over_folds": spread,
        "n_folds": len(found) if spread is not None else None,
        "interval_95": list(whole.interval),
        "balanced_accuracy": whole.balanced,
        "chance": {"most_frequent_class": whole.chance, "one_of_the_classes": 1 / len(dataset.classes)},
        "n_clips": whole.n_clips,
        "n_right": whole.n_right,
        "n_references": _n_references(dataset, found),
        "n_classes": len(dataset.classes),
        "is_published": dataset.is_published,
        "data": shown(dataset.folder.resolve()),
        "deviations": list(dataset.deviations),
        "left_out": {shown(path): reason for path, reason in dataset.left_out.items()},
        "accuracy_by_part": {part: its.accuracy for part, its in found.items()},
        "clips_by_part": {part: its.n_clips for part, its in found.items()},
        "accuracy_by_class": dict(zip(dataset.classes, whole.by_class(), strict=True)),
    }


def _n_references(dataset: ClipList, found: dict[str, Accuracy]) -> dict[str, int]:
    """How many clips each part's queries were compared with."""
    if "all" in found:
        return {"all": len(dataset.clips) - 1}
    return {part: len(dataset.clips) - its.n_clips for part, its in found.items()}


def write_results(
    folder: Path, choices: Choices, dataset: ClipList, result: dict[str, Any], found: dict[str, Accuracy]
) -> Path:
    """Write JSON, confusions (CSV) and their picture; each is whole or not there.

    Returns:
        The JSON file, written last.
    """
    confusion = together(list(found.values())).confusion
    heading = f"{result['title']}: {100 * result['accuracy']:.1f} %, {choices.name}"
    name = f"{choices.name}{_version(dataset)}"
    write_atomically(folder / f"{name}.confusions.csv", _confusions(confusion, dataset.classes).encode())
    write_atomically(folder / f"{name}.confusions.png", confusion_png(confusion, dataset.classes, heading))
    path = folder / f"{name}{SUFFIX}"
    provenance.write_json(path, result)
    return path


def _version(dataset: ClipList) -> str:
    """What tells other labels, splits or clips apart; a whole published data set has none."""
    return "" if dataset.is_published and not dataset.deviations else f"-clips-{dataset.labels_hash()[:8]}"


def _confusions(confusion: np.ndarray, classes: list[str]) -> str:
    """A row for each pair of classes that occurs, the most frequent first."""
    rows, columns = np.nonzero(confusion)
    pairs = sorted(zip(rows.tolist(), columns.tolist(), strict=True), key=lambda pair: -confusion[pair])
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(("true", "predicted", "clips"))
    writer.writerows((classes[row], classes[column], int(confusion[row, column])) for row, column in pairs)
    return written.getvalue()
