"""The published numbers that a report sets beside measured ones."""

import statistics
import subprocess
import sys

import click
import pytest
from conftest import REPOSITORY
from report_cases import scored_task

from eval_recipes.report import build_report, report_files
from eval_recipes.reporting.columns import estimates_column, leaderboard_column
from eval_recipes.reporting.domain_means import domain_mean, domain_rows
from eval_recipes.reporting.published import (
    APART,
    DOMAINS,
    ESTIMATES,
    LEADERBOARD,
    PAPER,
    TASKS,
    estimates,
    leaderboard_row,
    paper_domain_means,
    shown_tasks,
    sources_of,
)

ESC50 = "esc50-v2.0.0-full"


def test_the_domains_are_the_papers():
    counts = {domain: sum(task.domain == domain for task in shown_tasks().values()) for domain in DOMAINS}
    assert counts == {"Environment": 4, "Speech": 6, "Music": 8}
    assert len(shown_tasks()) == 20
    column = estimates_column()
    for domain, mean in paper_domain_means()["Dasheng-1.2B"].items():
        assert domain_mean(column, domain).mean == pytest.approx(mean, abs=6e-4)


def test_numbers_read_off_a_figure_are_marked_and_not_averaged():
    column = estimates_column()
    assert "read off a figure" in column.label
    approximate = {row.title for row, cell in column.cells.items() if cell.is_approximate}
    assert {"ESC-50", "FSD50K", "Vocal Imitation", "VoxLingua"} < approximate
    assert "SC 5h" not in approximate
    assert not domain_rows([column], with_paper=False)


def test_published_numbers_have_sources():
    def files(**shown):
        return {source["file"] for source in sources_of(**shown)}

    assert files(with_paper=True, with_leaderboard=True) == {TASKS, PAPER, ESTIMATES, LEADERBOARD}
    assert files(with_paper=False, with_leaderboard=True) == {TASKS, LEADERBOARD}
    assert files(with_paper=False, with_leaderboard=False) == set()
    assert set(estimates()) == {task.folder for task in shown_tasks().values() if task.domain != APART}


def test_package_data_is_installed(tmp_path):
    build = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    for folder in ("eval_recipes/data", "eval_recipes/reporting/templates"):
        names = {path.name for path in (REPOSITORY / folder).iterdir()}
        assert names == {path.name for path in (tmp_path / folder).iterdir()}


def test_leaderboard_rows_go_by_name():
    row = leaderboard_row(" redrice CED_base ")
    assert (row.name, row.date) == ("RedRice ced_base", "2023-09-26")
    assert row.scores[ESC50].score == 0.966499996
    column = leaderboard_column(row)
    assert domain_mean(column, APART).mean == 0.483506944
    environment = [
        row.scores[task.folder].score for task in shown_tasks().values() if task.domain == DOMAINS[0]
    ]
    assert domain_mean(column, "Environment").mean == pytest.approx(statistics.fmean(environment))


def test_a_leaderboard_row_may_lack_tasks():
    mean = domain_mean(leaderboard_column(leaderboard_row("CVSSP PANNS")), "Environment")
    assert mean.mean is None
    assert mean.missing == ("FSD50K",)


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("ced", "RedRice ced_mini, RedRice ced_small, RedRice ced_base"),
        ("wav2vec", "wav2vec2"),
        ("OpenL4", "OpenL3"),
    ],
)
def test_an_unknown_leaderboard_name_suggests_the_nearest(typed, nearest):
    with pytest.raises(click.BadParameter, match=f"no row '{typed}'; the nearest: .*{nearest}"):
        leaderboard_row(typed)


def test_without_tasks_of_hear_the_papers_numbers_stay_away(tmp_path):
    scored_task(tmp_path / "model" / "demo_which_sound-v1-small", "top1_acc", [0.5, 0.6])
    report = build_report([tmp_path / "model"])
    assert (len(report.columns), report.domains, report.sources) == (1, [], ())
    assert "Sources" not in report_files(report)["report.md"].decode()
