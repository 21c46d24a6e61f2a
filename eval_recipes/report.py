"""Scores of any number of models -> one report: HTML, Markdown, CSV and PNG, beside published numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from eval_recipes.reporting import charts
from eval_recipes.reporting.columns import (
    estimates_column,
    leaderboard_column,
    measured_columns,
    ordered_rows,
)
from eval_recipes.reporting.contents import Report
from eval_recipes.reporting.domain_means import PAPER_KIND, domain_rows
from eval_recipes.reporting.knn_table import KnnResult, knn_table, read_knn_folder
from eval_recipes.reporting.page import page
from eval_recipes.reporting.pictures import bars_png, radar_png
from eval_recipes.reporting.published import leaderboard_row, sources_of
from eval_recipes.reporting.score_files import TaskResult, read_embedding_folder
from eval_recipes.reporting.tables import domain_means_csv, knn_csv, markdown, scores_csv
from eval_recipes.reporting.wording import findings
from eval_recipes.results import NoTasks
from hear_dasheng.files.atomic import write_atomically
from hear_dasheng.files.failures import Command


def build_report(
    folders: Sequence[Path],
    labels: Sequence[str] = (),
    leaderboard: Sequence[str] = (),
    with_paper: bool = True,
) -> Report:
    """Read scores and set them beside published ones.

    Args:
        folders: folders of task folders, single task folders, or results of nearest neighbours.
        labels: a name for each of `folders`; none to name them after the folders.
        leaderboard: names of rows of the HEAR leaderboard.
        with_paper: show the paper's numbers, if there are tasks to compare with them.

    Raises:
        click.ClickException: nothing is scored, a file is damaged, a name is unknown.
    """
    chosen = [leaderboard_column(leaderboard_row(name)) for name in dict.fromkeys(leaderboard)]
    results, unscored, knn_results, names = _read(folders, labels)
    columns = measured_columns(results, names)
    neighbours = knn_table(knn_results, names, with_paper)
    with_paper_knn = bool(neighbours) and any(row.kind == PAPER_KIND for row in neighbours.rows)
    has_hear_tasks = any(row.hear_task for column in columns for row in column.cells)
    with_paper = with_paper and has_hear_tasks
    columns += chosen + ([estimates_column()] if with_paper else [])
    domains = domain_rows(columns, with_paper) if has_hear_tasks or chosen else []
    return Report(
        columns,
        ordered_rows(columns),
        domains,
        [*findings(columns, unscored), *(neighbours.findings if neighbours else [])],
        sources_of(with_paper=with_paper, with_leaderboard=bool(chosen), with_paper_knn=with_paper_knn),
        neighbours,
    )


def _read(
    folders: Sequence[Path], labels: Sequence[str]
) -> tuple[list[TaskResult], list[Path], list[KnnResult], dict[Path, str]]:
    """Results, unscored tasks, nearest neighbours, and the names chosen, by the folder that holds them."""
    if labels and len(labels) != len(folders):
        raise click.BadParameter(
            f"{len(labels)} labels for {len(folders)} folders; give one --label for each, in order, or none"
        )
    if labels and len({folder.resolve() for folder in folders}) < len(folders):
        raise click.BadParameter("a folder is named twice, and can have one --label; name each folder once")
    found: dict[tuple[Path, str], TaskResult] = {}
    neighbours: dict[Path, KnnResult] = {}
    unscored: dict[Path, None] = {}
    names: dict[Path, str] = {}
    for number, folder in enumerate(folders):
        near = read_knn_folder(folder)
        neighbours.update({its.path: its for its in near})
        try:
            is_knn = near and not _holds_tasks(folder)
            results, without = ([], []) if is_knn else read_embedding_folder(folder)
        except NoTasks as error:
            if len(folders) == 1:
                raise
            click.echo(f"Left out: {error.message}", err=True)
            continue
        found.update({(result.origin.folder, result.task): result for result in results})
        unscored.update(dict.fromkeys(task.resolve() for task in without))
        if labels:
            parents = [result.origin.folder for result in results] + [its.folder for its in near]
            parents += [task.resolve().parent for task in without]
            names.update(dict.fromkeys(parents, labels[number]))
    if not found and not neighbours:
        raise click.ClickException(
            f"nothing in {', '.join(map(str, folders))} is scored yet; `hear-dasheng score` scores embeddings"
        )
    return list(found.values()), list(unscored), list(neighbours.values()), names


def _holds_tasks(folder: Path) -> bool:
    return any(any(folder.glob(f"{depth}task_metadata.json")) for depth in ("", "*/"))


def report_files(report: Report) -> dict[str, bytes]:
    """The report's files by name; pictures only of what there is to draw."""
    texts = {"index.html": page(report), "report.md": markdown(report)}
    if report.columns:
        texts["scores.csv"] = scores_csv(report.columns, report.rows)
    if report.knn:
        texts["knn.csv"] = knn_csv(report.knn)
    contents = {name: text.encode() for name, text in texts.items()}
    if report.domains:
        contents["domain_means.csv"] = domain_means_csv(report.domains).encode()
        contents["domains.png"] = bars_png(charts.domain_bars(report.domains))
    if radar := charts.radar(report.columns, report.rows):
        contents["radar.png"] = radar_png(radar)
    if groups := charts.task_bars(report.columns, report.rows):
        contents["tasks.png"] = bars_png(groups)
    return contents


OPTIONAL_FILES = ("scores.csv", "knn.csv", "domain_means.csv", "domains.png", "radar.png", "tasks.png")


def write_report(report: Report, out: Path) -> list[Path]:
    """Write the report's files; each is whole or not there, and none of an earlier report stays."""
    contents = report_files(report)
    for name, content in contents.items():
        write_atomically(out / name, content)
    for name in OPTIONAL_FILES:
        if name not in contents:
            (out / name).unlink(missing_ok=True)
    return [out / name for name in contents]


@click.command("report", cls=Command)
@click.argument(
    "embedding_dirs",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option("--out", default="report", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--label", "labels", multiple=True, help="Name of a model, one for each EMBEDDING_DIR.")
@click.option("--leaderboard", multiple=True, metavar="NAME", help="A row of the HEAR leaderboard, by name.")
@click.option("--paper/--no-paper", default=True, show_default=True, help="The Dasheng paper's numbers.")
def report(
    embedding_dirs: tuple[Path, ...],
    out: Path,
    labels: tuple[str, ...],
    leaderboard: tuple[str, ...],
    paper: bool,
) -> None:
    """Report the scores of EMBEDDING_DIRS (of tasks, or of `knn`; one a model) in tables and charts."""
    built = build_report(embedding_dirs, labels, leaderboard, paper)
    for finding in built.findings:
        click.echo(finding, err=True)
    for path in write_report(built, out):
        click.echo(str(path))
