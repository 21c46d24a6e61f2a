"""`hear-dasheng knn`: embeddings kept on disk, results with their origin, and the report of them."""

import csv
import io
import json
import re
from pathlib import Path

import dataset_layouts as layouts
import matplotlib.image
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import run_command
from filelock import FileLock
from sklearn.metrics import accuracy_score
from sklearn.model_selection import LeaveOneOut, PredefinedSplit, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from eval_recipes.datasets.catalogue import published_datasets, read_dataset
from eval_recipes.datasets.clips import Clip, ClipList, Sizes
from eval_recipes.knn import knn
from eval_recipes.neighbours.classify import Choices, classify
from eval_recipes.neighbours.stored_embeddings import StoredProblem, stored_embeddings
from eval_recipes.report import build_report, report, report_files
from eval_recipes.reporting.published import paper_knn
from eval_recipes.task_table import data_rows

MODULE = "eval_recipes.baselines.log_mel"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    return layouts.tones_per_class(tmp_path_factory.mktemp("data") / "tones")


def call(*arguments: str, module: str = MODULE):
    return CliRunner().invoke(knn, [module, *map(str, arguments)])


def result_in(output: str) -> dict:
    return json.loads(Path(output.strip().splitlines()[-1]).read_text())


def test_a_folder_of_ones_own(tmp_path, tones):
    first = call("--dataset", "folder", "--data", tones, "--out", tmp_path, "--k", "3")
    assert first.exit_code == 0, first.output
    assert "tones: 18 clips of 3 classes" in first.output
    assert "18 clips embedded" in first.output
    result = result_in(first.stdout)
    assert result["accuracy"] > 0.8
    assert result["protocol"] == "leave one out"
    assert list(result["accuracy_by_class"]) == ["high", "low", "middle"]
    assert result["n_references"] == {"all": 17}
    assert result["identity"]["k"] == 3
    assert result["identity"]["checkpoint"] == ""
    assert set(result) >= {"command", "versions", "seconds", "interval_95", "balanced_accuracy"}
    again = call("--dataset", "folder", "--data", tones, "--out", tmp_path, "--weights", "softmax")
    assert "embeddings of 18 clips used again" in again.output
    folder = tmp_path / MODULE / "tones"
    assert {path.name for path in folder.glob("k*")} == {
        f"{name}.{kind}"
        for name in ("k3-uniform-cosine", "k10-softmax0.07-cosine")
        for kind in ("knn.json", "confusions.csv", "confusions.png")
    }
    assert matplotlib.image.imread(folder / "k3-uniform-cosine.confusions.png").shape[2] == 4
    rows = list(csv.DictReader((folder / "k3-uniform-cosine.confusions.csv").read_text().splitlines()))
    right = {row["true"]: int(row["clips"]) for row in rows if row["true"] == row["predicted"]}
    assert sum(int(row["clips"]) for row in rows) == result["n_clips"] == 18
    assert sum(right.values()) == result["n_right"] == round(18 * result["accuracy"])
    for label, accuracy in result["accuracy_by_class"].items():
        assert accuracy == right[label] / 6


def test_embeddings_are_the_modules_clip_by_clip(tmp_path, tones, tiny_folder):
    """Clips of several lengths share batches; a clip alone embeds alike."""
    from hear_dasheng import load_model
    from hear_dasheng.embed_files import scene_embeddings_of_files

    ran = call(
        "--model",
        tiny_folder,
        "--dataset",
        "folder",
        "--data",
        tones,
        "--out",
        tmp_path,
        module="hear_dasheng",
    )
    assert ran.exit_code == 0, ran.output
    (stored,) = tmp_path.glob("hear_dasheng-*/tones/embeddings.npy")
    paths = read_dataset("folder", tones).paths
    expected = scene_embeddings_of_files(paths, load_model(tiny_folder), progress=False)
    np.testing.assert_allclose(np.load(stored), expected, atol=1e-5)
    assert result_in(ran.stdout)["identity"]["checkpoint"]


