"""A radar -> the strings of an SVG picture; the template only puts them in their places."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from eval_recipes.reporting.charts import Axis, Radar, RadarLine

RIM = 165.0
LABELS = 182.0
HALF_WIDTH, HALF_HEIGHT = 268.0, 222.0
RINGS = (0.25, 0.5, 0.75, 1.0)
MARKER = 4.0
SIDEWAYS = 0.12
"""Sine of the angle beyond which a label stands beside its axis, not over it."""

UPRIGHT = 0.9
"""Cosine of the angle within which a label stands over or under its axis."""

LINE_EM, BASELINE_EM = 1.15, 0.35
LINE_CHARACTERS, MOST_LINES = 12, 3
"""Of a title."""


@dataclass(frozen=True)
class SvgAxis:
    """Where an axis ends, and where its label stands: its lines, and the shift of the first in em."""

    words: tuple[str, ...]
    shift: str
    best: str
    end: tuple[str, str]
    label: tuple[str, str]
    anchor: str


@dataclass(frozen=True)
class SvgLine:
    """A model's line and points, as path data."""

    label: str
    colour: int
    dash: str
    path: str
    points: str


@dataclass(frozen=True)
class SvgRadar:
    """All of it, around the origin."""

    view_box: str
    rings: tuple[str, ...]
    axes: tuple[SvgAxis, ...]
    lines: tuple[SvgLine, ...]


def svg_radar(radar: Radar) -> SvgRadar:
    """Lay a radar out; the best score of each axis lies on the rim."""
    view_box = f"{-HALF_WIDTH:g} {-HALF_HEIGHT:g} {2 * HALF_WIDTH:g} {2 * HALF_HEIGHT:g}"
    rings = tuple(_number(RIM * ring) for ring in RINGS)
    lines = tuple(_line(line, radar.axes) for line in radar.lines)
    return SvgRadar(view_box, rings, tuple(_axis(axis) for axis in radar.axes), lines)


def _number(value: float) -> str:
    return f"{value:.1f}"


def _point(axis: Axis, radius: float) -> tuple[str, str]:
    x, y = axis.place(radius)
    return _number(x), _number(y)


def _axis(axis: Axis) -> SvgAxis:
    """An axis and its label, which ends, has its middle or begins where it is placed."""
    sine, cosine = math.sin(axis.angle), math.cos(axis.angle)
    anchor = "middle" if abs(sine) < SIDEWAYS else "start" if sine > 0 else "end"
    words = title_lines(axis.title)
    above = 1.0 if cosine > UPRIGHT else 0.0 if cosine < -UPRIGHT else 0.5
    shift = BASELINE_EM * (2 - above) - LINE_EM * len(words) * above
    best = f"{100 * axis.best:.1f}"
    return SvgAxis(words, f"{shift:.2f}", best, _point(axis, RIM), _point(axis, LABELS), anchor)


def title_lines(title: str) -> tuple[str, ...]:
    """A title in short lines, broken at its joints; what is too long is cut.

    >>> title_lines("GTZAN Music/Speech"), title_lines("demo_which_sound-v1-small")
    (('GTZAN', 'Music/Speech'), ('demo_which_', 'sound-v1-', 'small'))
    """
    lines = [""]
    for piece in re.split(r"(?<=[ _-])", title):
        if lines[-1] and len((lines[-1] + piece).rstrip()) > LINE_CHARACTERS:
            lines.append("")
        lines[-1] += piece
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], lines[MOST_LINES - 1].ljust(LINE_CHARACTERS) + "…"]
    return tuple(_cut(line.strip()) for line in lines)


def _cut(line: str) -> str:
    return line if len(line) <= LINE_CHARACTERS else line[: LINE_CHARACTERS - 1].rstrip() + "…"


def _line(line: RadarLine, axes: tuple[Axis, ...]) -> SvgLine:
    places = [
        None if share is None else axis.place(RIM * max(0.0, share))
        for share, axis in zip(line.shares, axes, strict=True)
    ]
    path = " ".join(
        "M" + " L".join(f"{_number(x)} {_number(y)}" for x, y in (places[place] for place in run))
        for run in line.runs()
    )
    points = " ".join(marker(line.look.marker, *place) for place in places if place)
    return SvgLine(line.label, line.look.colour, line.look.dash, path, points)


def marker(shape: str, x: float, y: float) -> str:
    """Path data of a point's shape, about as large whatever the shape.

    >>> marker("square", 0, 0)
    'M-3.6 -3.6 h7.2 v7.2 h-7.2 z'
    """
    at = f"{_number(x)} {_number(y)}"
    if shape == "circle":
        size = _number(MARKER)
        return (
            f"M{at} m-{size} 0 a{size} {size} 0 1 0 {2 * MARKER:g} 0 a{size} {size} 0 1 0 -{2 * MARKER:g} 0 z"
        )
    if shape == "square":
        half = 0.9 * MARKER
        side = _number(2 * half)
        return f"M{_number(x - half)} {_number(y - half)} h{side} v{side} h-{side} z"
    arm = _number(1.3 * MARKER)
    if shape == "diamond":
        return f"M{at} m0 -{arm} l{arm} {arm} l-{arm} {arm} l-{arm} -{arm} z"
    return f"M{at} m0 -{arm} l{arm} {2 * MARKER:g} h-{2.6 * MARKER:.1f} z"
