"""Lines and stacked bars as SVG, readable on light and dark pages; for bars on a logarithmic scale see :mod:`benchmarks.wire_chart`."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 860, 380, 74, 20, 86, 48
_ROW, _BAR, _NAMES = 34, 20, 190
#: Hues that the colour-blind can tell apart, with contrast on white and on black.
COLOURS: Final = ("#2f81f7", "#e36209", "#2da44e", "#bf4b8a", "#9a6700", "#8250df", "#6e7781", "#1b7c83")
_STYLE: Final = """\
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #6b7280 }
.title { font-size: 15px; font-weight: 600 }
.grid { stroke: #9ca3af; stroke-opacity: .35 }
@media (prefers-color-scheme: dark) { text { fill: #c9d1d9 } }
@media (prefers-color-scheme: light) { text { fill: #374151 } }"""


@dataclass(frozen=True)
class Line:
    """``steps``: drawn as columns between points instead of from point to point."""

    name: str
    points: Sequence[tuple[float, float]]
    steps: bool = False


def ticks(top: float, wanted: int = 6) -> list[float]:
    """Round figures from 0 to at least ``top``."""
    raw = top / wanted
    if raw < sys.float_info.min:  # nothing, or next to it: its logarithm is no figure to go by
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999999)
    return [step * number for number in range(math.ceil(top / step - 1e-9) + 1)]


def line_chart(title: str, x_name: str, y_name: str, lines: Sequence[Line], *, log_x: bool = False) -> str:
    """Lines over one x axis, both from 0 (``log_x``: x in powers of ten, all above 0).

    Raises:
        ValueError: no line has a point.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        raise ValueError("expected at least one point")
    ys = ticks(max(y for _, y in points))
    if log_x:
        low = math.floor(math.log10(min(x for x, _ in points)) + 1e-9)
        high = math.ceil(math.log10(max(x for x, _ in points)) - 1e-9)
        high = max(high, low + 1)
        xs = [10.0**power for power in range(low, high + 1)]
    else:
        low, high = 0, 0
        xs = ticks(max(x for x, _ in points), 10)

    def x_of(value: float) -> float:
        share = (math.log10(value) - low) / (high - low) if log_x else value / xs[-1]
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * share

    def y_of(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / ys[-1]

    parts = _opening(title, y_name, _HEIGHT)
    parts += _legend([line.name for line in lines])
    for value in ys:
        at = y_of(value)
        parts += [
            f'<line class="grid" x1="{_LEFT}" y1="{at:.1f}" x2="{_WIDTH - _RIGHT}" y2="{at:.1f}"/>',
            f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{_short(value)}</text>',
        ]
    parts += [
        f'<text x="{x_of(value):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{_short(value)}</text>'
        for value in xs
    ]
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">{escape(x_name)}</text>')
    for colour, line in zip(COLOURS, lines, strict=False):
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in _corners(line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if not line.steps and len(line.points) <= 12:
            parts += [
                f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3.5" fill="{colour}"/>'
                for x, y in line.points
            ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def stacked_bars(title: str, unit: str, bars: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """A bar for each (label, parts by name); the parts lie side by side in the order in which they first appear.

    Raises:
        ValueError: there is no bar, or nothing in any.
    """
    names = list(dict.fromkeys(name for _, parts in bars for name in parts))
    top = max((sum(parts.values()) for _, parts in bars), default=0.0)
    if top <= 0:
        raise ValueError("expected at least one bar with something in it")
    span = _WIDTH - _NAMES - 70
    bottom = _TOP + _ROW * len(bars)
    out = _opening(title, unit, bottom + 34)
    out += _legend(names)
    for value in ticks(top):
        at = _NAMES + span * value / ticks(top)[-1]
        out += [
            f'<line class="grid" x1="{at:.1f}" y1="{_TOP - 6}" x2="{at:.1f}" y2="{bottom}"/>',
            f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{_short(value)}</text>',
        ]
    for row, (label, parts) in enumerate(bars):
        y, at = _TOP + _ROW * row, float(_NAMES)
        out.append(f'<text x="{_NAMES - 10}" y="{y + _BAR - 5}" text-anchor="end">{escape(label)}</text>')
        for colour, name in zip(_cycle(names), names, strict=True):
            width = span * parts.get(name, 0.0) / ticks(top)[-1]
            if width > 0:
                out.append(
                    f'<rect x="{at:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}">'
                    f"<title>{escape(name)}: {parts[name]:.4g}</title></rect>"
                )
            at += width
        out.append(f'<text x="{at + 6:.1f}" y="{y + _BAR - 5}">{sum(parts.values()):,.4g}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def rates(over_time: Sequence[Sequence[float]], every_s: float) -> list[tuple[float, float]]:
    """(seconds, sum so far) pairs as (end of the interval, sum a second), an interval being at least ``every_s`` long."""
    found: list[tuple[float, float]] = []
    before_at, before = 0.0, 0.0
    for at, done in over_time:
        if at - before_at >= every_s:
            found.append((at, (done - before) / (at - before_at)))
            before_at, before = at, done
    return found


def _corners(line: Line) -> Iterable[tuple[float, float]]:
    if not line.steps:
        yield from line.points
        return
    before = 0.0
    for x, y in line.points:
        yield before, y
        yield x, y
        before = x
    yield before, 0.0


def _opening(title: str, y_name: str, height: int) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{_STYLE}\n</style>",
        f'<text class="title" x="12" y="26">{escape(title)}</text>',
        f'<text x="12" y="46">{escape(y_name)}</text>',
    ]


def _legend(names: Sequence[str]) -> list[str]:
    parts, at = [], 12.0
    for colour, name in zip(_cycle(names), names, strict=True):
        parts += [
            f'<rect x="{at:.0f}" y="56" width="12" height="12" fill="{colour}"/>',
            f'<text x="{at + 17:.0f}" y="66">{escape(name)}</text>',
        ]
        at += 32 + 7.2 * len(name)
    return parts


def _cycle(names: Sequence[str]) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(len(names))]


def _short(value: float) -> str:
    """Such as 250, 20k or 1.5M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:,.4g}{unit}"
    return f"{value:,.4g}"
