"""The geometry of the report's charts, and its colours."""

import math
import re
from itertools import pairwise

import pytest
from conftest import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st
from report_cases import scored_benchmark, scored_task

from eval_recipes.report import build_report, report_files
from eval_recipes.reporting.charts import (
    LEAST,
    MIN_AXES,
    MOST,
    RadarLine,
    look,
    radar,
    task_bars,
    whiskers_over,
)
from eval_recipes.reporting.pictures import PALETTE
from eval_recipes.reporting.radar_svg import LINE_CHARACTERS, MOST_LINES, RIM, svg_radar, title_lines

CSS = (REPOSITORY / "eval_recipes/reporting/templates/page.css").read_text()


@pytest.fixture(scope="module")
def full_report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    one = scored_benchmark(folder / "one", 0)
    two = scored_benchmark(folder / "two", 1, without=("esc50-v2.0.0-full",))
    return build_report([one, two])


@given(st.text("ab _-", max_size=60).map(str.strip))
def test_titles_fit_beside_their_axis(title):
    lines = title_lines(title)
    assert 1 <= len(lines) <= MOST_LINES
    assert all(len(line) <= LINE_CHARACTERS for line in lines)
    if not any("…" in line for line in lines):
        assert "".join(lines).replace(" ", "") == title.replace(" ", "")


@given(st.lists(st.none() | st.floats(0, 1), min_size=MIN_AXES, max_size=12))
def test_a_radar_line_joins_neighbours_that_both_have_a_score(shares):
    n = len(shares)
    joined = {
        frozenset(pair) for run in RadarLine("m", look(0), tuple(shares)).runs() for pair in pairwise(run)
    }
    neighbours = [(place, (place + 1) % n) for place in range(n)]
    both = [pair for pair in neighbours if None not in (shares[pair[0]], shares[pair[1]])]
    assert joined == {frozenset(pair) for pair in both}


def test_the_best_score_lies_on_the_rim(full_report):
    drawn = radar(full_report.columns, full_report.rows)
    assert drawn is not None
    assert len(drawn.axes) == 18
    assert "Beehive" not in {axis.domain for axis in drawn.axes}
    for place, axis in enumerate(drawn.axes):
        shares = [line.shares[place] for line in drawn.lines if line.shares[place] is not None]
        assert max(shares) == pytest.approx(1.0)
        assert math.hypot(*axis.place(RIM)) == pytest.approx(RIM)
    assert svg_radar(drawn).axes[0].end == ("0.0", "-165.0")
    assert drawn.lines[1].shares[1] is None


def bars_of(tmp_path, folds, **options):
    scored_task(tmp_path / "model/esc50-v2.0.0-full", "top1_acc", folds, **options)
    report = build_report([tmp_path / "model"], with_paper=False)
    return task_bars(report.columns, report.rows), report_files(report)


def test_a_line_over_a_bar_says_what_it_is_over(tmp_path):
    groups, files = bars_of(tmp_path / "folds", [0.5, 0.7])
    (bar,) = groups[0].bars
    half = 10 * 2**0.5
    assert (bar.whisker.start, bar.whisker.end) == pytest.approx((60 - half, 60 + half))
    assert (bar.whisker.over, bar.whisker.is_cut) == ("folds", (False, False))
    assert bar.spread == "± 14.1 over 2 folds"
    assert whiskers_over(groups) == ["folds"]
    page = files["index.html"].decode()
    assert "dashed over folds" in page
    assert "unbroken over seeds" not in page
    assert f'title="{bar.spread}"' in page
    groups, files = bars_of(tmp_path / "seeds", [0.5, 0.7], seeds_std=0.03)
    (bar,) = groups[0].bars
    assert (bar.whisker.start, bar.whisker.end, bar.whisker.over) == pytest.approx((57, 63, "seeds"))
    assert bar.spread == "± 14.1 over 2 folds, ± 3.0 over 3 seeds"
    assert "unbroken over seeds" in files["index.html"].decode()
    assert "dashed over folds" not in files["index.html"].decode()
    groups, files = bars_of(tmp_path / "neither", [0.5])
    assert groups[0].bars[0].whisker is None
    assert "standard deviation to either side" not in files["index.html"].decode()


def test_a_line_runs_beyond_the_ends_of_the_scale_as_far_as_there_is_room(tmp_path):
    for name, score, std, expected, cut in (
        ("high", 0.99, 0.05, (94, 104), (False, False)),
        ("higher", 0.99, 0.2, (79, MOST), (False, True)),
        ("low", 0.01, 0.2, (LEAST, 21), (True, False)),
    ):
        groups, files = bars_of(tmp_path / name, [score], seeds_std=std)
        whisker = groups[0].bars[0].whisker
        assert (whisker.start, whisker.end) == pytest.approx(expected)
        assert whisker.is_cut == cut
        assert ("would lie farther out" in files["index.html"].decode()) == any(cut)


def test_one_model_makes_no_radar_and_two_do(tmp_path):
    for model in ("a", "b"):
        for name in ("one", "two", "three"):
            scored_task(tmp_path / model / name, "top1_acc", [0.5])
    assert "radar.png" not in report_files(build_report([tmp_path / "a"]))
    both = build_report([tmp_path / "a", tmp_path / "b"], ["a", "b"])
    drawn = radar(both.columns, both.rows)
    assert len(drawn.lines) == 2


def test_two_tasks_make_no_radar(tmp_path):
    for name in ("one", "two"):
        scored_task(tmp_path / "model" / name, "top1_acc", [0.5])
    assert "radar.png" not in report_files(build_report([tmp_path / "model"]))


def themes() -> list[dict[str, str]]:
    light, dark = re.findall(r":root \{(.*?)\}", CSS, flags=re.S)
    return [dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in (light, dark)]


def contrast(one: str, other: str) -> float:
    """WCAG 2's ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("theme", themes(), ids=["light", "dark"])
def test_colours_can_be_told_from_the_background(theme):
    for background in ("paper", "raised", "alert"):
        assert contrast(theme["ink"], theme[background]) >= 7
    for text in ("muted", "link"):
        assert contrast(theme[text], theme["paper"]) >= 4.5
    for number in range(len(PALETTE)):
        assert contrast(theme[f"c{number}"], theme["raised"]) >= 3


def test_pictures_have_the_pages_colours():
    assert [themes()[0][f"c{number}"] for number in range(len(PALETTE))] == list(PALETTE)
