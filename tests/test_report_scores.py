"""Scores on disk -> the report's columns, rows and domain means."""

import csv
import io
import json
import math
import statistics
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_cases import REFEREE, scored_benchmark, scored_task

from eval_recipes.report import build_report
from eval_recipes.reporting.columns import (
    Cell,
    Column,
    Row,
    measured_columns,
    short_names,
)
from eval_recipes.reporting.domain_means import domain_mean
from eval_recipes.reporting.published import (
    APART,
    DOMAINS,
    shown_tasks,
)
from eval_recipes.reporting.score_files import read_embedding_folder
from eval_recipes.reporting.tables import domain_means_csv, scores_csv

ESC50, FSD50K = "esc50-v2.0.0-full", "fsd50k-v1.0-full"


def columns_of(*folders: Path) -> list[Column]:
    return measured_columns([result for folder in folders for result in read_embedding_folder(folder)[0]])


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_csv_holds_every_score_of_the_files_digit_for_digit(tmp_path):
    folders = [scored_benchmark(tmp_path / "one", 1), scored_benchmark(tmp_path / "two", 2, seeds_std=0.004)]
    report = build_report(folders, with_paper=False)
    table = {(line["model"], line["task"]): line for line in lines(scores_csv(report.columns, report.rows))}
    assert len(table) == 40
    for folder in folders:
        for task_dir in folder.iterdir():
            line = table[folder.name, task_dir.name]
            scores = json.loads((task_dir / "test.predicted-scores.json").read_text())
            key = f"test_{shown_tasks()[task_dir.name].metric}"
            if "test" in scores:
                assert float(line["score"]) == scores["test"][key]
                assert line["std_over_folds"] == ""
            else:
                folds = [value[key] for fold, value in scores.items() if fold.startswith("fold")]
                assert float(line["score"]) == pytest.approx(statistics.fmean(folds), abs=1e-15)
                assert float(line["std_over_folds"]) == scores["aggregated_scores"][f"{key}_std"]
                assert int(line["n_folds"]) == len(folds)
            assert line["std_over_seeds"] == ("" if folder.name == "one" else "0.004")
            assert line["n_seeds"] == ("" if folder.name == "one" else "3")


@given(st.dictionaries(st.sampled_from(sorted(shown_tasks())), st.floats(0, 1) | st.just(math.nan)))
def test_a_domain_has_a_mean_only_if_every_task_has_a_number(scores):
    cells = {Row(folder, shown_tasks()[folder].metric): Cell(score) for folder, score in scores.items()}
    column = Column("m", "measured", "p", cells)
    for domain in (*DOMAINS, APART):
        tasks = [task for task in shown_tasks().values() if task.domain == domain]
        present = [task for task in tasks if not math.isnan(scores.get(task.folder, math.nan))]
        found = domain_mean(column, domain)
        assert (found.n_scored, found.n_tasks) == (len(present), len(tasks))
        assert set(found.missing) == {task.title for task in tasks if task not in present}
        if len(present) < len(tasks):
            assert found.mean is None
        else:
            assert found.mean == pytest.approx(statistics.fmean(scores[task.folder] for task in tasks))


def test_an_incomplete_domain_is_empty_in_the_csv_and_named_in_the_findings(tmp_path):
    folder = scored_benchmark(tmp_path / "model", 0, without=(ESC50,))
    report = build_report([folder])
    found = {(line["model"], line["domain"]): line for line in lines(domain_means_csv(report.domains))}
    line = found["model", "Environment"]
    assert (line["mean"], line["n_scored"], line["n_tasks"], line["missing"]) == ("", "3", "4", "ESC-50")
    assert float(found["model", "Music"]["mean"]) > 0.5
    assert "model: Environment is incomplete, without ESC-50." in report.findings


