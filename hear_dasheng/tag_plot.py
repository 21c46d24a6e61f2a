"""Tags of files -> a picture: how likely the labels are over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hear_dasheng.figure_text import plain_text
from hear_dasheng.files.abandoned import lone_atomic_file
from hear_dasheng.tagger import Tags

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

MOST_ROWS = 60
"""Labels of a file, whatever is asked for."""

LEAST = 0.01
"""Labels less likely than this at every time are not drawn."""

PANEL_IN, RIGHT_IN, TOP_IN, GAP_IN, BOTTOM_IN, ROW_IN = 7.4, 1.4, 0.4, 0.75, 0.5, 0.24
"""Inches: a panel's width, what is right of it, above, between and below panels, a label's row."""

LEFT_IN, LETTER_IN = 0.35, 0.062
"""Inches left of the panels: at least, and for each letter of the longest label."""

LEAST_ROWS = 3
"""Rows that a panel is high at least, so that its colour bar can be read."""


def draw_tags(tags: Mapping[str, Tags], class_names: Sequence[str], path: Path, top: int) -> None:
    """Draw a panel for each file and write them as one picture.

    Args:
        tags: of each file, by its name.
        class_names: what each probability is of.
        path: .png, .pdf or .svg, replaced if it is there.
        top: labels of each file, at most.
    """
    with plain_text():
        figure = tags_figure(tags, class_names, top)
        with lone_atomic_file(path) as file:
            figure.savefig(file, format=path.suffix.lstrip(".").lower(), dpi=130)


def tags_figure(tags: Mapping[str, Tags], class_names: Sequence[str], top: int) -> Figure:
    """A panel for each file: rows are its likeliest labels at any time, darker is likelier."""
    from matplotlib.figure import Figure

    chosen = {name: likely_classes(found, top) for name, found in tags.items()}
    longest = max(len(class_names[index]) for classes in chosen.values() for index in classes)
    left_in = LEFT_IN + LETTER_IN * longest
    width_in = left_in + PANEL_IN + RIGHT_IN
    heights_in = [max(len(classes), LEAST_ROWS) * ROW_IN for classes in chosen.values()]
    height_in = TOP_IN + sum(heights_in) + GAP_IN * (len(tags) - 1) + BOTTOM_IN
    figure = Figure(figsize=(width_in, height_in))
    low_in = height_in - TOP_IN + GAP_IN
    for panel_in, (name, classes) in zip(heights_in, chosen.items(), strict=True):
        low_in -= panel_in + GAP_IN
        low, height = low_in / height_in, panel_in / height_in
        axes = figure.add_axes((left_in / width_in, low, PANEL_IN / width_in, height))
        mesh = _draw_panel(axes, name, tags[name], classes, class_names)
        colour_axes = figure.add_axes(((width_in - 0.7) / width_in, low, 0.12 / width_in, height))
        colour_bar = figure.colorbar(mesh, cax=colour_axes, ticks=[0, 0.5, 1])
        colour_bar.set_label("probability", fontsize=8)
        colour_bar.ax.tick_params(labelsize=8)
    return figure


def likely_classes(tags: Tags, top: int) -> list[int]:
    """At most `top` classes, the likeliest at any time first; but for it, none that stays under `LEAST`."""
    highest = tags.steps.max(0)
    order = np.argsort(-highest, kind="stable")[: min(top, MOST_ROWS)].tolist()
    return [index for index in order if index == order[0] or highest[index] >= LEAST]


def _draw_panel(
    axes: Axes, name: str, tags: Tags, classes: Sequence[int], class_names: Sequence[str]
) -> QuadMesh:
    is_long = tags.seconds > 180
    edges = tags.edges_s / 60 if is_long else tags.edges_s
    rows = np.arange(len(classes) + 1) - 0.5
    mesh = axes.pcolormesh(edges, rows, tags.steps[:, classes].T, cmap="Blues", vmin=0, vmax=1)
    axes.invert_yaxis()
    axes.set_yticks(range(len(classes)), [class_names[index] for index in classes], fontsize=8)
    whole = axes.secondary_yaxis("right")
    whole.set_yticks(range(len(classes)), [f"{tags.whole[index]:.2f}" for index in classes], fontsize=8)
    axes.tick_params(axis="y", length=0)
    whole.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(_shortened(name), fontsize=9, loc="left")
    axes.set_title("whole", fontsize=8, loc="right", x=1.048)
    axes.set_xlabel("minutes" if is_long else "seconds", fontsize=8)
    return mesh


def _shortened(name: str, most: int = 80) -> str:
    return name if len(name) <= most else f"...{name[-most:]}"
