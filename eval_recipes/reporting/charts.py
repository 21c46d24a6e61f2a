"""Columns -> the geometry of a radar and of bars, for SVG, HTML and PNG alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eval_recipes.reporting.columns import Cell, Column, Row
from eval_recipes.reporting.domain_means import PAPER_KIND, DomainRow
from eval_recipes.reporting.published import APART, DOMAINS
from eval_recipes.reporting.score_files import Spread
from eval_recipes.reporting.wording import spread_text

N_COLOURS = 8
DASHES = ("", "7 3", "2 3", "9 3 2 3")
MARKERS = ("circle", "square", "triangle", "diamond")
MIN_AXES = 3


@dataclass(frozen=True)
class Look:
    """How a model looks in every chart: the first 32 differ, the first 4 even without colour.

    Attributes:
        colour: index into the palette; `N_COLOURS` is its neutral.
        dash: of lines, in SVG's notation.
        marker: of points.
    """

    colour: int
    dash: str
    marker: str


def look(index: int) -> Look:
    """The look of the `index`-th model.

    >>> len({look(i) for i in range(32)})
    32
    """
    style = (index + index // N_COLOURS) % len(DASHES)
    return Look(index % N_COLOURS, DASHES[style], MARKERS[style])


NEUTRAL = Look(N_COLOURS, "", "circle")
"""The paper's rows, of which only means are drawn."""


@dataclass(frozen=True)
class Axis:
    """A task on the radar, drawn to the best score shown.

    Attributes:
        title: the task's.
        domain: the task's.
        best: the score at the rim.
        angle: radians, clockwise from the top.
    """

    title: str
    domain: str
    best: float
    angle: float

    def place(self, radius: float) -> tuple[float, float]:
        """Coordinates, y downwards."""
        return radius * math.sin(self.angle), -radius * math.cos(self.angle)


@dataclass(frozen=True)
class RadarLine:
    """A model on the radar.

    Attributes:
        label: the model's.
        look: the model's.
        shares: of the best score, by axis; None where there is none.
    """

    label: str
    look: Look
    shares: tuple[float | None, ...]

    def runs(self) -> list[list[int]]:
        """Stretches of neighbouring axes that have a score; the line is broken between them.

        >>> RadarLine("m", look(0), (0.5, None, 0.7, 0.9)).runs()
        [[2, 3, 0]]
        """
        n = len(self.shares)
        gaps = [place for place in range(n) if self.shares[place] is None]
        if not gaps:
            return [[*range(n), 0]]
        runs: list[list[int]] = [[]]
        for step in range(1, n + 1):
            place = (gaps[0] + step) % n
            if self.shares[place] is None:
                runs.append([])
            else:
                runs[-1].append(place)
        return [run for run in runs if run]


@dataclass(frozen=True)
class Radar:
    """Axes and lines."""

    axes: tuple[Axis, ...]
    lines: tuple[RadarLine, ...]


def radar(columns: Sequence[Column], rows: Sequence[Row]) -> Radar | None:
    """The radar over the paper's three domains, or over other tasks where none of theirs is scored.

    Returns:
        None for fewer than three axes, or for a single model, whose every score is the best: a circle.
    """
    rows = [row for row in rows if row.is_fraction and best_score(columns, row) > 0]
    in_domains = [row for row in rows if row.domain in DOMAINS]
    rows = in_domains or [row for row in rows if row.domain != APART]
    if len(rows) < MIN_AXES:
        return None
    best = [best_score(columns, row) for row in rows]
    axes = tuple(
        Axis(row.title, row.domain, top, 2 * math.pi * place / len(rows))
        for place, (row, top) in enumerate(zip(rows, best, strict=True))
    )
    lines = []
    for index, column in enumerate(columns):
        cells = [column.cells.get(row) for row in rows]
        shares = tuple(
            cell.score / top if cell and cell.is_number else None
            for cell, top in zip(cells, best, strict=True)
        )
        if any(share is not None for share in shares):
            lines.append(RadarLine(column.label, look(index), shares))
    return Radar(axes, tuple(lines)) if len(lines) > 1 else None