OTHERS = [
    {"protocol": {**REFEREE, "grid": "fast"}},
    {"protocol": {**REFEREE, "grid_points": 2}},
    {"protocol": {"scorer": "hear_dasheng", "grid": "default", "seeds": 3}},
    {"protocol": None},
    {"checkpoint": "b" * 64},
    {"checkpoint": None},
    {"options": {"precision": "bf16"}},
    {"module": "another"},
]


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_results_of_different_origin_never_share_a_column(tmp_path, other):
    scored_task(tmp_path / "model" / ESC50, "top1_acc", [0.5, 0.6])
    scored_task(tmp_path / "model" / FSD50K, "mAP", [0.4], **other)
    report = build_report([tmp_path / "model"], with_paper=False)
    assert [len(column.cells) for column in report.columns] == [1, 1]
    assert len({column.label for column in report.columns}) == 2
    assert any("holds results of 2 origins" in finding for finding in report.findings)


@pytest.mark.parametrize(
    "other",
    [{**REFEREE, "gpus": "[0]"}, {**REFEREE, "in_memory": False}, {**REFEREE, "embeddings": "1" * 64}],
    ids=str,
)
def test_where_a_score_was_computed_does_not_part_columns(tmp_path, other):
    scored_task(tmp_path / "model" / ESC50, "top1_acc", [0.5, 0.6])
    scored_task(tmp_path / "model" / FSD50K, "mAP", [0.4], protocol=other)
    assert len(columns_of(tmp_path / "model")) == 1


def test_different_seeds_are_different_protocols(tmp_path):
    for count in (3, 10):
        protocol = {"scorer": "hear-dasheng score", "seeds": count, "embeddings": str(count)}
        scored_task(tmp_path / str(count) / ESC50, "top1_acc", [0.5, 0.6], protocol=protocol)
    report = build_report([tmp_path / "3", tmp_path / "10"])
    assert [column.protocol for column in report.columns[:2]] == [
        "hear-dasheng score, seeds 3",
        "hear-dasheng score, seeds 10",
    ]
    assert any(finding.startswith("Scored in 2 ways") for finding in report.findings)


def test_results_on_different_task_files_get_rows_of_their_own(tmp_path):
    for name, files in {"one": "1" * 64, "two": "2" * 64}.items():
        scored_task(tmp_path / name / ESC50, "top1_acc", [0.5, 0.6], files=files)
        scored_task(tmp_path / name / FSD50K, "mAP", [0.4])
    report = build_report([tmp_path / "one", tmp_path / "two"], with_paper=False)
    assert [row.title for row in report.rows] == [
        "ESC-50 (files 11111111)",
        "ESC-50 (files 22222222)",
        "FSD50K",
    ]
    assert any("Not made on the same files" in finding and "ESC-50" in finding for finding in report.findings)


@pytest.mark.parametrize(("folder", "metric"), [("esc50-v2.0.0-small", "top1_acc"), (ESC50, "mAP")])
def test_other_versions_and_metrics_count_to_no_domain(tmp_path, folder, metric):
    scored_benchmark(tmp_path / "model", 0, without=(ESC50,))
    scored_task(tmp_path / "model" / folder, metric, [0.9, 0.9])
    (column,) = columns_of(tmp_path / "model")
    assert domain_mean(column, "Environment").missing == ("ESC-50",)
    assert Row(folder, metric).domain == "Other"


@pytest.mark.parametrize("undefined", [math.nan, None], ids=["as heareval has it", "as JSON has it"])
def test_a_score_that_is_no_number_is_missing_and_said_so(tmp_path, undefined):
    scored_benchmark(tmp_path / "model", 0, without=(FSD50K,))
    scored_task(tmp_path / "model" / FSD50K, "mAP", [undefined])
    report = build_report([tmp_path / "model"])
    assert report.domains[0].means["Environment"].mean is None
    assert "model: the scorer gave no number for FSD50K." in report.findings
    (line,) = [
        line
        for line in lines(scores_csv(report.columns, report.rows))
        if (line["model"], line["task"]) == ("model", FSD50K)
    ]
    assert line["score"] == ""


def test_embedded_but_unscored_tasks_are_named(tmp_path):
    scored_task(tmp_path / "model" / ESC50, "top1_acc", [0.5, 0.6])
    (tmp_path / "model" / FSD50K).mkdir()
    (tmp_path / "model" / FSD50K / "task_metadata.json").write_text('{"evaluation": ["mAP"]}')
    assert f"Embedded in model, but not scored: {FSD50K}." in build_report([tmp_path / "model"]).findings


