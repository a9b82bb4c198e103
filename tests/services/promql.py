"""Which series PromQL asks for, and which there can be."""

from __future__ import annotations

import re

from prometheus_client import Counter, Gauge

from pushq import metrics

#: What Prometheus makes by itself.
OWN = frozenset({"up", "ALERTS"})
_NO_SERIES = re.compile(
    r'"[^"]*"|\{[^{}]*\}|\[[^\]]*\]|\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^()]*\)|\boffset\s+\S+'
)
_KEYWORDS = frozenset({"and", "or", "unless", "by", "on", "bool", "group_left", "group_right"})


def metric_names() -> set[str]:
    """Every series that pushq can show, and Prometheus's own."""
    found = set(OWN)
    for one in vars(metrics).values():
        if isinstance(one, metrics.Family):
            found.add(one.name)
        elif isinstance(one, metrics.Histogram):
            (family,) = one.describe()
            found |= {f"{family.name}_{suffix}" for suffix in ("bucket", "count", "sum")}
        elif isinstance(one, Counter | Gauge):
            (family,) = one.describe()
            found.add(f"{family.name}_total" if family.type == "counter" else family.name)
    return found


def series_in(expression: str) -> set[str]:
    """Names of the series in a PromQL expression: words that no parenthesis follows, outside of labels, ranges and texts."""
    bare = _NO_SERIES.sub(" ", expression)
    words = re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?![a-zA-Z0-9_:])(?!\s*\()", bare)
    return set(words) - _KEYWORDS
