"""Whether a figure that was looked at again and again grows. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Verdict = Literal["flat", "growing", "falling", "too few"]

#: The beginning fills caches and pools: it says nothing.
SETTLED_AFTER: Final = 0.25
#: Fewer points than this say nothing either.
FEWEST: Final = 6
#: A rise must be so many times the scatter about the line. (Of n points that only scatter, the line rises by 3.5 / sqrt(n) of it.)
OF_NOISE: Final = 2.0
#: A smaller part of the level is not worth a word.
OF_LEVEL: Final = 0.02


@dataclass(frozen=True)
class Trend:
    """A line through the last three quarters of a series, by least squares.

    Attributes:
        level: mean of these points.
        per_hour: the slope.
        rise: of the line from its first to its last point.
        noise: standard deviation of the points about the line.
    """

    verdict: Verdict
    level: float
    per_hour: float
    rise: float
    noise: float


def trend(points: Sequence[tuple[float, float]], *, least: float = 0.0) -> Trend:
    """Judge (seconds, value) pairs in order of time.

    Args:
        least: a rise up to this is nothing, whatever the level.
    """
    if not points:
        return Trend("too few", 0.0, 0.0, 0.0, 0.0)
    begin, end = points[0][0], points[-1][0]
    settled = [point for point in points if point[0] >= begin + SETTLED_AFTER * (end - begin)]
    n = len(settled)
    middle = sum(at for at, _ in settled) / n
    level = sum(value for _, value in settled) / n
    spread = sum((at - middle) ** 2 for at, _ in settled)
    slope = sum((at - middle) * (value - level) for at, value in settled) / spread if spread else 0.0
    rise = slope * (settled[-1][0] - settled[0][0])
    noise = math.sqrt(sum((value - level - slope * (at - middle)) ** 2 for at, value in settled) / n)
    verdict: Verdict = "flat"
    if n < FEWEST:
        verdict = "too few"
    elif abs(rise) > max(OF_NOISE * noise, OF_LEVEL * abs(level), least):
        verdict = "growing" if rise > 0 else "falling"
    return Trend(verdict, level, slope * 3600, rise, noise)
