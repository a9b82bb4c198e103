"""Charts as numbers: where each part of a bar or a column stands. Pure; templates draw them as SVG.

Coordinates are those of a box 1,000 wide; a column chart is 100 high, and stretched to the room that the page has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil, floor, log10
from typing import Final

WIDTH: Final = 1000.0
HEIGHT: Final = 100.0
#: What is left free between two columns, as a share of one.
GAP: Final = 0.18
#: A part that is there must be seen.
LEAST: Final = 3.0


@dataclass(frozen=True)
class Part:
    """One part of a bar: ``name`` is also its class in the style sheet."""

    name: str
    count: int
    x: float
    width: float


@dataclass(frozen=True)
class Box:
    """One part of a column."""

    name: str
    y: float
    height: float


@dataclass(frozen=True)
class Column:
    """One column: its place, its parts from the ground up, and what a reader is told of it."""

    x: float
    width: float
    begins: datetime
    ends: datetime
    counts: Mapping[str, int]
    boxes: Sequence[Box]


@dataclass(frozen=True)
class Columns:
    """A chart of columns.

    Attributes:
        top: what the upper edge stands for: a round number at least as high as the highest column.
        ticks: round numbers at the edge, in the middle and at the ground.
        names: of the series, in the order of the legend.
    """

    columns: Sequence[Column]
    top: int
    ticks: Sequence[int]
    names: Sequence[str]
    step: timedelta

    @property
    def empty(self) -> bool:
        return not any(sum(column.counts.values()) for column in self.columns)


def bar(counts: Mapping[str, int], names: Sequence[str], whole: int) -> list[Part]:
    """The parts of a bar, in the order of ``names``; what is missing at its end is still to come.

    Small parts are widened to be seen, at the cost of the largest.
    """
    if whole <= 0:
        return []
    widths = {name: counts[name] / whole * WIDTH for name in names if counts.get(name, 0) > 0}
    lacking = 0.0
    for name, width in widths.items():
        if width < LEAST:
            lacking += LEAST - width
            widths[name] = LEAST
    if widths:
        largest = max(widths, key=lambda name: widths[name])
        free = WIDTH - sum(widths.values())
        widths[largest] -= max(0.0, min(lacking, -free))
    parts, x = [], 0.0
    for name in names:
        # All of them, also those that are nothing yet: a page that is alive lets them grow.
        width = widths.get(name, 0.0)
        parts.append(Part(name, counts.get(name, 0), round(x, 2), round(width, 2)))
        x += width
    return parts


def columns(times: Sequence[datetime], step: timedelta, series: Mapping[str, Sequence[int]]) -> Columns:
    """Stacked columns, one for each time; the first series stands on the ground."""
    highest = max(
        (sum(values[place] for values in series.values()) for place in range(len(times))), default=0
    )
    top = round_up(highest)
    slot = WIDTH / max(len(times), 1)
    gap = min(slot * GAP, 6.0)
    drawn = []
    for place, begins in enumerate(times):
        boxes, ground = [], HEIGHT
        for name, values in series.items():
            if values[place]:
                height = values[place] / top * HEIGHT
                ground -= height
                boxes.append(Box(name, round(ground, 3), round(height, 3)))
        counts = {name: values[place] for name, values in series.items() if values[place]}
        drawn.append(
            Column(
                round(place * slot + gap / 2, 3), round(slot - gap, 3), begins, begins + step, counts, boxes
            )
        )
    return Columns(drawn, top, (top, top // 2, 0) if top > 1 else (top, 0), list(series), step)


def round_up(value: int) -> int:
    """The next number that reads well on an axis: 1, 2, 4, 5, 6, 8 or 10 times a power of ten, even where it is halved."""
    if value <= 2:
        return max(value, 1)
    power = int(10 ** floor(log10(value)))
    for factor in (1, 2, 4, 6, 8, 10):
        if factor * power >= value:
            return factor * power
    return ceil(value)
