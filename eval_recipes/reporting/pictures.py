"""The charts as PNG pictures, for papers and slides."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval_recipes.reporting.charts import BarGroup, Look, Radar, RadarLine, Whisker, whiskers_over

if TYPE_CHECKING:  # matplotlib is imported when something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = (
    "#0b62c4",
    "#b4460f",
    "#117a4b",
    "#8b3fb0",
    "#b01657",
    "#0d7480",
    "#7a6100",
    "#4a4fc4",
    "#6b727d",
)
"""The page's colours for a light background, by `Look.colour`."""

MARKERS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D"}
LINE = "#1a1d21"
WHISKERS = {"seeds": "-", "folds": (0, (2.0, 1.0))}
"""Lines over bars, by what the spread is over."""

ROOM = 120
"""Of bars from 0 to 100, with the longest line over them and the number beside it."""

DOTS_PER_INCH = 150
BAR_INCHES = 0.22
COLUMNS = 3
LABEL_CHARACTERS, AXIS_CHARACTERS = 34, 22
LABEL_POINTS = 11
"""Between the radar's rim and the middle of a label of two lines."""

PLAIN_TEXT = {"text.parse_math": False, "text.usetex": False}
"""Names of models and folders are text, dollars and all."""


def radar_png(radar: Radar) -> bytes:
    """The radar; each axis is drawn to the best score shown, which stands at its end."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(PLAIN_TEXT):
        figure = Figure(figsize=(9, 7.5 + 0.25 * len(radar.lines)), layout="constrained")
        axes = figure.add_subplot(projection="polar")
        axes.set_theta_zero_location("N")
        axes.set_theta_direction(-1)
        axes.set_ylim(0, 1)
        axes.set_yticks([0.25, 0.5, 0.75, 1.0], labels=[""] * 4)
        labels = [f"{_shortened(axis.title, AXIS_CHARACTERS)}\n{100 * axis.best:.1f}" for axis in radar.axes]
        angles = [axis.angle for axis in radar.axes]
        axes.set_xticks(angles, labels=labels)
        axes.tick_params(axis="x", pad=LABEL_POINTS)
        for label, angle in zip(axes.get_xticklabels(), angles, strict=True):
            sine = math.sin(angle)
            label.set_horizontalalignment("center" if abs(sine) < 0.12 else "left" if sine > 0 else "right")
        for line in radar.lines:
            _draw_line(axes, line, angles)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        return _png(figure)


def _draw_line(axes: Axes, line: RadarLine, angles: Sequence[float]) -> None:
    """One model; its line is broken where a score is missing."""
    style = {
        "color": PALETTE[line.look.colour],
        "linestyle": _line_style(line.look),
        "marker": MARKERS[line.look.marker],
        "markersize": 5,
    }
    label: str | None = _shortened(line.label)
    for run in line.runs() or [[]]:
        shares = [line.shares[place] for place in run]
        axes.plot([angles[place] for place in run], shares, label=label, clip_on=False, **style)
        label = None


def _line_style(look: Look) -> str | tuple[float, tuple[float, ...]]:
    return (0, tuple(float(length) / 2 for length in look.dash.split())) if look.dash else "-"


def bars_png(groups: Sequence[BarGroup]) -> bytes:
    """Groups of bars from 0 to 100, three groups a row."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    n_rows = math.ceil(len(groups) / COLUMNS)
    n_columns = min(COLUMNS, len(groups))
    n_bars = max(len(group.bars) for group in groups)
    with rc_context(PLAIN_TEXT):
        size = (5.2 * n_columns, n_rows * (0.75 + BAR_INCHES * n_bars))
        figure = Figure(figsize=size, layout="constrained")
        all_axes = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True)
        for number, axes in enumerate(all_axes.flat):
            if number < len(groups):
                axes.tick_params(labelbottom=number + n_columns >= len(groups))
                _draw_group(axes, groups[number], with_names=number % n_columns == 0)
            else:
                axes.set_axis_off()
        if over := whiskers_over(groups):
            lines = [Line2D([], [], color=LINE, linewidth=1.2, linestyle=WHISKERS[its]) for its in over]
            names = [f"± a standard deviation over {its}" for its in over]
            figure.legend(lines, names, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
        return _png(figure)


def _draw_group(axes: Axes, group: BarGroup, with_names: bool) -> None:
    axes.set_title(f"{_shortened(group.title)}  ({_shortened(group.subtitle)})", loc="left", fontsize=9)
    axes.set_xlim(0, ROOM)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    places = list(range(len(group.bars)))
    axes.set_yticks(places, labels=[_shortened(bar.label) if with_names else "" for bar in group.bars])
    axes.set_ylim(len(places) - 0.4, -0.6)
    for place, bar in zip(places, group.bars, strict=True):
        colour = PALETTE[bar.look.colour]
        if bar.remark:
            axes.text(1, place, bar.remark, va="center", fontsize=7, color="#555c66")
            continue
        hollow = {"facecolor": "none", "hatch": "////"} if bar.is_approximate else {"facecolor": colour}
        axes.barh(place, bar.length, height=0.7, edgecolor=colour, **hollow)
        end = bar.length
        if bar.whisker:
            _draw_whisker(axes, bar.whisker, place)
            end = max(end, bar.whisker.end)
        sign = "~" if bar.is_approximate else ""
        axes.text(end + 1, place, f"{sign}{bar.length:.1f}", va="center", fontsize=7)


def _draw_whisker(axes: Axes, whisker: Whisker, place: int) -> None:
    """A line with an edge at each end that is not cut; its light rim shows it on any colour."""
    style = {"clip_on": False, "solid_capstyle": "butt", "dash_capstyle": "butt"}
    ends = (whisker.start, whisker.end)
    for colour, rim in (("white", 2.0), (LINE, 0.0)):
        line = WHISKERS[whisker.over] if not rim else "-"
        axes.plot(ends, (place, place), color=colour, linewidth=1.2 + rim, linestyle=line, **style)
        for end, is_cut in zip(ends, whisker.is_cut, strict=True):
            if not is_cut:
                half = 0.2 + 0.02 * rim
                axes.plot(
                    (end, end), (place - half, place + half), color=colour, linewidth=1.2 + rim, **style
                )


def _shortened(label: str, n: int = LABEL_CHARACTERS) -> str:
    """A label that leaves room for the picture; beginning and end tell most names apart."""
    label = label.lstrip("_") or label  # matplotlib leaves such labels out of a legend
    if len(label) <= n:
        return label
    half = n // 2
    return f"{label[: half - 1]}…{label[-half:]}"


def _png(figure: Figure) -> bytes:
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return written.getvalue()
