"""A bar chart on a logarithmic scale as SVG, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

_WIDTH, _LEFT, _RIGHT = 860, 190, 150
_TOP, _ROW, _BAR, _BOTTOM = 64, 34, 20, 44
#: Greys with enough contrast on white and on black; the media query sharpens them where it is honoured.
_STYLE = """\
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #6b7280 }
.title { font-size: 15px; font-weight: 600 }
.grid { stroke: #9ca3af; stroke-opacity: .35 }
.ours { fill: #2f81f7 } .other { fill: #8b949e }
@media (prefers-color-scheme: dark) { text { fill: #c9d1d9 } .other { fill: #6e7681 } }
@media (prefers-color-scheme: light) { text { fill: #374151 } .other { fill: #9aa2ab } }"""


def bar_chart(title: str, unit: str, bars: Sequence[tuple[str, float, bool]]) -> str:
    """``bars`` are (label, value above 0, whether it is ours), drawn from top to bottom. Beside a bar stands its value, and
    what share of our first bar it is.

    Raises:
        ValueError: there is no bar, or a value is not above 0.
    """
    if not bars or min(value for _, value, _ in bars) <= 0:
        raise ValueError("expected at least one bar, and values above 0")
    low = math.floor(math.log10(min(value for _, value, _ in bars)) - 0.01)
    high = math.ceil(math.log10(max(value for _, value, _ in bars)))
    span = _WIDTH - _LEFT - _RIGHT
    bottom = _TOP + _ROW * len(bars)

    def x(value: float) -> float:
        return _LEFT + span * (math.log10(value) - low) / (high - low)

    reference = next((value for _, value, ours in bars if ours), 0.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + _BOTTOM}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{_STYLE}\n</style>",
        f'<text class="title" x="12" y="26">{escape(title)}</text>',
        f'<text x="12" y="46">{escape(unit)}, logarithmic scale</text>',
    ]
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts += [
            f'<line class="grid" x1="{at:.1f}" y1="{_TOP - 6}" x2="{at:.1f}" y2="{bottom}"/>',
            f'<text x="{at:.1f}" y="{bottom + 20}" text-anchor="middle">{10**power:,}</text>',
        ]
    for number, (label, value, ours) in enumerate(bars):
        y = _TOP + _ROW * number
        middle = y + _BAR - 5
        beside = f"{value:,.0f}" + ("" if ours or not reference else f"  ({_share(value / reference)})")
        parts += [
            f'<text x="{_LEFT - 10}" y="{middle}" text-anchor="end">{escape(label)}</text>',
            f'<rect class="{"ours" if ours else "other"}" x="{_LEFT}" y="{y}" width="{x(value) - _LEFT:.1f}" height="{_BAR}" rx="2"/>',
            f'<text x="{x(value) + 8:.1f}" y="{middle}">{escape(beside)}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _share(share: float) -> str:
    """``1/40``, or ``1.2x``."""
    return f"{share:.1f}x" if share >= 1 else f"1/{1 / share:,.1f}"
