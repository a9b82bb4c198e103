"""Quantiles of what was measured, by nearest rank: every figure is one that occurred. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed.

    Args:
        ordered: ascending, not empty.
        share: 0 to 1.
    """
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99, p99.9 and the largest; empty when there are none."""
    ordered = sorted(values)
    if not ordered:
        return {}
    named = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))
    return {name: quantile(ordered, share) for name, share in named}


#: Upper ends of a histogram's bins, seconds: 10 to a tenfold.
ENDS: Final = tuple(round(10 ** (exponent / 10), 6) for exponent in range(-20, 21))


def histogram(values: Sequence[float]) -> list[tuple[float, int]]:
    """How many values each bin of :data:`ENDS` has, by its upper end, without the empty ones; larger ones are in the last."""
    counts = [0] * len(ENDS)
    for value in values:
        counts[min(bisect_left(ENDS, value), len(ENDS) - 1)] += 1
    return [(end, count) for end, count in zip(ENDS, counts, strict=True) if count]
