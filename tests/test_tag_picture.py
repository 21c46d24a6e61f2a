"""The picture of `hear-dasheng tag`: what it shows, and when there can be none."""

import sys

import numpy as np
import pytest
from PIL import Image
from tagging_cases import invoke

from hear_dasheng.tag_plot import draw_tags, likely_classes, tags_figure
from hear_dasheng.tagger import Tagger, Tags

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_picture(sound_folder, fitted_checkpoint):
    result = invoke("scene.flac", "short.wav", "--model", fitted_checkpoint, "--step", 1, "--plot", "out.png")
    assert result.exit_code == 0, result.output
    with Image.open(sound_folder / "out.png") as image:
        assert image.size[0] > 1_000
    for name in ("out.svg", "out.pdf"):
        assert invoke("short.wav", "--model", fitted_checkpoint, "--plot", name).exit_code == 0
        assert (sound_folder / name).stat().st_size > 1_000


def test_names_that_look_like_formulas_are_drawn_as_they_are(tmp_path):
    steps = np.full((4, 2), 0.5, np.float32)
    tags = Tags(8.0, steps.mean(0), steps, np.linspace(0, 8.0, 5))
    path = tmp_path / "out.svg"
    draw_tags({"cash_$_and_$_.wav": tags}, ("$_a_$", "dog"), path, 2)
    assert path.stat().st_size > 1_000


def picture_of(names, tops, seconds=8.0):
    steps = np.random.default_rng(0).uniform(0.1, 1, (4, len(names))).astype(np.float32)
    tags = Tags(seconds, steps.mean(0), steps, np.linspace(0, seconds, 5))
    return tags_figure({"a.wav": tags}, names, tops)


def test_the_picture_has_as_many_labels_as_asked_for():
    names = tuple(f"class {number}" for number in range(9))
    for top in (1, 2, 5, 20):
        assert len(picture_of(names, top).axes[0].get_yticklabels()) == min(top, 9)


@pytest.mark.parametrize("names", [("dog", "cat"), ("Hubbub, speech noise, speech babble, far away", "cat")])
def test_labels_fill_the_place_left_of_the_panel(names):
    figure = picture_of(names, 2)
    figure.canvas.draw()
    labels = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    left = min(extent.x0 for extent in labels)
    assert 0 <= left <= 0.12 * figure.bbox.width


def test_the_picture_shows_the_probabilities():
    steps = np.array([[0.9, 0.001, 0.2], [0.1, 0.002, 0.95]], np.float32)
    tags = Tags(4.0, steps.mean(0), steps, np.array([0.0, 2.0, 4.0]))
    assert likely_classes(tags, 10) == [2, 0]
    figure = tags_figure({"a.wav": tags}, ("dog", "cat", "rain"), 10)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rain", "dog"]
    assert axes.get_title(loc="left") == "a.wav"
    drawn = axes.collections[0].get_array()
    assert np.allclose(np.ravel(drawn), [0.2, 0.95, 0.9, 0.1])
    nothing = Tags(4.0, 0 * steps.mean(0), 0 * steps, tags.edges_s)
    assert likely_classes(nothing, 10) == [0]


def test_a_picture_that_cannot_be_is_refused_before_the_work(sound_folder, fitted_checkpoint, monkeypatch):
    monkeypatch.setattr(Tagger, "tag_file", None)
    files = [f"{number}.wav" for number in range(13)]
    assert "--plot draws 12 files at most, not 13" in invoke(*files, "--plot", "a.png").output
    (sound_folder / "taken").write_text("")
    assert "taken/x is no folder and cannot be" in invoke("a.wav", "--plot", "taken/x/a.png").output
    assert "name a .png, .pdf or .svg file" in invoke("a.wav", "--plot", "a.tiff").output
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = invoke("a.wav", "--plot", "a.png")
    assert result.exit_code == 1
    assert "--plot needs the package matplotlib" in result.output
    assert "pip install '.[plots]'" in result.output
