"""Messages that a worker has taken and not acknowledged, by queue: what RabbitMQ tells only through its management plugin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from celery.worker import state
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pushq import metrics


class HeldMessages(Collector):
    """Read from Celery's own list of what it has taken up.

    Args:
        queues: that this worker serves; each has a series from the start.
    """

    def __init__(self, queues: Iterable[str]) -> None:
        self._queues = tuple(queues)

    def collect(self) -> Iterator[Metric]:
        held = Counter(request.delivery_info.get("routing_key") for request in tuple(state.reserved_requests))
        name, documentation, labels = metrics.messages_held
        family = GaugeMetricFamily(name, documentation, labels=labels)
        for queue in self._queues:
            # Queues are bound by their own name; whatever else stands there is no label.
            family.add_metric((queue,), held[queue])
        yield family
