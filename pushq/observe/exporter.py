"""The exporter: what only the broker, the ledger and Redis know, asked when Prometheus asks.

Each source is an :class:`~pushq.observe.errand.Errand` with a deadline: one that hangs or is away costs its own series and nothing else,
and ``pushq_exporter_up`` says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Final, TypeVar

import redis
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from pushq import metrics
from pushq.database import Database
from pushq.ledger.overview import OPEN_BATCHES, Overview, overview
from pushq.metrics import Family
from pushq.observe.errand import Errand, Round, Unanswered
from pushq.observe.queues import Depths, queues_of
from pushq.redis_client import open_redis
from pushq.settings import Settings
from pushq.tokens.statistics import estimate_active

log = logging.getLogger("pushq.exporter")

T = TypeVar("T")

#: Of a scrape, for all sources together; Prometheus itself gives up after ten seconds unless told otherwise.
DEADLINE_S: Final = 5.0
#: Several Prometheus servers, or an impatient one, share an answer for so long.
FRESH_S: Final = 2.0
#: The tokens are counted so often; docs and the metric's help say so, too.
TOKENS_FRESH_S: Final = 300.0
REDIS_TIMEOUT_S: Final = 3.0


class Exporter(Collector):
    """Collects from the sources of these settings. Close it after the last scrape.

    Raises:
        SettingsError: a URL is missing.
    """

    def __init__(self, settings: Settings, *, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._closing = ExitStack()
        self._platforms = sorted(
            {
                platform
                for app in settings.apps.values()
                for platform in type(app).model_fields
                if getattr(app, platform)
            }
        )
        queues = queues_of(settings)
        self._closing.callback(queues.close)
        # Two: a count of the tokens that takes long must not hold up the ledger.
        database = Database(settings.need_database(), pool_size=2, application_name="pushq-exporter")
        self._closing.callback(database.close)
        client = open_redis(
            settings.need_redis(),
            max_connections=2,
            connect_timeout=REDIS_TIMEOUT_S,
            command_timeout=REDIS_TIMEOUT_S,
        )
        self._closing.callback(client.close)
        self._broker = queues.broker
        self._depths = Errand("queues", queues.depths, fresh_s=FRESH_S)
        self._overview = Errand("ledger", lambda: overview(database), fresh_s=FRESH_S)
        self._memory = Errand("redis", lambda: _memory(client), fresh_s=FRESH_S)
        self._tokens = Errand("tokens", lambda: estimate_active(database), fresh_s=TOKENS_FRESH_S)
        self._told: dict[str, str] = {}
        for source in ("broker", "database", "redis"):
            metrics.exporter_errors.labels(source)

    def registry(self) -> CollectorRegistry:
        """One for the endpoint, with this in it."""
        registry = CollectorRegistry()
        registry.register(self)
        registry.register(metrics.exporter_errors)
        return registry

    def close(self) -> None:
        self._closing.close()

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would scrape to find out."""
        return ()

    def collect(self) -> Iterator[Metric]:
        deadline = time.monotonic() + self._deadline_s
        depths, ledger, memory = self._depths.start(), self._overview.start(), self._memory.start()
        tokens = self._tokens.start()
        up = _family(metrics.exporter_up)
        yield from self._of("broker", depths, deadline, up, self._queues)
        yield from self._of("database", ledger, deadline, up, self._ledger)
        yield from self._of("redis", memory, deadline, up, self._redis)
        yield up
        try:
            # The first count of a large table may take longer than a scrape; it comes with one of the next.
            active = tokens.result(deadline - time.monotonic())
        except Unanswered as exc:
            log.debug("tokens_not_counted", extra={"error": str(exc)})
        else:
            yield _family(metrics.tokens_active, *active.items())

    def _of(
        self,
        source: str,
        asked: Round[T],
        deadline: float,
        up: GaugeMetricFamily,
        show: Callable[[T], Iterator[Metric]],
    ) -> Iterator[Metric]:
        try:
            found = asked.result(deadline - time.monotonic())
        except Unanswered as exc:
            self._complain(source, str(exc))
            up.add_metric((source,), 0)
            if source == "broker":
                yield _family(metrics.queue_up, ((self._broker,), 0))
            return
        self._relax(source)
        up.add_metric((source,), 1)
        yield from show(found)

    def _queues(self, depths: Depths) -> Iterator[Metric]:
        messages = _family(metrics.queue_messages)
        for queue, count in depths.ready.items():
            messages.add_metric((queue, "ready"), count)
        for queue, count in (depths.unacked or {}).items():
            messages.add_metric((queue, "unacked"), count)
        yield messages
        yield _family(metrics.queue_consumers, *(((queue,), n) for queue, n in depths.consumers.items()))
        yield _family(metrics.queue_up, ((self._broker,), 1))
        known = depths.unacked is not None
        yield _family(metrics.queue_unacked_known, ((self._broker,), int(known)))
        if depths.unacked_why is not None:
            self._complain("unacked", depths.unacked_why)
        else:
            self._relax("unacked")

    def _ledger(self, found: Overview) -> Iterator[Metric]:
        yield _family(metrics.sends, *(((state,), count) for state, count in found.sends.items()))
        platforms = sorted({*self._platforms, *found.waiting_s})
        yield _family(
            metrics.batches,
            *(
                ((platform, state), found.batches.get((platform, state), 0))
                for platform in platforms
                for state in OPEN_BATCHES
            ),
        )
        yield _family(
            metrics.oldest_waiting_batch,
            *(((platform,), found.waiting_s.get(platform, 0.0)) for platform in platforms),
        )
        pending, outcomes = _family(metrics.send_pending_recipients), _family(metrics.send_recipients)
        eta = _family(metrics.send_eta)
        for send in found.broadcasts:
            for platform, count in send.pending.items():
                pending.add_metric((str(send.id), send.app, platform), count)
            for platform, counts in send.outcomes.items():
                for outcome, count in counts.items():
                    outcomes.add_metric((str(send.id), send.app, platform, outcome), count)
            if send.eta_s is not None:
                eta.add_metric((str(send.id),), send.eta_s)
        yield pending
        yield outcomes
        yield eta

    def _redis(self, memory: tuple[int, int]) -> Iterator[Metric]:
        used, most = memory
        yield _family(metrics.redis_memory, (("used",), used), (("max",), most))

    def _complain(self, source: str, why: str) -> None:
        """Count every scrape in which a source is away, and log the first of each kind."""
        if source != "unacked":
            metrics.exporter_errors.labels(source).inc()
        if self._told.get(source) != why:
            self._told[source] = why
            log.warning("exporter_source_away", extra={"source": source, "error": why})

    def _relax(self, source: str) -> None:
        if self._told.pop(source, None) is not None:
            log.warning("exporter_source_back", extra={"source": source})


def _family(family: Family, *samples: tuple[tuple[str, ...], float]) -> GaugeMetricFamily:
    made = GaugeMetricFamily(family.name, family.documentation, labels=family.labels)
    for labels, value in samples:
        made.add_metric(labels, value)
    return made


def _memory(client: redis.Redis) -> tuple[int, int]:
    """Bytes used, and the most that Redis may use: 0 is no limit."""
    found = client.info("memory")
    return int(found["used_memory"]), int(found.get("maxmemory", 0))
