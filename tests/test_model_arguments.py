"""`--model`, `--model-options`, a module's name: which weights are meant; records tell them apart."""

import json
import re
import sys

import click
import dataset_layouts as layouts
import pytest
from click.testing import CliRunner
from conftest import run_command

from eval_recipes import provenance, synthetic_tasks
from eval_recipes.embed import embed
from eval_recipes.embedding.module import ModuleProblem, load_module
from eval_recipes.hear_modules import import_hear_module
from eval_recipes.knn import knn
from eval_recipes.model_arguments import PathOrName, parse_options
from eval_recipes.official_kit import embeddings
from eval_recipes.official_process import describe, problem_loading

HUB_MODULE = """
import torch
class Model(torch.nn.Linear):
    sample_rate, scene_embedding_size, timestamp_embedding_size = 16000, 4, 4
def load_model(file="default", scale=None):
    if file not in ("default", "owner/name", "known"):
        raise FileNotFoundError(f"nobody has published {file}")
    return Model(1, 1).eval()
def get_scene_embeddings(audio, model):
    return audio[:, :4]
def get_timestamp_embeddings(audio, model):
    raise NotImplementedError
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a task and the module `from_hub`, which knows the Hub id owner/name."""
    synthetic_tasks.scene_multiclass(tmp_path / "tasks", clips_per_fold=3)
    (tmp_path / "from_hub.py").write_text(HUB_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "from_hub", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def set_revision(place, revision):
    reference = place / "hub" / "models--owner--name" / "refs" / "main"
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(revision)


def call(*arguments, command=embed, code=0):
    result = CliRunner().invoke(command, ["from_hub", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("key", ["path", "model_path", "model_file_path", "checkpoint", "ckpt", "weights"])
def test_weights_are_no_option(key):
    with pytest.raises(click.BadParameter, match=f"has the key '{key}'; name weights with --model"):
        parse_options(json.dumps({key: "other.pth"}))
    assert parse_options(json.dumps({key: 3, "pathology": "x", "layers": "all"}))


def test_a_modules_own_word_for_its_weights_is_no_option_either(place):
    with pytest.raises(ModuleProblem, match="the option 'file' is the module's checkpoint; name weights"):
        load_module("from_hub", None, {"file": "known"})
    with pytest.raises(ValueError, match="the option 'file' is the module's checkpoint"):
        describe("from_hub", None, {"file": "known"})


def test_files_that_options_name_are_told_by_their_content(tmp_path):
    (tmp_path / "scale.txt").write_text("1")
    options = {"scale": str(tmp_path / "scale.txt"), "layers": [1], "long": "x" * 10_000, "odd": "\0"}
    first = provenance.model_identity("mine", None, options)
    assert first["options"] == options
    (tmp_path / "scale.txt").write_text("2")
    provenance.record(tmp_path / "record.json", first, 0)
    second = provenance.model_identity("mine", None, options)
    assert provenance.difference(tmp_path / "record.json", second).startswith("files_of_options was")
    assert "files_of_options" not in provenance.model_identity("mine", None, {"layers": [1]})


def test_default_weights_are_said_and_recorded_to_be_unknown(place):
    said = "from_hub has the module's own default weights, which are not identified"
    assert said in call("--tasks-dir", "tasks")
    record = next((place / "embeddings").rglob("hear-dasheng.embeddings.json"))
    assert json.loads(record.read_text())["weights"] == provenance.UNIDENTIFIED
    layouts.tones_per_class(place / "tones")
    assert said in call("--dataset", "folder", "--data", "tones", command=knn)
    assert describe("from_hub", None, {})["checkpoint_path"] is None
    assert said not in call("--model", "known", "--out", "known")
    assert "weights" not in json.loads(next((place / "known").rglob("hear-*.json")).read_text())
    log_mel = CliRunner().invoke(embed, ["eval_recipes.baselines.log_mel"])  # it has no weights
    assert log_mel.exit_code == 0
    assert "default weights" not in log_mel.output
    assert describe("eval_recipes.baselines.log_mel", None, {})["checkpoint_path"] == ""
    record = next((place / "embeddings").rglob("*log_mel*/*/hear-dasheng.embeddings.json"))
    assert "weights" not in json.loads(record.read_text())


@pytest.mark.parametrize("name", ["owner/name", "dasheng_base", "https://host/a.pt", "owner/name/file.pth"])
def test_names_are_the_modules_to_find(name):
    assert PathOrName().convert(name, None, None) == name


@pytest.mark.parametrize(
    "text",
    ["", "gone.pt", "runs/last.ckpt", "./gone", "/gone", "../gone", "~/gone", "a/b/c/d", "a b", "gone/"],
)
def test_what_can_be_no_name_is_one_clear_error(text):
    with pytest.raises(click.BadParameter, match=re.escape(f"there is no file or folder {text!r} (seen")):
        PathOrName().convert(text, None, None)


def test_paths_of_the_home_folder_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model.pt").touch()
    assert PathOrName().convert("~/model.pt", None, None) == str(tmp_path / "model.pt")


def test_a_hub_id_is_recorded_with_its_revision(place):
    set_revision(place, "1111\n")
    call("--model", "owner/name")
    record = next((place / "embeddings").rglob("hear-dasheng.embeddings.json"))
    assert json.loads(record.read_text())["identity"]["checkpoint"] == "owner/name@1111"
    assert "already embedded" in call("--model", "owner/name")
    arguments = ["from_hub", "--model", "owner/name", "--embeddings-dir", "official", "--quiet"]
    official = run_command("heareval", "embeddings", *arguments, cwd=place)
    assert official.returncode == 0, official.stderr
    assert "already embedded" in call("--model", "owner/name", "--out", "official")
    set_revision(place, "2222")
    output = call("--model", "owner/name", code=1)
    assert "checkpoint was 'owner/name@1111', now 'owner/name@2222'" in output
    layouts.tones_per_class(place / "tones")
    call("--model", "owner/name", "--dataset", "folder", "--data", "tones", command=knn)
    assert (place / "knn" / "from_hub-owner-name-2222").is_dir()


@pytest.mark.parametrize("command", [embed, embeddings])
def test_a_name_that_the_module_does_not_know_is_one_clear_error(place, command):
    output = call("--model", "owner/nam", command=command, code=1)
    assert "'owner/nam' is no path here, and from_hub.load_model cannot load it as a name: " in output
    assert "nobody has published owner/nam" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("hear_dashen", "hear_dasheng"),
        ("hear_dasheng.dasheng_bas", "hear_dasheng.dasheng_base"),
        ("eval_recipes.baselines.wisper", "eval_recipes.baselines.whisper"),
        ("eval_recipes.baseline.log_mel", "eval_recipes.baselines.log_mel"),
        ("logmel", "eval_recipes.baselines.log_mel"),
        ("wavlm", "eval_recipes.baselines.wavlm"),
        ("fromhub", "from_hub"),
    ],
)
def test_an_unknown_module_gets_the_nearest_name(place, name, meant):
    with pytest.raises(ModuleNotFoundError, match=f"; did you mean {re.escape(meant)}\\?$"):
        import_hear_module(name)


def test_no_module_is_suggested_where_none_is_near(place, monkeypatch):
    monkeypatch.syspath_prepend(place)
    with pytest.raises(ModuleNotFoundError, match="No module named 'quite_another_thing'$"):
        import_hear_module("quite_another_thing")
    (place / "needs.py").write_text("import hear_dashen")
    with pytest.raises(ModuleNotFoundError, match="No module named 'hear_dashen'$"):  # not the user's name
        import_hear_module("needs")


def test_every_command_suggests(place):
    said = "did you mean hear_dasheng?"
    assert said in CliRunner().invoke(embed, ["hear_dashen"]).output
    tones = str(layouts.tones_per_class(place / "tones"))
    arguments = ["hear_dashen", "--dataset", "folder", "--data", tones]
    assert said in CliRunner().invoke(knn, arguments).output
    assert said in problem_loading(["hear_dashen"])  # of `validate`
    with pytest.raises(ModuleNotFoundError, match="did you mean hear_dasheng"):  # of `heareval embeddings`
        describe("hear_dashen", None, {})