def made_up(parts: list[str], seed: int = 0) -> tuple[ClipList, np.ndarray]:
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, 4, len(parts))
    clips = [Clip(f"{n:04}.wav", f"class {labels[n]}", part) for n, part in enumerate(parts)]
    order = sorted(range(len(parts)), key=lambda n: (parts[n], n))
    means = chance.standard_normal((4, 12))
    vectors = (means[labels] + 1.5 * chance.standard_normal((len(parts), 12))).astype(np.float32)
    return ClipList("made up", Path("."), tuple(clips[n] for n in order)), vectors[order]


def test_parts_are_classified_as_scikit_learn_does():
    peer = KNeighborsClassifier(n_neighbors=10, metric="cosine", algorithm="brute")
    folds = [str(n % 3 + 1) for n in range(150)]
    dataset, vectors = made_up(folds)
    x, y = vectors.astype(np.float64), np.array([clip.label for clip in dataset.clips])
    split = PredefinedSplit([int(clip.part) for clip in dataset.clips])
    predicted = cross_val_predict(peer, x, y, cv=split)
    found = classify(dataset, vectors, Choices())
    for fold, its in found.items():
        is_in = np.array([clip.part == fold for clip in dataset.clips])
        assert its.accuracy == accuracy_score(y[is_in], predicted[is_in])
    assert sorted(found) == ["1", "2", "3"]

    dataset, vectors = made_up([""] * 80)
    x, y = vectors.astype(np.float64), np.array([clip.label for clip in dataset.clips])
    predicted = cross_val_predict(peer, x, y, cv=LeaveOneOut())
    assert classify(dataset, vectors, Choices())["all"].accuracy == accuracy_score(y, predicted)

    dataset, vectors = made_up(["train"] * 60 + ["test"] * 40)
    x, y = vectors.astype(np.float64), np.array([clip.label for clip in dataset.clips])
    is_test = np.array([clip.part == "test" for clip in dataset.clips])
    predicted = peer.fit(x[~is_test], y[~is_test]).predict(x[is_test])
    found = classify(dataset, vectors, Choices())
    assert list(found) == ["test"]
    assert found["test"].accuracy == accuracy_score(y[is_test], predicted)
    assert found["test"].confusion.sum() == 40


