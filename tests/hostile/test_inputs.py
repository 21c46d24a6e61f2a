"""Broken inputs of every kind end in one line, and nothing in them is executed."""

import json
import os
import pickle
import shutil
import struct
import tarfile

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from eval_recipes.embed import embed
from eval_recipes.knn import knn
from eval_recipes.report import build_report, report
from eval_recipes.reporting.page import page
from eval_recipes.score import score
from eval_recipes.tasks import tasks
from hear_dasheng.commands import export, info
from hear_dasheng.tag import tag
from hostile.stage import MODULE, RATE_HZ, TASK, tone, write_dataset

INJECTED = "<script>alert(1)</script>"
VALUES = {
    "null": None,
    "a string": "x",
    "an empty list": [],
    "an empty object": {},
    "a negative number": -1,
    "a large number": 1e308,
    "a flag": True,
    "a list of objects": [{}],
    "markup": INJECTED,
}


def invoke(command, *arguments):
    """Run a command in this process; it must end with code 0, or with 1 or 2 and a message."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (0, 1, 2)
    if result.exit_code:
        assert "Error: " in result.stderr
        assert "Traceback" not in result.output
    return result


def refused(command, *arguments, message=""):
    result = invoke(command, *arguments)
    assert result.exit_code != 0, result.output
    assert message in result.stderr
    return result


def places(value, place=()):
    """Paths to the entries of a JSON value; of a list to the first, since all are read alike."""
    for key, inner in value.items() if isinstance(value, dict) else list(enumerate(value))[:1]:
        yield (*place, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*place, key))


def changed(content, place, value):
    copy = json.loads(json.dumps(content))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copy


def knn_file(stage):
    return next((stage / "knn").rglob("*.knn.json"))


def score_file(stage):
    return stage / "embeddings" / MODULE / TASK / "test.predicted-scores.json"


def check_report_of(path, folder, text):
    """The report of a changed file is refused, or made without its markup."""
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    arguments = [str(folder), "--out", str(folder / "out")]
    try:
        shown = page(build_report([folder]))
    except Exception:  # how it ends for a user is what counts
        refused(report, *arguments)
        return False
    assert INJECTED not in shown
    return True


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("which", ["knn", "scores", "embeddings record", "predictions record", "metadata"])
def test_json_with_wrong_types(stage, tmp_path, which, kind):
    names = {
        "scores": "test.predicted-scores.json",
        "embeddings record": "hear-dasheng.embeddings.json",
        "predictions record": "hear-dasheng.predictions.json",
        "metadata": "task_metadata.json",
    }
    if which == "knn":
        path = tmp_path / "model" / "data" / knn_file(stage).name
        path.parent.mkdir(parents=True)
        shutil.copy(knn_file(stage), path)
    else:
        shutil.copytree(stage / "embeddings" / MODULE / TASK, tmp_path / TASK)
        path = tmp_path / TASK / names[which]
    content = json.loads(path.read_text())
    n_accepted = 0
    for place in [place for place in places(content) if "per_seed" not in place]:
        text = json.dumps(changed(content, place, VALUES[kind]))
        n_accepted += check_report_of(path, tmp_path, text)
    assert n_accepted < len(list(places(content)))


TEXTS = {
    "not UTF-8": '{"a": "\udcff"}',
    "not JSON": "{",
    "empty": "",
    "a list": "[]",
    "a key twice": '{"accuracy": 0.5, "accuracy": 0.9}',
    "deep": "[" * 100_000 + "]" * 100_000,
    "a huge integer": '{"accuracy": ' + "9" * 10_000 + "}",
    "NaN": '{"accuracy": NaN}',
    "a surrogate": '{"title": "\\ud800"}',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_json_that_is_none(stage, tmp_path, text):
    shutil.copytree(stage / "embeddings" / MODULE / TASK, tmp_path / "tasks" / TASK)
    name = knn_file(stage).name
    (tmp_path / "near").mkdir()
    for folder, file in (("tasks", f"{TASK}/test.predicted-scores.json"), ("near", name)):
        (tmp_path / folder / file).write_bytes(text.encode("utf-8", "surrogateescape"))
        refused(report, tmp_path / folder, "--out", tmp_path / "out", message=file.split("/")[-1])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("accuracy", ["NaN", "1e308", "-0.1", "1.01", "true", '"0.5"'])
def test_accuracies_that_cannot_be(stage, tmp_path, accuracy):
    content = json.loads(knn_file(stage).read_text()) | {"accuracy": "here"}
    (tmp_path / "a.knn.json").write_text(json.dumps(content).replace('"here"', accuracy))
    refused(report, tmp_path, "--out", tmp_path / "out", message="a.knn.json")


def test_scores_that_cannot_be_are_shown_with_a_warning(stage, tmp_path):
    shutil.copytree(stage / "embeddings" / MODULE / TASK, tmp_path / TASK)
    path = tmp_path / TASK / "test.predicted-scores.json"
    content = json.loads(path.read_text())
    content["test"]["test_top1_acc"] = 1.7
    path.write_text(json.dumps(content))
    result = invoke(report, tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "1.7, but lies between 0 and 1" in result.stderr


def edited(stage, **config):
    content = torch.load(stage / "tiny.pt", weights_only=True)
    return {"model": dict(content["model"]), "config": content["config"] | config}


def with_weight(change):
    def make(stage):
        content = edited(stage)
        name = "blocks.0.mlp.fc1.weight"
        content["model"][name] = change(content["model"][name])
        return content

    return make


CHECKPOINTS = {
    "int8": with_weight(lambda weight: weight.to(torch.int8)),
    "sparse": with_weight(lambda weight: weight.to_sparse()),
    "meta": with_weight(lambda weight: weight.to("meta")),
    "complex": with_weight(lambda weight: weight.to(torch.complex64)),
    "a string": with_weight(lambda weight: "weights"),
    "NaN": with_weight(lambda weight: weight * torch.nan),
    "another shape": with_weight(lambda weight: weight[:1]),
    "no heads": lambda stage: edited(stage, num_heads=0),
    "heads by name": lambda stage: edited(stage, num_heads="three"),
    "options in a list": lambda stage: {**edited(stage), "config": {"encoder_kwargs": [1]}},
    "arguments as text": lambda stage: {**edited(stage), "config": {"model_args": "hello"}},
    "a list": lambda stage: [1, 2],
    "nothing": lambda stage: {},
}


@pytest.mark.parametrize("make", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_checkpoints_that_cannot_be(stage, tmp_path, make):
    torch.save(make(stage), tmp_path / "broken.pt")
    for command, arguments in ((info, ()), (export, (tmp_path / "copy",))):
        result = refused(command, tmp_path / "broken.pt", *arguments, message="broken.pt")
        assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["broken.pt"]


@pytest.mark.parametrize("length", [0, 1, 100, 5_000])
@pytest.mark.parametrize("name", ["tiny.pt", "model.safetensors"])
def test_checkpoints_that_are_cut(stage, tmp_path, name, length):
    source = stage / "tiny" / name if "safe" in name else stage / name
    (tmp_path / name).write_bytes(source.read_bytes()[:length])
    assert refused(info, tmp_path / name, message=name).stderr.count("\n") == 1


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write_parts(file, payload):
    np.savez(file, identity=np.array(payload, object), keys=np.array(payload, object), vectors=np.zeros(1))


PICKLES = {
    "raw .pt": ("x.pt", lambda path, payload: path.write_bytes(pickle.dumps(payload))),
    "zipped .pt": ("x.pt", lambda path, payload: torch.save({"model": payload}, path)),
    "legacy .pt": (
        "x.pt",
        lambda path, payload: torch.save([payload], path, _use_new_zipfile_serialization=False),
    ),
    "safetensors": ("x.safetensors", lambda path, payload: path.write_bytes(pickle.dumps(payload))),
    "labels": ("test.target-labels.pkl", lambda path, payload: path.write_bytes(pickle.dumps([payload]))),
    "a clip's .npy": (
        "test/test0.wav.embedding.npy",
        lambda path, payload: np.save(path, np.array([payload], object)),
    ),
    "a part's .npz": ("part-000000.npz", write_parts),
}


@pytest.mark.parametrize("form", PICKLES)
def test_pickles_are_not_executed(stage, tmp_path, form):
    name, write = PICKLES[form]
    payload, proof = Payload(tmp_path / "executed"), tmp_path / "executed"
    if name.startswith("x."):
        write(tmp_path / name, payload)
        refused(info, tmp_path / name)
    elif "part" in name:
        shutil.copytree(stage / "knn", tmp_path / "knn")
        folder = knn_file(tmp_path).parent
        (folder / "embeddings.parts").mkdir()
        write(folder / "embeddings.parts" / name, payload)
        data = ("--dataset", "folder", "--data", stage / "data", "--k", 1)
        refused(knn, MODULE, *data, "--out", tmp_path / "knn", message="is damaged")
    else:
        out = tmp_path / "out"
        shutil.copytree(stage / "embeddings", out)
        task = out / MODULE / TASK
        write(task / name, payload)
        if "labels" in name:
            refused(score, task, "--redo", message="asks for")
        else:  # as a stopped run leaves it
            (task / ".done.embeddings").unlink()
            (task / "hear-dasheng.embeddings.json").rename(task / ".hear-dasheng.begun.json")
            refused(embed, MODULE, "--tasks-dir", stage / "tasks", "--out", out, message="is damaged")
    assert not proof.exists()


NAMES = [
    os.fsdecode(b"caf\xe9.wav"),
    "new\nline.wav",
    "$_and_$_.wav",
    INJECTED.replace("/", "|") + ".wav",
    " .wav",
    "-x.wav",
    "n" * 251 + ".wav",
    "🎵.wav",
    "a'b\"c%s{}.wav",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_of_files(stage, tmp_path, name):
    data = write_dataset(tmp_path / "data")
    for folder in ("low", "high"):
        soundfile.write(os.fsencode(data / folder / name), tone(500 if folder == "low" else 2500), RATE_HZ)
    options = ("--dataset", "folder", "--k", 1, "--out", tmp_path / "knn")
    assert invoke(knn, MODULE, "--data", data, *options).exit_code == 0
    assert "used again" in invoke(knn, MODULE, "--data", data, *options).output
    assert invoke(report, tmp_path / "knn", "--out", tmp_path / "report").exit_code == 0
    json_path = tmp_path / "tags.json"
    arguments = (
        data / "low" / name,
        data / "low" / "0.wav",
        "--model",
        stage / "tagger",
        "--json",
        json_path,
    )
    for _ in range(2):  # the second run reads the file of the first
        assert invoke(tag, *arguments).exit_code == 0
    assert len(json.loads(json_path.read_text("utf-8"))["files"]) == 2


def test_classes_named_in_bytes_that_are_no_utf8(tmp_path):
    data = write_dataset(tmp_path / "data")
    (data / "low").rename(data / os.fsdecode(b"l\xf6w"))
    options = ("--dataset", "folder", "--data", data, "--k", 1, "--out", tmp_path / "knn")
    assert invoke(knn, MODULE, *options).exit_code == 0
    assert invoke(report, tmp_path / "knn", "--out", tmp_path / "report").exit_code == 0
    assert "l\\xf6w" in json.loads(knn_file(tmp_path).read_text())["accuracy_by_class"]


def with_rate(path, rate_hz):
    """A WAV file whose header states another sample rate."""
    soundfile.write(path, tone(440, 1.0), RATE_HZ)
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", rate_hz)
    path.write_bytes(content)


@pytest.mark.parametrize("rate_hz", [1, 999, 1_000_001, 0xF0000000])
def test_sample_rates_that_cannot_be(stage, tmp_path, rate_hz):
    data = write_dataset(tmp_path / "data")
    with_rate(data / "low" / "0.wav", rate_hz)
    refused(tag, data / "low" / "0.wav", "--model", stage / "tagger", message="0.wav")
    options = ("--dataset", "folder", "--data", data, "--k", 1, "--out", tmp_path / "knn")
    refused(knn, MODULE, *options, message="low/0.wav")
    assert invoke(knn, MODULE, *options, "--allow-incomplete").exit_code == 0


@pytest.mark.parametrize("fault", ["vanishes", "out of scale"])
def test_incomplete_data_goes_on_without_clips_that_the_module_refuses(stage, tmp_path, fault):
    data = write_dataset(tmp_path / "data")
    for number in range(3):
        path = data / "low" / f"bad{number}.wav"
        if fault == "vanishes":
            soundfile.write(path, np.zeros(1), 96_000)
        else:
            soundfile.write(path, 20_000 * tone(440 + number), RATE_HZ, subtype="FLOAT")
    module = ("hear_dasheng", "--model", stage / "tiny")
    options = ("--dataset", "folder", "--data", data, "--k", 1, "--out", tmp_path / "knn")
    refused(knn, *module, *options, message="bad")
    assert invoke(knn, *module, *options, "--allow-incomplete").exit_code == 0
    left_out = json.loads(knn_file(tmp_path).read_text())["left_out"]
    assert sorted(left_out) == [f"low/bad{number}.wav" for number in range(3)]


NUMBERS = ["nan", "inf", "-inf", "0", "-1", "1e400", "x"]


@pytest.mark.parametrize("value", NUMBERS)
def test_numbers_on_the_command_line(stage, tmp_path, value):
    data = ("--dataset", "folder", "--data", stage / "data", "--out", tmp_path / "out")
    embedding = ("--tasks-dir", stage / "tasks", "--out", tmp_path / "out")
    refused(embed, MODULE, *embedding, "--batch-seconds", value, message="--batch-seconds")
    refused(knn, MODULE, *data, "--temperature", value, message="--temperature")
    refused(knn, MODULE, *data, "--k", value, message="--k")
    refused(tag, stage / "a.wav", "--model", stage / "tagger", "--step", value, message="--step")
    refused(tag, stage / "a.wav", "--model", stage / "tagger", "--top", value, message="--top")
    refused(info, stage / "tiny", "--num-heads", value, message="--num-heads")
    for option in ("--seeds", "--grid-points"):
        refused(score, stage / "embeddings" / MODULE, option, value, message=option)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", ['{"a": 1, "a": 2}', "[1]", "{", "[" * 5_000, '{"a": NaN}', "x" * 300])
def test_model_options(stage, tmp_path, options):
    arguments = ("--tasks-dir", stage / "tasks", "--out", tmp_path / "out", "--model-options", options)
    refused(embed, MODULE, *arguments, message="--model-options")


def test_a_model_name_of_300_characters(stage, tmp_path):
    arguments = ("--tasks-dir", stage / "tasks", "--out", tmp_path / "out", "--model", "m" * 300)
    refused(embed, MODULE, *arguments)
    refused(info, "m" * 300)


def member(name, kind=tarfile.REGTYPE, target=""):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


MEMBERS = {
    "a path upwards": member(f"tasks/{TASK}/48000/test/../../../../victim"),
    "an absolute path": member("/tmp/victim"),
    "a link": member(f"tasks/{TASK}/48000/test/a.wav", tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link": member(f"tasks/{TASK}/48000/test/a.wav", tarfile.LNKTYPE, "/etc/passwd"),
    "a FIFO": member(f"tasks/{TASK}/48000/test/a.wav", tarfile.FIFOTYPE),
    "a device": member(f"tasks/{TASK}/48000/test/a.wav", tarfile.CHRTYPE),
}


@pytest.mark.parametrize("entry", MEMBERS.values(), ids=MEMBERS)
def test_members_of_archives(tmp_path, entry):
    with tarfile.open(tmp_path / "task.tar", "w") as tar:
        tar.addfile(entry)
    refused(tasks, "import", tmp_path / "task.tar", "--out", tmp_path / "out")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "task.tar"]
