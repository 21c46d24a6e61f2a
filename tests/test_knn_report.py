"""Results of nearest neighbours in the report, beside the paper's."""

import csv
import io
import json

import dataset_layouts as layouts
import pytest
from click.testing import CliRunner
from knn_cases import MODULE, call, result_path
from report_cases import scored_task

from eval_recipes.datasets.catalogue import published_datasets
from eval_recipes.datasets.clips import Sizes
from eval_recipes.report import build_report, report, report_files
from eval_recipes.reporting.published import paper_knn
from eval_recipes.task_table import data_rows

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A small but whole `esc50`: its sizes are the test's."""
    out = tmp_path_factory.mktemp("scored")
    small = Sizes(3, {"1": 9, "2": 9})
    known = dict(published_datasets())
    known["esc50"] = type(known["esc50"])(**{**vars(known["esc50"]), "sizes": small})
    rows = []
    for number in range(18):
        label = ("low", "middle", "high")[number % 3]
        layouts.tone(
            out / f"data/audio/{number}.wav", {"low": 200, "middle": 900, "high": 4000}[label], number
        )
        rows.append((f"{number}.wav", number // 9 + 1, label))
    layouts.write_table(out / "data/meta/esc50.csv", "filename,fold,category", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eval_recipes.datasets.catalogue.published_datasets", lambda: known)
        options = ("--dataset", "esc50", "--data", out / "data")
        for more in (("--k", "3"), ("--k", "3", "--metric", "euclidean")):
            assert call(*options, "--out", out / "knn", *more).exit_code == 0
        (out / "data/audio/0.wav").unlink()
        assert "1 missing: audio/0.wav" in call(*options, "--out", out / "part").output
        ran = call(*options, "--out", out / "part", "--k", "3", "--allow-incomplete")
        assert ran.exit_code == 0, ran.output
        assert "of an incomplete data set" in ran.output
    return out


def test_the_report_shows_neighbours_alone_beside_the_papers(scored, tmp_path):
    folder = scored / "knn" / MODULE
    ran = CliRunner().invoke(report, [str(folder), "--out", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    names = {"index.html", "report.md", "knn.csv"}
    assert {path.name for path in tmp_path.iterdir()} == names
    page, text = (tmp_path / "index.html").read_text(), (tmp_path / "report.md").read_text()
    assert "<h1>Nearest neighbours</h1>" in page
    assert text.startswith("# Nearest neighbours")
    assert "| Dasheng-Base (paper) | 61.9 |" in text
    assert "over 2 folds" in text
    rows = list(csv.DictReader(io.StringIO((tmp_path / "knn.csv").read_text())))
    measured = [row for row in rows if row["source"] == "measured"]
    assert {row["protocol"] for row in measured} == {"k 3, uniform, cosine", "k 3, uniform, euclidean"}
    assert len({row["model"] for row in measured}) == 2
    assert all(row["dataset"] == "esc50" and float(row["accuracy"]) == 1.0 for row in measured)
    papers = {row["model"]: float(row["accuracy"]) for row in rows if row["source"] == "paper"}
    assert papers == {
        f"{row['model']} (paper)": pytest.approx(float(row["esc50"]) / 100)
        for row in data_rows("paper_knn.csv")
    }
    assert "does not publish how it classified" in ran.output
    alone = build_report([folder], with_paper=False)
    assert not [row for row in alone.knn.rows if row.kind == "paper"]


def test_an_incomplete_data_set_has_a_column_of_its_own(scored):
    both = build_report([scored / "knn" / MODULE, scored / "part" / MODULE], ["whole", "part"])
    whole, incomplete = both.knn.columns
    assert (whole.heading, incomplete.is_incomplete) == ("ESC-50", True)
    assert incomplete.heading.startswith("ESC-50 (incomplete, clips ")
    part = next(row for row in both.knn.rows if row.label == "part")
    assert list(part.cells) == [incomplete]
    papers = [row for row in both.knn.rows if row.kind == "paper"]
    assert len(papers) == 9
    assert all(list(row.cells) == [whole] for row in papers)
    assert any("was not all there: it lists 18 clips, 1 missing" in finding for finding in both.findings)


@pytest.fixture(scope="module")
def named_alike(scored):
    """Two lists of the user's own called as a published data set is; of one, two columns of labels."""
    out = scored / "own"
    for folder in ("one", "two"):
        rows = [
            (f"{scored}/data/audio/{n}.wav", ("low", "middle", "high")[n % 3], n % 2) for n in range(1, 18)
        ]
        table = scored / folder / "esc50.csv"
        layouts.write_table(table, "filename,label,parity", rows[: 17 if folder == "one" else 14])
        for more in ((), ("--label-column", "parity")) if folder == "one" else ((),):
            ran = call("--dataset", "list", "--data", table, "--out", out, "--k", "3", *more)
            assert ran.exit_code == 0, ran.output
    return out / MODULE


def test_own_data_are_never_taken_for_the_published_set_of_that_name(named_alike, scored):
    built = build_report([named_alike, scored / "knn" / MODULE], ["own", "published"])
    published, *own = built.knn.columns
    assert (published.heading, published.is_own) == ("ESC-50", False)
    assert [column.title for column in own] == ["esc50", "esc50", "esc50: parity"]
    assert all(
        column.is_own and column.heading.startswith(f"{column.title} (own data, clips ") for column in own
    )
    row = next(row for row in built.knn.rows if row.label == "own")
    assert set(row.cells) == set(own)
    papers = [row for row in built.knn.rows if row.kind == "paper"]
    assert papers
    assert all(list(row.cells) == [published] for row in papers)
    alone = build_report([named_alike])
    assert not [row for row in alone.knn.rows if row.kind == "paper"]
    files = report_files(alone)
    assert files["index.html"].count(b'class="number own"') == 3 + 3
    assert f"<dd>{scored}/one</dd>".encode() in files["index.html"]
    rows = list(csv.DictReader(io.StringIO(files["knn.csv"].decode())))
    assert [row["is_published"] for row in rows] == ["false"] * 3
    assert all(0.3 < float(row["chance"]) < 0.6 for row in rows)


def test_a_k_beyond_the_clips_of_a_class_is_a_finding(named_alike, scored, tmp_path):
    options = ("--dataset", "list", "--data", scored / "one/esc50.csv", "--out", tmp_path, "--k", "10")
    ran = call(*options)
    warning = json.loads(result_path(ran.stdout).read_text())["warning"]
    assert warning.startswith("k is 10, but 3 of 3 classes have fewer clips to find (fewest: low, 4)")
    built = build_report([tmp_path / MODULE], ["model"])
    assert built.findings == [f"model, esc50: {warning}."]


def test_the_same_finding_of_several_results_is_told_once(tmp_path):
    tones = layouts.tones_per_class(tmp_path / "tones", 5)
    files = sorted(tones.glob("*/*.wav"))
    rows = [(file.relative_to(tmp_path), file.parent.name, place % 2) for place, file in enumerate(files)]
    layouts.write_table(tmp_path / "mine.csv", "filename,label,parity", rows)
    gone = [files[place] for place in (0, 1, 5, 6, 10)]
    for file in gone:
        file.unlink()
    options = ("--dataset", "list", "--data", tmp_path / "mine.csv", "--name", "mine", "--allow-incomplete")
    for more in (("--k", "3"), ("--k", "3", "--metric", "euclidean")):
        assert call(*options, *more, "--out", tmp_path / "knn").exit_code == 0
    rows[2] = (rows[2][0], rows[5][1], 0)
    layouts.write_table(tmp_path / "mine.csv", "filename,label,parity", rows)
    ran = call(*options, "--k", "3", "--out", tmp_path / "knn")
    assert ran.exit_code == 0, ran.output
    names = [file.relative_to(tmp_path).as_posix() for file in gone]
    assert f"5 missing: {', '.join(names)}" in ran.output
    findings = build_report([tmp_path / "knn" / MODULE], ["model"]).findings
    (lost,) = [finding for finding in findings if "not all there" in finding]
    assert lost == (
        "model [k 3, uniform, cosine]; model [k 3, uniform, euclidean]: mine was not all there: it lists 15 "
        f"clips, 5 missing: {', '.join(names[:3])} and 2 more (3 results)."
    )


def test_the_page_speaks_only_of_what_it_shows(scored, tmp_path):
    alone = report_files(build_report([scored / "knn" / MODULE]))["index.html"].decode()
    assert "domain" not in alone.partition("<main>")[0].partition("<body>")[2]
    assert "over seeds" not in alone.partition("<main>")[0]
    scored_task(tmp_path / "esc50-v2.0.0-full", "top1_acc", [0.5, 0.6])
    both = report_files(build_report([tmp_path, scored / "knn" / MODULE]))["index.html"].decode()
    assert "A mean is shown only where every task of its domain has a score" in both


def test_neighbours_and_tasks_stand_in_one_report(scored, tmp_path):
    scored_task(tmp_path / "model/esc50-v2.0.0-full", "top1_acc", [0.5, 0.6])
    files = report_files(build_report([tmp_path / "model", scored / "knn" / MODULE]))
    assert {"scores.csv", "knn.csv", "index.html"} <= set(files)
    assert b"<h1>HEAR scores</h1>" in files["index.html"]
    assert b'id="knn-title"' in files["index.html"]


def test_a_damaged_result_is_named(scored, tmp_path):
    folder = tmp_path / "model/esc50"
    folder.mkdir(parents=True)
    (folder / "k1-uniform-cosine.knn.json").write_text("{}")
    ran = CliRunner().invoke(report, [str(tmp_path / "model"), "--out", str(tmp_path / "out")])
    assert ran.exit_code == 1
    assert (
        "k1-uniform-cosine.knn.json: it has no dataset: this is no result of `hear-dasheng knn`" in ran.output
    )


def test_the_papers_table_has_a_column_for_every_data_set():
    columns = {name for row in paper_knn().values() for name in row}
    named = {its.paper_column for its in published_datasets().values() if its.paper_column}
    assert columns == named
    assert len(columns) == 9
    assert paper_knn()["WavLM-Large"]["nsynth_instrument"] is None