class Embedder:
    """Embeds files as their names' numbers, and is stopped after some of them."""

    def __init__(self, stops_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.stops_after = stops_after

    def __call__(self, paths):
        for n, path in reversed(list(enumerate(paths))):
            if self.stops_after is not None and len(self.asked) == self.stops_after:
                raise KeyboardInterrupt
            self.asked.append(path.name)
            yield [n], np.full((1, 3), float(path.name), np.float32)


def test_a_stopped_run_goes_on(tmp_path):
    paths = [tmp_path / str(n) for n in range(10)]
    folder, identity, told = tmp_path / "out", {"module": "m"}, []
    with pytest.raises(KeyboardInterrupt):
        stored_embeddings(folder, paths, Embedder(4), identity)
    assert not (folder / "embeddings.npy").exists()
    others = Embedder()
    found = stored_embeddings(folder, paths, others, identity, tell=told.append)
    assert sorted(others.asked) == [str(n) for n in range(6)]
    np.testing.assert_array_equal(found, np.arange(10)[:, None] * np.ones(3))
    assert told == [
        "4 of 10 clips were embedded before; going on with the others",
        f"6 clips embedded, into {folder / 'embeddings.npy'}",
    ]
    assert not (folder / "embeddings.parts").exists()
    unused = Embedder()
    stored_embeddings(folder, paths, unused, identity)
    assert not unused.asked
    found[0] = 7
    assert np.load(folder / "embeddings.npy")[0, 0] == 0


def test_embeddings_of_something_else_are_never_used(tmp_path):
    paths = [tmp_path / str(n) for n in range(3)]
    stored_embeddings(tmp_path / "out", paths, Embedder(), {"checkpoint": "a"})
    with pytest.raises(StoredProblem, match="something else \\(checkpoint was 'a', now 'b'\\); --redo"):
        stored_embeddings(tmp_path / "out", paths, Embedder(), {"checkpoint": "b"})
    anew = Embedder()
    stored_embeddings(tmp_path / "out", paths, anew, {"checkpoint": "b"}, redo=True)
    assert len(anew.asked) == 3
    with pytest.raises(KeyboardInterrupt):
        stored_embeddings(tmp_path / "two", paths, Embedder(1), {"checkpoint": "a"})
    with pytest.raises(StoredProblem, match="something else"):
        stored_embeddings(tmp_path / "two", paths, Embedder(), {"checkpoint": "b"})


def test_bad_embeddings_and_a_second_run_are_refused(tmp_path):
    def embed(paths):
        yield [0, 1], np.array([[1.0], [np.inf]], np.float32)

    paths = [tmp_path / "fine.wav", tmp_path / "loud.wav"]
    with pytest.raises(StoredProblem, match=r"embedding of .*loud\.wav is not finite"):
        stored_embeddings(tmp_path / "out", paths, embed, {})
    with FileLock(tmp_path / "out/.embeddings.lock"), pytest.raises(StoredProblem, match="another run"):
        stored_embeddings(tmp_path / "out", paths, Embedder(), {})


def test_changed_data_are_noticed(tmp_path):
    tones = layouts.tones_per_class(tmp_path / "tones", 4)
    assert call("--dataset", "folder", "--data", tones, "--out", tmp_path / "knn", "--k", "3").exit_code == 0
    layouts.tone(tones / "low" / "new.wav", 210)
    changed = call("--dataset", "folder", "--data", tones, "--out", tmp_path / "knn", "--k", "3")
    assert changed.exit_code == 1
    assert re.search(r"something else \(files was \w{12}\.\.\., now \w{12}\.\.\.\); --redo", changed.output)
    redone = call("--dataset", "folder", "--data", tones, "--out", tmp_path / "knn", "--k", "3", "--redo")
    assert redone.exit_code == 0, redone.output
    assert result_in(redone.stdout)["n_clips"] == 13


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--k", "18"), "k is 18; there are 17 clips to find neighbours among"),
        (("--temperature", "0"), "--temperature is 0.0; it must be above 0"),
        (("--device", "warp"), "--device 'warp' cannot be used here"),
        (("--model-options", "[]"), "must be a JSON object"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(tmp_path, tones, arguments, message):
    failed = call("--dataset", "folder", "--data", tones, "--out", tmp_path, *arguments)
    assert failed.exit_code != 0
    assert message in " ".join(failed.output.split())
    assert "Traceback" not in failed.output


def test_a_wrong_data_set_or_clip_is_named(tmp_path, tones):
    unknown = call("--dataset", "esc55", "--data", tones, "--out", tmp_path)
    assert "no data set 'esc55'; did you mean esc50?" in unknown.output
    broken = layouts.tones_per_class(tmp_path / "broken", 2)
    (broken / "low/0.wav").write_bytes(b"no sound")
    failed = call("--dataset", "folder", "--data", broken, "--out", tmp_path / "knn")
    assert failed.exit_code == 1
    assert "low/0.wav cannot be read" in failed.output


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
        assert "1 missing, first: audio/0.wav" in call(*options, "--out", out / "part").output
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


def test_neighbours_and_tasks_stand_in_one_report(scored, tmp_path):
    from report_cases import scored_task

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
    assert "k1-uniform-cosine.knn.json is no result of `hear-dasheng knn`" in ran.output


def test_the_papers_table_has_a_column_for_every_data_set():
    columns = {name for row in paper_knn().values() for name in row}
    named = {its.paper_column for its in published_datasets().values() if its.paper_column}
    assert columns == named
    assert len(columns) == 9
    assert paper_knn()["WavLM-Large"]["nsynth_instrument"] is None


def test_the_command_is_registered(tmp_path):
    ran = run_command("knn", "--help", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    for name in (*published_datasets(), "folder", "list", "--allow-incomplete", "softmax"):
        assert name in ran.stdout.replace("\n", "").replace(" ", "")
