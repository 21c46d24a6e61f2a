"""Results of nearest neighbours -> a table of models and data sets, beside the paper's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from eval_recipes.datasets.catalogue import published_datasets
from eval_recipes.neighbours.result_files import SUFFIX
from eval_recipes.provenance import in_short
from eval_recipes.reporting.columns import MEASURED, number_alike, short_names
from eval_recipes.reporting.domain_means import PAPER_KIND
from eval_recipes.reporting.knn_findings import knn_findings
from eval_recipes.reporting.published import paper_knn
from eval_recipes.reporting.score_files import RECORD_SHAPE
from hear_dasheng.files.json_shape import check_shape, fraction
from hear_dasheng.files.strict_json import JsonProblem, read_json_object

PAPER_PROTOCOL = "as the paper prints it; it does not publish how"
INTERVAL_REMARK = (
    "Beside an accuracy stands its 95 % interval (Wilson's, as of independent clips), and chance: the "
    "accuracy of always naming the most frequent class."
)


def _interval(value: Any) -> str:
    """Return what is wrong with the two ends of an interval of fractions."""
    if not isinstance(value, list) or len(value) != 2 or any(map(fraction, value)):
        return f"is {str(value)[:40]}, not two numbers from 0 to 1"
    return ""


SHAPE = RECORD_SHAPE | {
    "dataset": str,
    "title": str,
    "accuracy": fraction,
    "interval_95": _interval,
    "std_over_folds": (fraction, None),
    "n_folds": (int, None),
    "n_clips": int,
    "chance": {"most_frequent_class": fraction},
    "is_published": bool,
    "deviations": [str],
    "left_out": {str: str},
    "warning": str,
    "data": str,
    "identity": {
        "module": str,
        "checkpoint?": str,
        "options?": dict,
        "labels": str,
        "k": int,
        "weights": str,
        "temperature?": float,
        "metric": str,
    },
}
"""What is read of a result file."""


@dataclass(frozen=True)
class KnnResult:
    """One result file.

    Attributes:
        path: of the file.
        file: the result's content.
    """

    path: Path
    file: dict[str, Any]

    @property
    def folder(self) -> Path:
        """That of the model, which holds a folder per data set."""
        return self.path.parent.parent

    @property
    def origin(self) -> tuple[Path, str]:
        """What results must share to stand in one row: model, weights, options, k, weighting, metric."""
        return self.folder, json.dumps([self._of("module", "checkpoint", "options"), self.protocol])

    @property
    def protocol(self) -> str:
        """The classifier in words."""
        its = self.file["identity"]
        softened = f" {its['temperature']:g}" if "temperature" in its else ""
        return f"k {its['k']}, {its['weights']}{softened}, {its['metric']}"

    @property
    def column(self) -> KnnColumn:
        """The data set as it was on that disk."""
        its = self.file
        is_whole = its["is_published"] and not its["deviations"]
        clips = "" if is_whole else its["identity"]["labels"][:8]
        return KnnColumn(
            its["dataset"], its["title"], clips, bool(its["deviations"]), not its["is_published"]
        )

    def _of(self, *names: str) -> list[Any]:
        return [self.file["identity"].get(name) for name in names]


@dataclass(frozen=True)
class KnnColumn:
    """A data set.

    Attributes:
        dataset: its name.
        title: as it is shown.
        clips: first digits of the hash of its clips and labels, if it is not the whole of a published one.
        is_incomplete: some of its clips were missing or could not be read.
        is_own: the user's, whatever it is called.
    """

    dataset: str
    title: str
    clips: str = ""
    is_incomplete: bool = False
    is_own: bool = False

    @property
    def remark(self) -> str:
        """Whose it is, and what of it was there.

        >>> KnnColumn("esc50", "ESC-50", "01234567", is_incomplete=True).remark
        'incomplete, clips 01234567'
        """
        remarks = ["own data"] * self.is_own + ["incomplete"] * self.is_incomplete
        return ", ".join(remarks + [f"clips {self.clips}"] * bool(self.clips))

    @property
    def heading(self) -> str:
        """Title and remark.

        >>> KnnColumn("esc50", "esc50", "01234567", is_own=True).heading
        'esc50 (own data, clips 01234567)'
        """
        return f"{self.title} ({self.remark})" if self.remark else self.title


@dataclass(frozen=True)
class KnnCell:
    """An accuracy, a fraction, with what is known of its spread, and chance."""

    accuracy: float
    remarks: tuple[str, ...] = ()
    result: KnnResult | None = None

    @property
    def text(self) -> str:
        """In percent."""
        return f"{100 * self.accuracy:.1f}"


@dataclass
class KnnRow:
    """A model's accuracies under one classifier, or the paper's."""

    label: str
    kind: str
    protocol: str
    cells: dict[KnnColumn, KnnCell] = field(default_factory=dict)


@dataclass(frozen=True)
class KnnTable:
    """All rows and columns, with what to know before comparing."""

    columns: list[KnnColumn]
    rows: list[KnnRow]
    findings: list[str]


def read_knn_folder(folder: Path) -> list[KnnResult]:
    """All results in a data set's folder, a model's, or a folder of models'.

    Raises:
        click.ClickException: a file is damaged; it is named.
    """
    paths = sorted({path for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}*{SUFFIX}")})
    return [_read(path) for path in paths]


def _read(path: Path) -> KnnResult:
    try:
        content = read_json_object(path)
        check_shape(content, SHAPE, str(path))
    except JsonProblem as error:
        raise click.ClickException(
            f"{error}: this is no result of `hear-dasheng knn`; give that command again"
        ) from error
    return KnnResult(path.resolve(), content)


def knn_table(
    results: Sequence[KnnResult], names: dict[Path, str] | None = None, with_paper: bool = True
) -> KnnTable | None:
    """Rows of one origin, columns of one version of a data set; the paper's rows below.

    Args:
        results: any number, in any order.
        names: of models, by (resolved) folder, where the user chose them.
        with_paper: show the paper's numbers of the data sets that there are results of.

    Returns:
        None where there are no results.
    """
    if not results:
        return None
    labels = short_names([result.folder for result in results]) | (names or {})
    rows: dict[tuple[Path, str], KnnRow] = {}
    for result in results:
        row = rows.setdefault(
            result.origin, KnnRow(labels[result.folder], MEASURED, f"{result.protocol}{_weights(result)}")
        )
        row.cells[result.column] = _cell(result)
    measured = list(rows.values())
    for row, label in zip(measured, _told_apart(measured), strict=True):
        row.label = label
    published = [result.file["dataset"] for result in results if result.file["is_published"]]
    papers = _paper_rows(published) if with_paper else []
    order = list(published_datasets())
    columns = sorted(
        {column for row in [*measured, *papers] for column in row.cells},
        key=lambda its: (
            len(order) if its.is_own or its.dataset not in order else order.index(its.dataset),
            its.title,
            its.is_incomplete,
            its.clips,
        ),
    )
    return KnnTable(columns, measured + papers, knn_findings(measured, papers))


def _weights(result: KnnResult) -> str:
    checkpoint = result.file["identity"].get("checkpoint", "")
    return f"; weights {in_short(checkpoint)}" if checkpoint else ""


def _told_apart(rows: Sequence[KnnRow]) -> list[str]:
    """Labels, with the protocol where one model has several."""
    labels = [row.label for row in rows]
    return number_alike(
        [
            f"{row.label} [{row.protocol.partition(';')[0]}]" if labels.count(row.label) > 1 else row.label
            for row in rows
        ]
    )


def _cell(result: KnnResult) -> KnnCell:
    low, high = (float(end) for end in result.file["interval_95"])
    remarks = [f"{100 * low:.1f} to {100 * high:.1f}"]
    if result.file["std_over_folds"] is not None:
        remarks.append(f"± {100 * result.file['std_over_folds']:.1f} over {result.file['n_folds']} folds")
    remarks.append(f"chance {100 * float(result.file['chance']['most_frequent_class']):.1f}")
    return KnnCell(float(result.file["accuracy"]), tuple(remarks), result)


def _paper_rows(datasets: Sequence[str]) -> list[KnnRow]:
    shown = {name: its for name, its in published_datasets().items() if name in datasets and its.paper_column}
    rows = []
    for model, accuracies in paper_knn().items() if shown else ():
        cells = {
            KnnColumn(name, its.title): KnnCell(accuracy)
            for name, its in shown.items()
            if (accuracy := accuracies[its.paper_column]) is not None
        }
        rows.append(KnnRow(f"{model} (paper)", PAPER_KIND, PAPER_PROTOCOL, cells))
    return rows
