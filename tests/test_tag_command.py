"""`hear-dasheng tag`: tables, JSON, pictures; files that fail; runs that stop."""

import json
import sys

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from conftest import REPOSITORY, run_command
from PIL import Image

from hear_dasheng.classifier import new_classifier
from hear_dasheng.classifier_checkpoint import export_classifier
from hear_dasheng.export import new_encoder
from hear_dasheng.tag import tag
from hear_dasheng.tag_plot import likely_classes, tags_figure
from hear_dasheng.tag_record import clock, table
from hear_dasheng.tagger import Tagger, Tags, load_tagger

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("noise", "hum", "clicks", "nothing of these, and a name too long for a table")


def sound(kind: str, seconds: float, generator: np.random.Generator) -> np.ndarray:
    times = np.arange(round(16_000 * seconds)) / 16_000
    if kind == "noise":
        return 0.1 * generator.standard_normal(len(times))
    if kind == "hum":
        return 0.3 * np.sin(2 * np.pi * generator.uniform(50, 120) * times)
    clicks = np.zeros(len(times))
    clicks[:: generator.integers(1_500, 4_000)] = 0.8
    return clicks


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Tells noise, hum and clicks apart: a head that is fitted to an untrained encoder's tokens."""
    generator = np.random.default_rng(0)
    classifier = new_classifier(new_encoder("tiny"), NAMES)
    model = Tagger(classifier).model
    clips = [torch.from_numpy(sound(kind, 1, generator)).float() for kind in NAMES[:3] for _ in range(10)]
    means = model.scene_embeddings(clips)
    truth = torch.eye(4)[torch.arange(3).repeat_interleave(10)]
    head = classifier.outputlayer.requires_grad_(True)
    optimizer = torch.optim.Adam(head.parameters(), 0.03)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(head(means), truth).backward()
        optimizer.step()
    return export_classifier(classifier, tmp_path_factory.mktemp("tag") / "sounds")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a scene in stereo at 48 kHz, and a short clip."""
    generator = np.random.default_rng(1)
    scene = np.concatenate([sound(kind, 2, generator) for kind in ("hum", "noise", "clicks", "hum")])
    soundfile.write(tmp_path / "scene.flac", np.repeat(scene, 3)[:, None].repeat(2, 1), 48_000)
    soundfile.write(tmp_path / "short.wav", sound("noise", 1, generator), 16_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments):
    return CliRunner().invoke(tag, [str(argument) for argument in arguments])


def read(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no strict JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_labels_over_time_are_those_of_the_sounds(folder, checkpoint):
    result = invoke(
        "scene.flac", "short.wav", "--model", checkpoint, "--step", 2, "--top", 2, "--json", "o.json"
    )
    assert result.exit_code == 0, result.output
    content = read(folder / "o.json")
    scene, short = content["files"]
    assert [step["labels"][0]["label"] for step in scene["steps"]] == ["hum", "noise", "clicks", "hum"]
    assert [(step["start_s"], step["end_s"]) for step in scene["steps"]] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert short["whole"][0]["label"] == "noise"
    assert all(len(step["labels"]) == 2 for step in scene["steps"])
    lines = result.output.splitlines()
    assert lines[0] == "scene.flac  (0:08.0)"
    assert [line.split()[4] for line in lines[2:6]] == ["hum", "noise", "clicks", "hum"]
    assert lines[3].startswith("  0:02 - 0:04  ")
    assert lines[6] == "short.wav  (0:01.0)"
    assert lines[7].split()[2] == "noise"


def test_the_json_says_what_the_tagger_says_and_what_it_was_made_from(folder, checkpoint):
    assert invoke("scene.flac", "--model", checkpoint, "--top", 4, "--json", "out.json").exit_code == 0
    content = read(folder / "out.json")
    tags = load_tagger(checkpoint).tag_file("scene.flac")
    whole = {label["index"]: label["probability"] for label in content["files"][0]["whole"]}
    assert [whole[index] for index in range(4)] == pytest.approx(tags.whole.tolist(), abs=1e-6)
    assert content["files"][0]["seconds"] == 8
    assert content["made_by"]["step_s"] == 10.08
    assert len(content["made_by"]["sha256"]["model.safetensors"]) == 64
    assert content["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {path.name for path in folder.iterdir()} == {"scene.flac", "short.wav", "out.json"}


def test_bad_files_are_named_and_the_others_go_on(folder, checkpoint):
    (folder / "broken.wav").write_text("no audio")
    arguments = ("gone.wav", "broken.wav", ".", "short.wav", "--model", checkpoint, "--json", "out.json")
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert "short.wav  (0:01.0)" in result.stdout
    assert "not tagged: no audio file at gone.wav" in result.stderr
    assert "not tagged: cannot decode broken.wav: Error opening 'broken.wav'" in result.stderr
    assert result.stderr.rstrip().endswith("Error: 3 of 4 files could not be tagged; see above")
    content = read(folder / "out.json")
    assert [entry["file"] for entry in content["files"]] == ["short.wav"]
    assert [entry["file"] for entry in content["not_tagged"]] == ["gone.wav", "broken.wav", "."]
    soundfile.write(folder / "broken.wav", np.zeros(16_000), 16_000)
    soundfile.write(folder / "gone.wav", np.zeros(16_000), 16_000)
    assert invoke("gone.wav", "broken.wav", *arguments[3:]).exit_code == 0
    assert not [entry for entry in read(folder / "out.json")["not_tagged"] if entry["file"] != "."]


def test_a_stopped_run_goes_on(folder, checkpoint, monkeypatch):
    arguments = ("short.wav", "scene.flac", "--model", checkpoint, "--json", "out.json")
    tagged = []
    original = Tagger.tag_file

    def tag_file(self, path, *others):
        if stops and path.name == "scene.flac":
            raise KeyboardInterrupt
        tagged.append(path.name)
        return original(self, path, *others)

    monkeypatch.setattr(Tagger, "tag_file", tag_file)
    stops = True
    assert invoke(*arguments).exit_code != 0
    assert [entry["file"] for entry in read(folder / "out.json")["files"]] == ["short.wav"]
    stops = False
    result = invoke(*arguments)
    assert result.exit_code == 0
    assert tagged == ["short.wav", "scene.flac"]
    assert "short.wav  (0:01.0)" in result.output  # shown again, not computed again
    soundfile.write("short.wav", np.zeros(8_000), 16_000)
    assert invoke(*arguments).exit_code == 0
    assert tagged == ["short.wav", "scene.flac", "short.wav"]
    assert {entry["file"]: entry["seconds"] for entry in read(folder / "out.json")["files"]} == {
        "short.wav": 0.5,
        "scene.flac": 8,
    }


def test_results_of_another_kind_are_not_mixed(folder, checkpoint):
    arguments = ("short.wav", "--model", checkpoint, "--json", "out.json")
    assert invoke(*arguments).exit_code == 0
    before = (folder / "out.json").read_text()
    result = invoke(*arguments, "--step", 1)
    assert result.exit_code == 1
    assert "out.json holds tags of another step_s (10.08, now 1.0); delete it or choose" in result.output
    other = export_classifier(new_classifier(new_encoder("tiny"), NAMES), folder / "other")
    result = invoke("short.wav", "--model", other, "--json", "out.json")
    assert "out.json holds tags of another checkpoint" in result.output
    assert (folder / "out.json").read_text() == before
    (folder / "out.json").write_text("[]")
    assert "out.json exists and holds no tags" in invoke(*arguments).output
    assert "there is no folder nowhere" in invoke(*arguments[:-1], "nowhere/out.json").output


def test_a_picture(folder, checkpoint):
    result = invoke("scene.flac", "short.wav", "--model", checkpoint, "--step", 1, "--plot", "out.png")
    assert result.exit_code == 0, result.output
    with Image.open(folder / "out.png") as image:
        assert image.size[0] > 1_000
    for name in ("out.svg", "out.pdf"):
        assert invoke("short.wav", "--model", checkpoint, "--plot", name).exit_code == 0
        assert (folder / name).stat().st_size > 1_000


def test_the_picture_shows_the_probabilities():
    steps = np.array([[0.9, 0.001, 0.2], [0.1, 0.002, 0.95]], np.float32)
    tags = Tags(4.0, steps.mean(0), steps, np.array([0.0, 2.0, 4.0]))
    assert likely_classes(tags) == [2, 0]
    figure = tags_figure({"a.wav": tags}, ("dog", "cat", "rain"))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rain", "dog"]
    assert axes.get_title(loc="left") == "a.wav"
    drawn = axes.collections[0].get_array()
    assert np.allclose(np.ravel(drawn), [0.2, 0.95, 0.9, 0.1])
    nothing = Tags(4.0, 0 * steps.mean(0), 0 * steps, tags.edges_s)
    assert likely_classes(nothing) == [0]


def test_a_picture_that_cannot_be_is_refused_before_the_work(folder, checkpoint, monkeypatch):
    monkeypatch.setattr(Tagger, "tag_file", None)
    files = [f"{number}.wav" for number in range(13)]
    assert "--plot draws 12 files at most, not 13" in invoke(*files, "--plot", "a.png").output
    assert "name a .png, .pdf or .svg file" in invoke("a.wav", "--plot", "a.tiff").output
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = invoke("a.wav", "--plot", "a.png")
    assert result.exit_code == 1
    assert "--plot needs the package matplotlib" in result.output
    assert "pip install '.[plots]'" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "gone.pt"], "no checkpoint at 'gone.pt'"),
        (["--step", "0.01"], "steps of 0.01 s are not possible; give 0.04 s or more"),
        (["--device", "cuda:99"], "is not available here"),
        (["--num-heads", "2"], "contradicts"),
    ],
)
def test_wrong_options(folder, checkpoint, arguments, message):
    result = invoke("short.wav", "--model", checkpoint, *arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output


def test_an_encoder_without_a_head_is_refused(folder, tiny_folder):
    result = run_command("tag", "short.wav", "--model", str(tiny_folder), cwd=folder)
    assert result.returncode == 1
    assert "holds an encoder and no classifier" in result.stderr


def test_a_table_cuts_long_names_and_leaves_out_zeros():
    labels = [
        {"label": NAMES[3], "probability": 0.75},
        {"label": "hum", "probability": 0.004},
    ]
    none = [{"label": "noise", "probability": 0.001}, {"label": "hum", "probability": 0.0}]
    steps = [
        {"start_s": 0.0, "end_s": 10.08, "labels": labels},
        {"start_s": 10.08, "end_s": 12.0, "labels": none},
    ]
    entry = {"file": "a.wav", "seconds": 12.0, "whole": labels, "steps": steps}
    assert table(entry).splitlines() == [
        "a.wav  (0:12.0)",
        "  whole              0.75 nothing of these, and a...",
        "  0:00.00 - 0:10.08  0.75 nothing of these, and a...",
        "  0:10.08 - 0:12.00  0.00 noise",
    ]


def test_clock():
    assert [clock(0.96, 1), clock(3599.999, 2), clock(36_000.0, 0)] == ["0:01.0", "1:00:00.00", "10:00:00"]


def test_the_list_of_classes_is_shipped():
    setup = (REPOSITORY / "setup.py").read_text()
    assert '"hear_dasheng": ["data/*.csv"]' in setup
    text = (REPOSITORY / "hear_dasheng/data/audioset_labels.csv").read_text()
    assert "CC BY 4.0" in text
