"""Quantiles of what was measured, by nearest rank: every figure is one that occurred. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence


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
