"""How many greenlets a process has: one that nobody ends is a leak that memory shows only much later."""

from __future__ import annotations

import gc
from collections.abc import Iterator

from greenlet import greenlet  # type: ignore[import-untyped]
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pushq import metrics


def alive() -> int:
    """Greenlets that have not ended, as far as the garbage collector knows of them; those of before ``gc.freeze()`` it does not.

    It walks all that was made since then: a few milliseconds.
    """
    return sum(isinstance(each, greenlet) and not each.dead for each in gc.get_objects())


class LiveGreenlets(Collector):
    """Counted anew for every scrape."""

    def collect(self) -> Iterator[Metric]:
        name, documentation, labels = metrics.greenlets
        family = GaugeMetricFamily(name, documentation, labels=labels)
        family.add_metric((), alive())
        yield family