def best_score(columns: Sequence[Column], row: Row) -> float:
    """The highest score of a task; 0 if there is none."""
    cells = [column.cells[row] for column in columns if row in column.cells]
    return max((cell.score for cell in cells if cell.is_number), default=0.0)


LEAST, MOST = -2.0, 108.0
"""How far from 0 and 100 a line over a bar is drawn; there is room for more on neither side."""


@dataclass(frozen=True)
class Whisker:
    """A standard deviation to either side of a bar's end, in percent of the full width.

    Attributes:
        start: where the line begins.
        end: where it ends.
        over: `seeds` or `folds`.
        is_cut: its beginning, its end would lie farther out than there is room.
    """

    start: float
    end: float
    over: str
    is_cut: tuple[bool, bool] = (False, False)


@dataclass(frozen=True)
class Bar:
    """One bar; lengths are in percent of the full width.

    Attributes:
        label: the model's.
        look: the model's.
        length: the score, 0 to 100.
        whisker: its spread, if there is one: over seeds where these were repeated, else over folds.
        is_approximate: read off a figure.
        remark: instead of a bar, where there is no score.
        spread: in words, every one that there is.
    """

    label: str
    look: Look
    length: float
    whisker: Whisker | None = None
    is_approximate: bool = False
    remark: str = ""
    spread: str = ""


@dataclass(frozen=True)
class BarGroup:
    """Bars under one title."""

    title: str
    subtitle: str
    bars: tuple[Bar, ...]


def task_bars(columns: Sequence[Column], rows: Sequence[Row]) -> list[BarGroup]:
    """A group a task (fractions only), a bar a column."""
    return [
        BarGroup(
            row.title,
            f"{row.domain} · {row.metric}",
            tuple(
                _bar(column.label, look(index), row, column.cells.get(row))
                for index, column in enumerate(columns)
            ),
        )
        for row in rows
        if row.is_fraction
    ]


def whiskers_over(groups: Sequence[BarGroup]) -> list[str]:
    """What the lines over some bars are over: `seeds`, `folds`, both or nothing."""
    found = {bar.whisker.over for group in groups for bar in group.bars if bar.whisker}
    return sorted(found, reverse=True)


def _bar(label: str, its_look: Look, row: Row, cell: Cell | None) -> Bar:
    if cell is None or not cell.is_number:
        return Bar(label, its_look, 0.0, remark="no score" if cell is None else "not a number")
    length = 100 * min(max(cell.score, 0.0), 1.0)
    spread = ", ".join(spread_text(row, its) for its in cell.spreads)
    whisker = _whisker(length, cell.spreads[-1]) if cell.spreads else None
    return Bar(label, its_look, length, whisker, cell.is_approximate, spread=spread)


def _whisker(length: float, spread: Spread) -> Whisker:
    low, high = length - 100 * spread.std, length + 100 * spread.std
    return Whisker(max(low, LEAST), min(high, MOST), spread.over, (low < LEAST, high > MOST))


def domain_bars(rows: Sequence[DomainRow]) -> list[BarGroup]:
    """A group a domain, a bar a model; incomplete domains have none."""
    groups = []
    for domain in DOMAINS:
        bars = []
        for index, row in enumerate(rows):
            mean = row.means[domain]
            remark = "" if mean.mean is not None else f"incomplete, {mean.n_scored} of {mean.n_tasks} tasks"
            its_look = NEUTRAL if row.kind == PAPER_KIND else look(index)
            bars.append(Bar(row.label, its_look, 100 * (mean.mean or 0.0), remark=remark))
        count = rows[0].means[domain].n_tasks if rows else 0
        groups.append(BarGroup(domain, f"mean of {count} tasks", tuple(bars)))
    return groups
