"""What a reader must know of results of nearest neighbours, each thing once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eval_recipes.datasets.clips import kinds_left_out, some

if TYPE_CHECKING:
    from eval_recipes.reporting.knn_table import KnnRow

NAMED = 3
"""Files that a finding names."""


def knn_findings(measured: Sequence[KnnRow], papers: Sequence[KnnRow]) -> list[str]:
    """Sentences, the same one of several results once, with the models that it is about."""
    told = []
    if papers:
        told.append(
            "The paper does not publish how it classified (k, weights, metric, splits), so its rows of "
            "nearest neighbours are for orientation."
        )
    about: dict[str, list[str]] = {}
    for row in measured:
        for column, cell in row.cells.items():
            if cell.result and column.is_incomplete:
                text = f": {column.title} was not all there: {_deviations(cell.result.file)}"
                about.setdefault(text, []).append(row.label)
            if cell.result and (warning := cell.result.file["warning"]):
                about.setdefault(f", {column.title}: {warning}", []).append(row.label)
    for text, labels in about.items():
        models = list(dict.fromkeys(labels))
        count = f" ({len(labels)} results)" if len(labels) > len(models) else ""
        told.append(f"{'; '.join(models)}{text}{count}.")
    protocols = list(dict.fromkeys(row.protocol.partition(";")[0] for row in measured))
    if len(protocols) > 1:
        told.append(f"Neighbours voted in {len(protocols)} ways: {'; '.join(protocols)}.")
    return told


def _deviations(result: dict[str, Any]) -> str:
    """How a data set differs, with fewer files named than in the result."""
    shown = []
    for deviation in result["deviations"]:
        for names in kinds_left_out(result["left_out"]).values():
            if names and deviation.endswith(f": {some(names)}"):
                deviation = deviation.removesuffix(some(names)) + some(names, NAMED)
        shown.append(deviation)
    return "; ".join(shown)