def test_a_folder_named_twice_counts_once(tmp_path):
    task = scored_task(tmp_path / "model" / ESC50, "top1_acc", [0.5, 0.6])
    report = build_report([tmp_path / "model", task], with_paper=False)
    assert len(report.columns) == len(report.columns[0].results) == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"test": {}}', '{"test": {"test_top1_acc": "x"}}', "{}"])
def test_a_damaged_score_file_is_named_with_the_remedy(tmp_path, content):
    task = scored_task(tmp_path / ESC50, "top1_acc", [0.5])
    (task / "test.predicted-scores.json").write_text(content)
    with pytest.raises(click.ClickException, match=r"test\.predicted-scores\.json .*--redo"):
        read_embedding_folder(task)


def test_nothing_scored_is_an_error(tmp_path):
    (tmp_path / ESC50).mkdir()
    (tmp_path / ESC50 / "task_metadata.json").write_text('{"evaluation": ["top1_acc"]}')
    with pytest.raises(click.ClickException, match="nothing in .* is scored yet; .*hear-dasheng score"):
        build_report([tmp_path])


def test_labels_are_as_many_as_folders_and_take_the_place_of_names(tmp_path):
    folders = [tmp_path / name / "hear_dasheng" for name in ("a", "b")]
    for folder in folders:
        scored_task(folder / ESC50, "top1_acc", [0.5, 0.6])
    labels = [column.label for column in build_report(folders, with_paper=False).columns]
    assert labels == ["a/hear_dasheng", "b/hear_dasheng"]
    labels = [column.label for column in build_report(folders, ["A", "B"], with_paper=False).columns]
    assert labels == ["A", "B"]
    with pytest.raises(click.BadParameter, match="1 labels for 2 folders"):
        build_report(folders, ["A"])


def test_two_labels_for_one_folder_are_refused(tmp_path):
    scored_task(tmp_path / "a/esc50-v2.0.0-full", "top1_acc", [0.5] * 5)
    with pytest.raises(click.BadParameter, match="a folder is named twice"):
        build_report([tmp_path / "a", tmp_path / "a"], ["one", "two"])


def test_a_folder_without_tasks_is_left_out_beside_others_and_alone_an_error(tmp_path, capsys):
    scored_task(tmp_path / "a/esc50-v2.0.0-full", "top1_acc", [0.5] * 5)
    (tmp_path / "empty").mkdir()
    assert len(build_report([tmp_path / "a", tmp_path / "empty"]).rows) > 0
    assert f"Left out: {tmp_path / 'empty'} holds no HEAR tasks" in capsys.readouterr().err
    with pytest.raises(click.ClickException, match=r"holds no HEAR tasks .*`hear-dasheng embed` puts them"):
        build_report([tmp_path / "empty"])


def test_one_label_for_two_folders_is_told_apart(tmp_path):
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        scored_task(folder / ESC50, "top1_acc", [0.5, 0.6])
    labels = [column.label for column in build_report(folders, ["A", "A"], with_paper=False).columns]
    assert labels == ["A (no. 1)", "A (no. 2)"]
    scored_task(tmp_path / "a" / FSD50K, "mAP", [0.4], protocol=None)
    labels = [column.label for column in build_report(folders, ["A", "A"], with_paper=False).columns]
    assert len(set(labels)) == 3


def test_a_folder_named_like_a_leaderboard_row_is_not_taken_for_it(tmp_path):
    scored_task(tmp_path / "wav2vec2" / ESC50, "top1_acc", [0.5, 0.6])
    report = build_report([tmp_path / "wav2vec2"], leaderboard=["wav2vec2"], with_paper=False)
    assert [column.label for column in report.columns] == ["wav2vec2", "wav2vec2 (leaderboard)"]


@given(st.sets(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6))
def test_short_names_tell_folders_apart(paths):
    folders = [Path("/", *parts) for parts in paths]
    names = short_names(folders)
    assert len(set(names.values())) == len(folders)
    assert all(str(folder).endswith(names[folder]) for folder in folders)
