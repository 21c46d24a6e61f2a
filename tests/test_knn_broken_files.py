"""Files that are missing or cannot be read: told together, before and while clips are embedded."""

import dataset_layouts as layouts
import numpy as np
import pytest
import soundfile
from knn_cases import call, result_in

from eval_recipes.datasets.audio_files import decoding_fault, faults, header_fault

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def listed(tmp_path):
    """Three classes of tones in a table, of which three files are not as they should be."""
    tones = layouts.tones_per_class(tmp_path / "tones", 5)
    files = sorted(tones.glob("*/*.wav"))
    rows = [(file.relative_to(tmp_path), file.parent.name) for file in files]
    layouts.write_table(tmp_path / "mine.csv", "filename,label", rows)
    (tones / "low/0.wav").write_bytes(b"no sound")
    (tones / "low/1.wav").unlink()
    soundfile.write(tones / "high/2.wav", np.zeros(0), 16_000)
    return tmp_path / "mine.csv"


def test_all_are_listed_at_once_before_anything_is_embedded(listed, tmp_path):
    failed = call("--dataset", "list", "--data", listed, "--out", tmp_path / "knn", "--k", "2")
    assert failed.exit_code == 1
    assert "it lists 15 clips, 1 missing: tones/low/1.wav" in failed.output
    assert (
        "it lists 15 clips, 2 that cannot be read: tones/high/2.wav (it holds no samples), "
        "tones/low/0.wav (Format not recognised)"
    ) in failed.output
    assert "--allow-incomplete" in failed.output
    assert not list((tmp_path / "knn").rglob("embeddings*"))


def test_one_can_go_on_without_them(listed, tmp_path):
    options = ("--dataset", "list", "--data", listed, "--out", tmp_path / "knn", "--k", "2")
    ran = call(*options, "--allow-incomplete")
    assert ran.exit_code == 0, ran.output
    result = result_in(ran.stdout)
    assert result["n_clips"] == 12
    assert result["left_out"] == {
        "tones/high/2.wav": "it holds no samples",
        "tones/low/0.wav": "Format not recognised",
        "tones/low/1.wav": "missing",
    }
    assert len(result["deviations"]) == 2
    assert "of an incomplete data set" in ran.stdout
    table = listed.read_text().splitlines(keepends=True)
    names = ("low/0.wav", "low/1.wav", "high/2.wav")
    listed.write_text("".join(line for line in table if not any(name in line for name in names)))
    without = call(*options)
    assert without.exit_code == 0, without.output
    assert "embeddings of 12 clips used again" in without.output
    assert result_in(without.stdout)["deviations"] == []


def test_what_only_decoding_shows_is_found_with_what_is_embedded_kept(tmp_path):
    tones = layouts.tones_per_class(tmp_path / "tones", 5)
    for name, samples in (("low/0.wav", [0.0] * 5000 + [np.nan]), ("middle/3.wav", [np.inf] * 5000)):
        soundfile.write(tones / name, np.array(samples), 16_000, subtype="FLOAT")
    options = ("--dataset", "folder", "--data", tones, "--out", tmp_path / "knn", "--k", "2")
    failed = call(*options)
    assert failed.exit_code == 1
    assert "2 that cannot be read: low/0.wav (it holds samples that are no finite numbers)" in failed.output
    assert "middle/3.wav" in failed.output
    ran = call(*options, "--allow-incomplete")
    assert ran.exit_code == 0, ran.output
    assert result_in(ran.stdout)["n_clips"] == 13
    assert list(result_in(ran.stdout)["left_out"]) == ["low/0.wav", "middle/3.wav"]
    (tones / "low/0.wav").unlink()
    (tones / "middle/3.wav").unlink()
    assert "embeddings of 13 clips used again" in call(*options).output


def test_too_few_that_are_left_are_refused(tmp_path):
    tones = layouts.tones_per_class(tmp_path / "tones", 2)
    for file in [*tones.glob("low/*"), *tones.glob("high/*")]:
        file.write_bytes(b"no sound")
    failed = call("--dataset", "folder", "--data", tones, "--out", tmp_path, "--k", "1", "--allow-incomplete")
    assert "has clips of one class left; two are needed" in failed.output
    for file in tones.glob("middle/*"):
        file.write_bytes(b"no sound")
    failed = call("--dataset", "folder", "--data", tones, "--out", tmp_path, "--k", "1", "--allow-incomplete")
    assert "has no clip at all that can be used" in failed.output


def test_files_are_looked_at_by_header_or_whole(tmp_path):
    layouts.tone(tmp_path / "fine.flac", 300, seconds=1.0)
    content = bytearray((tmp_path / "fine.flac").read_bytes())
    (tmp_path / "cut.flac").write_bytes(content[: len(content) // 2])
    files = {name: tmp_path / name for name in ("fine.flac", "cut.flac", "gone.wav")}
    assert list(faults(files, header_fault)) == ["gone.wav"]
    assert header_fault(tmp_path / "gone.wav")
    assert decoding_fault(tmp_path / "fine.flac") == ""
    assert list(faults(files, decoding_fault)) == ["cut.flac", "gone.wav"]
