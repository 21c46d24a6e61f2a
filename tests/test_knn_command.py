"""`hear-dasheng knn` on data of one's own: its files, its messages, its options."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import dataset_layouts as layouts
import matplotlib.image
import numpy as np
import pytest
from conftest import run_command
from knn_cases import call, result_in, result_path

from eval_recipes.datasets.catalogue import published_datasets, read_dataset
from eval_recipes.neighbours.embedded_clips import Embedder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    return layouts.tones_per_class(tmp_path_factory.mktemp("data") / "tones")


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
    assert "k is 10, but 3 of 3 classes have fewer clips to find (fewest: high, 5)" in again.stderr
    assert "chance 33.3 % (always the most frequent class)" in again.stdout
    assert result["chance"] == {"most_frequent_class": 1 / 3, "one_of_the_classes": 1 / 3}
    assert (result["warning"], result["is_published"], result["data"]) == ("", False, str(tones))
    folder = result_path(first.stdout).parent
    assert re.fullmatch(r"folder-tones-[0-9a-f]{8}", folder.name)
    clips = f"clips-{result['identity']['labels'][:8]}"
    assert {path.name for path in folder.glob("k*")} == {
        f"{name}.{kind}"
        for name in (f"k3-uniform-cosine-{clips}", f"k10-softmax0.07-cosine-{clips}")
        for kind in ("knn.json", "confusions.csv", "confusions.png")
    }
    assert matplotlib.image.imread(folder / f"k3-uniform-cosine-{clips}.confusions.png").shape[2] == 4
    confusions = folder / f"k3-uniform-cosine-{clips}.confusions.csv"
    rows = list(csv.DictReader(confusions.read_text().splitlines()))
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
    (stored,) = tmp_path.glob("hear_dasheng-*/folder-tones-*/embeddings-*.npy")
    paths = read_dataset("folder", tones).paths
    expected = scene_embeddings_of_files(paths, load_model(tiny_folder), progress=False)
    np.testing.assert_allclose(np.load(stored), expected, atol=1e-5)
    assert result_in(ran.stdout)["identity"]["checkpoint"]


def test_of_changed_data_only_what_is_new_is_embedded(tmp_path):
    tones = layouts.tones_per_class(tmp_path / "tones", 4)
    options = ("--dataset", "folder", "--data", tones, "--out", tmp_path / "knn", "--k", "3")
    first = call(*options)
    layouts.tone(tones / "low" / "new.wav", 210)
    (tones / "high/2.wav").unlink()
    changed = call(*options)
    assert changed.exit_code == 0, changed.output
    assert "11 of 12 clips were embedded before; going on with the others" in changed.output
    assert "1 clip embedded" in changed.output
    assert result_path(first.stdout).is_file()
    assert result_path(first.stdout) != result_path(changed.stdout)
    redone = call(*options, "--redo")
    assert "12 clips embedded" in redone.output
    assert result_in(redone.stdout)["accuracy_by_class"] == result_in(changed.stdout)["accuracy_by_class"]


def a_list(path: Path, tones: Path, label: Callable[[Path], str], column: str = "label") -> Path:
    files = sorted(tones.glob("*/*.wav"))
    layouts.write_table(path, f"path,{column}", [(file, label(file)) for file in files])
    return path


def test_data_sets_of_one_name_keep_apart(tmp_path, tones):
    one = a_list(tmp_path / "one/esc50.csv", tones, lambda file: file.parent.name)
    two = a_list(tmp_path / "two/esc50.csv", tones, lambda file: str(int(file.stem) % 2))
    out = tmp_path / "knn"
    folders = {}
    for data, named in ((one, ()), (two, ()), (two, ("--name", "parity"))):
        ran = call("--dataset", "list", "--data", data, "--out", out, "--k", "3", *named)
        assert ran.exit_code == 0, ran.output
        folders[result_path(ran.stdout).parent.name] = result_in(ran.stdout)["dataset"]
    assert sorted(folders.values()) == ["esc50", "esc50", "parity"]
    assert "list-parity" in folders
    assert all(re.fullmatch(r"list-esc50-[0-9a-f]{8}|list-parity", name) for name in folders)
    again = call("--dataset", "list", "--data", one, "--out", out, "--k", "3", "--name", "parity")
    assert again.exit_code == 1
    assert f"something else (data was '{tmp_path}/two', now '{tmp_path}/one')" in again.output
    assert "another --name" in again.output


def test_other_labels_keep_their_own_result_and_embed_nothing_anew(tmp_path, tones):
    table = a_list(tmp_path / "mine.csv", tones, lambda file: f"{file.parent.name},{int(file.stem) % 2}")
    table.write_text(table.read_text().replace("path,label", "path,label,parity"))
    options = ("--dataset", "list", "--data", table, "--out", tmp_path / "knn", "--k", "3")
    first, second = call(*options), call(*options, "--label-column", "parity")
    assert "embeddings of 18 clips used again" in second.output
    assert result_path(first.stdout) != result_path(second.stdout)
    assert result_in(first.stdout)["n_classes"] == 3
    assert (result_in(second.stdout)["n_classes"], result_in(second.stdout)["title"]) == (2, "mine: parity")


@pytest.mark.parametrize("name", ["../up", "a b", "", ".hidden"])
def test_a_name_that_no_folder_can_have_is_refused(tmp_path, tones, name):
    failed = call("--dataset", "folder", "--data", tones, "--out", tmp_path, "--name", name)
    assert failed.exit_code == 1
    assert f"--name {name!r} must be letters" in failed.output
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_said_in_a_line(tmp_path, tones):
    (tmp_path / "knn").write_text("a file")
    failed = call("--dataset", "folder", "--data", tones, "--out", tmp_path / "knn" / "deeper")
    assert failed.exit_code == 1
    assert "Not a directory" in failed.output
    assert "check the path" in failed.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--k", "18"), "k is 18; there are 17 clips to find neighbours among"),
        (("--temperature", "0"), "0.0 is not in the range 0<x<="),
        (("--device", "warp"), "--device 'warp' cannot be used here"),
        (("--model-options", "[]"), "must be a JSON object"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(tmp_path, tones, arguments, message):
    failed = call("--dataset", "folder", "--data", tones, "--out", tmp_path, *arguments)
    assert failed.exit_code != 0
    assert message in " ".join(failed.output.split())
    assert "Traceback" not in failed.output


def test_an_impossible_k_is_told_before_anything_is_embedded(tmp_path, tones, monkeypatch):
    monkeypatch.setattr(Embedder, "__call__", lambda self, paths: pytest.fail("it embeds"))
    failed = call("--dataset", "folder", "--data", tones, "--out", tmp_path, "--k", "99")
    assert "k is 99; there are 17 clips to find neighbours among" in failed.output


def test_a_misspelt_module_is_told_before_the_data_is_looked_at(tmp_path):
    failed = call(
        "--dataset", "folder", "--data", tmp_path, "--k", "99", module="eval_recipes.baselines.log_mell"
    )
    assert failed.exit_code == 1
    assert "eval_recipes.baselines.log_mell cannot be imported" in failed.output
    assert "did you mean eval_recipes.baselines.log_mel?" in failed.output


def test_a_wrong_data_set_is_named(tmp_path, tones):
    unknown = call("--dataset", "esc55", "--data", tones, "--out", tmp_path)
    assert "no data set 'esc55'; did you mean esc50?" in unknown.output
    named = call("--dataset", "esc50", "--data", tones, "--out", tmp_path, "--name", "mine")
    assert "--name 'mine' is for data of your own (--dataset folder or list)" in named.output


def test_the_command_is_registered(tmp_path):
    ran = run_command("knn", "--help", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    for name in (
        *published_datasets(),
        "folder",
        "list",
        "--allow-incomplete",
        "softmax",
        "--name",
        "filename",
    ):
        assert name in ran.stdout.replace("\n", "").replace(" ", "")
    assert re.search(r"^ +split +if there is one: train, test; valid is left out$", ran.stdout, re.M)
