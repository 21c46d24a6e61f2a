"""Columns -> CSV, with every digit, and Markdown, to paste."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterable, Sequence

from eval_recipes.provenance import in_short
from eval_recipes.reporting.columns import Cell, Column, Row
from eval_recipes.reporting.contents import Report
from eval_recipes.reporting.domain_means import DomainRow
from eval_recipes.reporting.knn_table import INTERVAL_REMARK, KnnTable
from eval_recipes.reporting.published import APART, DOMAINS
from eval_recipes.reporting.wording import mean_text, score_text, spread_text

SCORES_HEADER = (
    *("model", "source", "protocol", "task", "title", "domain", "metric", "score", "is_approximate"),
    *("std_over_folds", "n_folds", "std_over_seeds", "n_seeds", "task_files_sha256", "checkpoint_sha256"),
)
KNN_HEADER = (
    *("model", "source", "protocol", "dataset", "title", "is_published", "is_incomplete", "accuracy"),
    *("interval_low", "interval_high", "std_over_folds", "n_folds", "n_clips", "chance", "clips_sha256"),
    "checkpoint_sha256",
)
DOMAINS_HEADER = ("model", "source", "protocol", "domain", "mean", "n_scored", "n_tasks", "missing")


def scores_csv(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """One line a score; fractions, all digits."""
    lines = []
    for column in columns:
        for row in rows:
            if cell := column.cells.get(row):
                lines.append([*_whose(column), *_what(row, cell), *_made_of(column, cell)])
    return _csv(SCORES_HEADER, lines)


def _whose(column: Column) -> list[str]:
    return [column.label, column.kind, column.protocol]


def _what(row: Row, cell: Cell) -> list[str]:
    score = repr(cell.score) if cell.is_number else ""
    return [row.task, row.title, row.domain, row.metric, score, str(cell.is_approximate).lower()]


def _made_of(column: Column, cell: Cell) -> list[str]:
    stds = {spread.over: [repr(spread.std), str(spread.count)] for spread in cell.spreads}
    spreads = [*stds.get("folds", ["", ""]), *stds.get("seeds", ["", ""])]
    return [*spreads, cell.task_files, column.origin.checkpoint if column.origin else ""]


def domain_means_csv(rows: Sequence[DomainRow]) -> str:
    """One line a model and domain; the mean of an incomplete domain is empty."""
    lines = []
    for row in rows:
        for domain, mean in row.means.items():
            number = "" if mean.mean is None else repr(mean.mean)
            counts = [str(mean.n_scored), str(mean.n_tasks), "; ".join(mean.missing)]
            lines.append([row.label, row.kind, row.protocol, domain, number, *counts])
    return _csv(DOMAINS_HEADER, lines)


def knn_csv(table: KnnTable) -> str:
    """One line an accuracy of nearest neighbours; fractions, all digits."""
    lines = []
    for row in table.rows:
        for column, cell in row.cells.items():
            its = cell.result.file if cell.result else {}
            identity, numbers = its.get("identity", {}), ("std_over_folds", "n_folds", "n_clips")
            known = [*its.get("interval_95", ("", "")), *(its.get(name) for name in numbers)]
            known.append(its.get("chance", {}).get("most_frequent_class"))
            hashes = [identity.get("labels", ""), identity.get("checkpoint", "")]
            shown = ["" if value is None else str(value) for value in known]
            whose = [row.label, row.kind, row.protocol, column.dataset, column.title]
            kind = [str(not column.is_own).lower(), str(column.is_incomplete).lower()]
            lines.append([*whose, *kind, repr(cell.accuracy), *shown, *hashes])
    return _csv(KNN_HEADER, lines)


def _csv(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return written.getvalue()


def markdown(report: Report) -> str:
    """The report without its charts."""
    blocks = [f"# {report.title}"]
    blocks += ["\n".join(f"- {_safe(finding)}" for finding in report.findings)] if report.findings else []
    if report.domains:
        body = [
            [row.label, *(mean_text(row.means[domain]) if domain in row.means else "" for domain in _HEADS)]
            for row in report.domains
        ]
        blocks += ["## Domain means (percent)", _table(["Model", *_HEADS], body)]
    blocks += _tasks(report) if report.columns else []
    blocks += _neighbours(report.knn) if report.knn else []
    if report.sources:
        cited = [f"- {_safe(one['title'])}, <{one['url']}>: {_safe(one['remark'])}" for one in report.sources]
        blocks += ["## Sources", "\n".join(cited)]
    return "\n\n".join(blocks) + "\n"


def _tasks(report: Report) -> list[str]:
    body = [
        [row.title, row.domain, row.metric, *(_cell(row, column.cells.get(row)) for column in report.columns)]
        for row in report.rows
    ]
    return [
        "## Scores by task (percent; ± is the sample standard deviation)",
        _table(["Task", "Domain", "Metric", *(column.label for column in report.columns)], body),
        "## How they were made",
        "\n".join(f"- {_safe(column.label)}: {_safe(_how(column))}" for column in report.columns),
    ]


def _neighbours(table: KnnTable) -> list[str]:
    body = []
    for row in table.rows:
        cells = [row.cells.get(column) for column in table.columns]
        shown = [f"{cell.text} ({'; '.join(cell.remarks)})" if cell else "–" for cell in cells]
        body.append([row.label, *(text.removesuffix(" ()") for text in shown), row.protocol])
    header = ["Model", *(column.heading for column in table.columns), "Classifier"]
    return [f"## Nearest neighbours (accuracy, percent)\n\n{INTERVAL_REMARK}", _table(header, body)]


_HEADS = (*DOMAINS, APART)


def _how(column: Column) -> str:
    weights = column.origin.checkpoint if column.origin else ""
    return f"{column.protocol}; weights {in_short(weights)}" if weights else column.protocol


def _cell(row: Row, cell: Cell | None) -> str:
    if cell is None:
        return "–"
    return " ".join([score_text(row, cell), *(spread_text(row, spread) for spread in cell.spreads)])


def _safe(text: str) -> str:
    """Text that Markdown takes as it is: no tags, no cell borders, no emphasis, no links, no lines."""
    text = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{char}" if char in "\\|*_`[]~#" else char for char in text)


def _table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [header, *body]
    shown = ["| " + " | ".join(_safe(word) for word in line) + " |" for line in lines]
    return "\n".join([shown[0], "|" + "---|" * len(header), *shown[1:]])
