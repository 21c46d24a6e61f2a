"""`hear-dasheng tag`: tables and JSON; files that fail; disks that fill; runs that stop."""

import errno
import json

import numpy as np
import pytest
import soundfile
import torch
from conftest import REPOSITORY, run_command
from tagging_cases import NAMES, invoke

from hear_dasheng.classifier import new_classifier
from hear_dasheng.classifier_checkpoint import export_classifier
from hear_dasheng.export import new_encoder
from hear_dasheng.tag_record import clock, table
from hear_dasheng.tagger import Tagger, load_tagger

pytestmark = pytest.mark.usefixtures("one_thread")


def read(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no strict JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_labels_over_time_are_those_of_the_sounds(sound_folder, fitted_checkpoint):
    result = invoke(
        "scene.flac", "short.wav", "--model", fitted_checkpoint, "--step", 2, "--top", 2, "--json", "o.json"
    )
    assert result.exit_code == 0, result.output
    content = read(sound_folder / "o.json")
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


def test_the_json_says_what_the_tagger_says_and_what_it_was_made_from(sound_folder, fitted_checkpoint):
    assert invoke("scene.flac", "--model", fitted_checkpoint, "--top", 4, "--json", "out.json").exit_code == 0
    content = read(sound_folder / "out.json")
    tags = load_tagger(fitted_checkpoint).tag_file("scene.flac")
    whole = {label["index"]: label["probability"] for label in content["files"][0]["whole"]}
    assert [whole[index] for index in range(4)] == pytest.approx(tags.whole.tolist(), abs=1e-6)
    assert content["files"][0]["seconds"] == 8
    assert content["made_by"]["step_s"] == 10.08
    assert len(content["made_by"]["sha256"]["model.safetensors"]) == 64
    assert content["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {path.name for path in sound_folder.iterdir()} == {"scene.flac", "short.wav", "out.json"}


def test_bad_files_are_named_and_the_others_go_on(sound_folder, fitted_checkpoint):
    (sound_folder / "broken.wav").write_text("no audio")
    arguments = ("gone.wav", "broken.wav", ".", "short.wav")
    arguments += ("--model", fitted_checkpoint, "--json", "out.json")
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert "short.wav  (0:01.0)" in result.stdout
    assert "not tagged: no audio file at gone.wav" in result.stderr
    assert "not tagged: . is a folder; name the audio files in it, e.g. *.wav" in result.stderr
    assert "not tagged: cannot decode broken.wav: Error opening 'broken.wav'" in result.stderr
    assert result.stderr.rstrip().endswith("Error: 3 of 4 files could not be tagged; see above")
    content = read(sound_folder / "out.json")
    assert [entry["file"] for entry in content["files"]] == ["short.wav"]
    assert [entry["file"] for entry in content["not_tagged"]] == ["gone.wav", "broken.wav", "."]
    soundfile.write(sound_folder / "broken.wav", np.zeros(16_000), 16_000)
    soundfile.write(sound_folder / "gone.wav", np.zeros(16_000), 16_000)
    assert invoke("gone.wav", "broken.wav", *arguments[3:]).exit_code == 0
    assert not [entry for entry in read(sound_folder / "out.json")["not_tagged"] if entry["file"] != "."]


def test_a_stopped_run_goes_on(sound_folder, fitted_checkpoint, monkeypatch):
    arguments = ("short.wav", "scene.flac", "--model", fitted_checkpoint, "--json", "out.json")
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
    assert [entry["file"] for entry in read(sound_folder / "out.json")["files"]] == ["short.wav"]
    stops = False
    result = invoke(*arguments)
    assert result.exit_code == 0
    assert tagged == ["short.wav", "scene.flac"]
    assert "short.wav  (0:01.0)" in result.output  # shown again, not computed again
    soundfile.write("short.wav", np.zeros(8_000), 16_000)
    assert invoke(*arguments).exit_code == 0
    assert tagged == ["short.wav", "scene.flac", "short.wav"]
    assert {entry["file"]: entry["seconds"] for entry in read(sound_folder / "out.json")["files"]} == {
        "short.wav": 0.5,
        "scene.flac": 8,
    }


def test_results_of_another_kind_are_not_mixed(sound_folder, fitted_checkpoint):
    arguments = ("short.wav", "--model", fitted_checkpoint, "--json", "out.json")
    assert invoke(*arguments).exit_code == 0
    before = (sound_folder / "out.json").read_text()
    result = invoke(*arguments, "--step", 1)
    assert result.exit_code == 1
    assert "out.json holds tags of another step_s (10.08, now 1.0); delete it or choose" in result.output
    other = export_classifier(new_classifier(new_encoder("tiny"), NAMES), sound_folder / "other")
    result = invoke("short.wav", "--model", other, "--json", "out.json")
    assert "out.json holds tags of another checkpoint" in result.output
    assert (sound_folder / "out.json").read_text() == before
    (sound_folder / "out.json").write_text("[]")
    assert "out.json exists and holds no tags" in invoke(*arguments).output
    for content in ({"made_by": "me", "files": []}, {"made_by": {}, "files": [3]}, {"files": {}}):
        (sound_folder / "out.json").write_text(json.dumps(content))
        assert "out.json exists and holds no tags; delete it or choose" in invoke(*arguments).output
    (sound_folder / "out.json").write_text("{")
    assert "out.json is not strict JSON" in invoke(*arguments).output


def test_folders_of_what_is_written_are_made(sound_folder, fitted_checkpoint):
    options = ("--json", "new/deep/out.json", "--plot", "pictures/out.png")
    result = invoke("short.wav", "--model", fitted_checkpoint, *options)
    assert result.exit_code == 0, result.output
    assert read(sound_folder / "new/deep/out.json")["files"]
    assert (sound_folder / "pictures/out.png").stat().st_size > 1_000


@pytest.mark.parametrize("option", [("--json", "out.json"), ("--plot", "out.png")])
def test_a_full_disk_is_told_as_one_and_ends_the_work(sound_folder, fitted_checkpoint, monkeypatch, option):
    def full(path, *content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    writer = "tag_record.lone_atomic_file" if "json" in option[1] else "tag_plot.lone_atomic_file"
    monkeypatch.setattr(f"hear_dasheng.{writer}", full)
    monkeypatch.setattr("hear_dasheng.tag_record.SAVE_EVERY_S", 0)
    result = invoke("short.wav", "scene.flac", "--model", fitted_checkpoint, *option)
    assert result.exit_code == 1
    assert "not tagged" not in result.output
    assert "short.wav  (0:01.0)" in result.output
    assert f"Error: {option[1]}: No space left on device; free some space" in result.output
    assert ("scene.flac  (" in result.output) == (option[0] == "--plot")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "gone.pt"], "no checkpoint at 'gone.pt'"),
        (["--step", "0.01"], "steps of 0.01 s are not possible; give 0.04 s or more"),
        (["--device", "cuda:99"], "is not available here"),
        (["--num-heads", "2"], "contradicts"),
    ],
)
def test_wrong_options(sound_folder, fitted_checkpoint, arguments, message):
    result = invoke("short.wav", "--model", fitted_checkpoint, *arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output


def test_an_encoder_without_a_head_is_refused(sound_folder, tiny_folder):
    result = run_command("tag", "short.wav", "--model", str(tiny_folder), cwd=sound_folder)
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
