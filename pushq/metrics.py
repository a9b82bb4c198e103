"""Every metric of pushq: names and label sets in one place, labels from closed sets.

The parts count where something is decided, per chunk or per settlement and never per recipient. Each process serves what it counted
(``PUSHQ_METRICS_PORT``; see :mod:`pushq.observe.endpoint`), and the exporter what only the broker and the ledger know. No device, user
or text of a provider is ever a label; a send is one only in the exporter, for the newest open sends.

docs/metrics.md explains them for operators.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

_TARGET: Final = ("app", "platform")
_LANE: Final = (*_TARGET, "lane")

#: Values of the label ``lane``.
LANES: Final = ("broadcast", "transactional")
#: Values of the label ``reason`` of recipients that were not delivered to: the ledger's outcomes but for accepted.
FAILURES: Final = (
    "token_dead",
    "rejected",
    "exhausted",
    "expired",
    "suppressed",
    "cancelled",
    "unknown",
)
#: Values of the label ``reason`` of what batches were told to wait for: the limit, the send's own, or the provider.
WAITS: Final = ("rate", "send_rate", "retry_after", "breaker_open")
#: Values of the label ``cause`` of sends that were held: a key or token is refused, the worker has no settings for the app, the provider
#: refuses another part of the set-up, so many tokens are refused that it must be the set-up.
HOLDS: Final = ("credential", "unconfigured", "setup", "tokens")
#: Values of the label ``reason`` of deactivated tokens: a provider called it dead, nobody saw the device for long, the phone belongs to
#: another user now, or the application said so.
DEACTIVATIONS: Final = ("token_dead", "unseen", "moved", "unregistered")

#: Values of the label ``action`` of what the sweeper did.
SWEEPS: Final = (
    "shards_started",
    "shards_issued_again",
    "batches_issued_again",
    "leases_run_out",
    "batches_abandoned",
    "batches_released",
    "dead_letters_issued_again",
)


class Histogram(Collector):
    """A histogram that counts any number of equal values at once.

    prometheus_client's own takes them one by one, which would cost more than a request does. Safe for many threads or greenlets.

    Args:
        buckets: upper bounds in rising order, without the infinite one.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        buckets: Sequence[float],
        registry: CollectorRegistry | None = REGISTRY,
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, tuple(labels)
        self._bounds = tuple(buckets)
        self._lock = threading.Lock()
        #: By the labels' values: how many per bucket, the infinite one last, and their sum.
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        if registry is not None:
            registry.register(self)

    def observe(self, labels: tuple[str, ...], value: float, count: int = 1) -> None:
        """Count ``value`` so many times.

        Args:
            labels: their values, in the order of their names; ``count`` 0 lets the series begin.
        """
        self.observe_all(labels, ((value, count),))

    def observe_all(self, labels: tuple[str, ...], values: Iterable[tuple[float, int]]) -> None:
        """Count values, each so many times; ``labels`` as for :meth:`observe`."""
        bounds, total = self._bounds, 0.0
        with self._lock:
            counts = self._counts.get(labels)
            if counts is None:
                if len(labels) != len(self._labels):
                    raise ValueError(f"{self._name} has the labels {self._labels}, found {labels}")
                counts = self._counts[labels] = [0] * (len(self._bounds) + 1)
                self._sums[labels] = 0.0
            for value, count in values:
                counts[bisect_left(bounds, value)] += count
                total += value * count
            self._sums[labels] += total

    def describe(self) -> Iterable[Metric]:
        yield HistogramMetricFamily(self._name, self._documentation, labels=self._labels)

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        with self._lock:
            series = [(labels, list(counts), self._sums[labels]) for labels, counts in self._counts.items()]
        for labels, counts, total in series:
            buckets: list[tuple[str, float]] = []
            upto = 0
            for bound, count in zip((*map(_bound, self._bounds), "+Inf"), counts, strict=True):
                upto += count
                buckets.append((bound, upto))
            family.add_metric(labels, buckets, total)
        yield family


def _bound(value: float) -> str:
    # 1.0 and not 1, as prometheus_client writes it: to Prometheus it is a text.
    return str(float(value))


# What is sent, and what comes of it

push_sent: Final = Counter(
    "push_sent", "Requests that were handed to a provider, every attempt; counted when they end.", _LANE
)
push_delivered: Final = Counter("push_delivered", "Recipients that the provider accepted.", _LANE)
push_failed: Final = Counter(
    "push_failed",
    f"Recipients that ended otherwise; reason: {', '.join(FAILURES)}.",
    (*_LANE, "reason"),
)
push_retries: Final = Counter(
    "push_retries", "Recipients that are to be tried again after a failed attempt.", _LANE
)
push_dead_letters: Final = Counter(
    "push_dead_letters",
    "Dead letters written; reason as in push_failed_total.",
    (*_TARGET, "reason"),
)
unknown: Final = Counter(
    "pushq_unknown", "Recipients of whom nobody knows whether they were reached.", (*_TARGET, "reason")
)
push_e2e_latency: Final = Histogram(
    "push_e2e_latency_seconds",
    "From the call (or the time that it asked for) to a recipient's final answer.",
    ("platform", "lane"),
    (0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 1, 1.5, 2.5, 4, 6, 10, 15, 30, 60, 120, 300),
)
push_provider_latency: Final = Histogram(
    "push_provider_latency_seconds",
    "From writing a request to its answer.",
    _TARGET,
    (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.4, 0.6, 1, 1.5, 2.5, 4, 6, 10, 15, 30),
)
apns_errors: Final = Counter("apns_errors", "Answers of APNs other than 200, by its reason.", ("reason",))
fcm_errors: Final = Counter("fcm_errors", "Answers of FCM other than 200, by its error code.", ("code",))
hms_errors: Final = Counter(
    "hms_errors", "Answers of HMS that are no success, by its result code.", ("code",)
)

# Tokens

token_cache_hits: Final = Counter(
    "token_cache_hits", "Recipients whose token came from Redis.", ("platform",)
)
token_cache_misses: Final = Counter(
    "token_cache_misses", "Recipients whose token had to be read from PostgreSQL.", ("platform",)
)
push_tokens_deactivated: Final = Counter(
    "push_tokens_deactivated",
    f"Tokens taken out of use; reason: {', '.join(DEACTIVATIONS)}.",
    (*_TARGET, "reason"),
)

# Limits

mass_invalidation_held: Final = Gauge(
    "pushq_mass_invalidation_held",
    "1 while so many tokens are refused in a way that a wrong set-up causes that none is invalidated.",
    _TARGET,
)
mass_invalidation_holds: Final = Counter(
    "pushq_mass_invalidation_holds",
    "Batches whose refused tokens condemned the set-up.",
    _TARGET,
)
breaker_state: Final = Gauge(
    "pushq_breaker_state",
    "Circuit breaker as this process last saw it: 0 closed, 1 half open, 2 open.",
    _TARGET,
)
rate_limit_wait_seconds: Final = Counter(
    "pushq_rate_limit_wait_seconds",
    f"Seconds that batches were told to wait; reason: {', '.join(WAITS)}.",
    (*_TARGET, "reason"),
)
rate_limit_local: Final = Counter(
    "pushq_rate_limit_local",
    "Grants by the local limit, because Redis could not be reached.",
    _TARGET,
)
sends_held: Final = Counter(
    "pushq_sends_held",
    f"Sends that were paused because nobody could get anything; cause: {', '.join(HOLDS)}.",
    ("platform", "cause"),
)
guarded_unproven: Final = Counter(
    "pushq_guarded_unproven",
    "Rejections of tokens that were not believed: nothing proves that the set-up is right.",
    _TARGET,
)
# The ledger

batches_parked: Final = Counter(
    "pushq_batches_parked", "Batches that crashed their workers too often and were put aside."
)
last_sweep: Final = Gauge(
    "pushq_last_sweep_timestamp_seconds", "When this process swept last, UNIX time; 0: not since it started."
)
sweeper: Final = Counter(
    "pushq_sweeper", f"What the sweeper did, in rows; action: {', '.join(SWEEPS)}.", ("action",)
)
leases_lost: Final = Counter("pushq_leases_lost", "Leases that another holder took over or that ended.")
unlisted_answers: Final = Counter(
    "pushq_unlisted_answers",
    "Answers that no table lists, by the status class they fell to: look for answer_not_listed in the log.",
    (*_TARGET, "reason"),
)

# Connections

config_reload_failed: Final = Gauge(
    "pushq_config_reload_failed",
    "1 while the configuration file, or a file that it names, cannot be used and the worker keeps what it had.",
)
config_reloads: Final = Counter(
    "pushq_config_reloads", "Changed configurations that were taken over without a restart."
)

_POOL: Final = ("pool",)
apns_connection_pool_exhausted: Final = Counter(
    "apns_connection_pool_exhausted",
    "How often requests waited, all connections to APNs were full, and no more were allowed.",
    _POOL,
)
http2_pool_exhausted: Final = Counter(
    "pushq_http2_pool_exhausted", "The same for every provider, APNs included.", _POOL
)
http2_connections_opened: Final = Counter("pushq_http2_connections_opened", "Connections made.", _POOL)
http2_connections_ended: Final = Counter(
    "pushq_http2_connections_ended", "Connections that ended, by reason.", (*_POOL, "reason")
)
http2_connects_failed: Final = Counter(
    "pushq_http2_connects_failed", "Attempts to connect that failed, by reason.", (*_POOL, "reason")
)
http2_goaways: Final = Counter("pushq_http2_goaways", "GOAWAYs, by HTTP/2 error code.", (*_POOL, "code"))
http2_connections: Final = Gauge(
    "pushq_http2_connections",
    "Connections that take requests, and those that only finish theirs.",
    (*_POOL, "state"),
)
http2_streams: Final = Gauge(
    "pushq_http2_streams", "Requests in flight, and the limit now.", (*_POOL, "kind")
)
http2_queued: Final = Gauge("pushq_http2_queued", "Requests that wait for a stream.", _POOL)


# The HTTP API and the console

web_requests: Final = Counter(
    "pushq_web_requests",
    "Requests by operation of the OpenAPI document (console: its pages; none: refused before one was found) and HTTP status.",
    ("operation", "status"),
)
web_request_latency: Final = Histogram(
    "pushq_web_request_seconds",
    "From a request's headers to the beginning of its answer, which is its end but for streams.",
    ("operation",),
    (0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
web_calls_together: Final = Histogram(
    "pushq_web_calls_together",
    "Calls that went to the broker in one lot.",
    (),
    (1, 2, 3, 5, 10, 20, 50, 100, 200),
)


class Family(NamedTuple):
    """A gauge that the exporter makes anew for every scrape, in the order in which ``GaugeMetricFamily`` takes it."""

    name: str
    documentation: str
    labels: tuple[str, ...] = ()


# The exporter

_SEND: Final = ("send", *_TARGET)
queue_messages: Final = Family(
    "pushq_queue_messages",
    "Messages in a queue of the broker; state: ready, unacked. Unacked is absent where it cannot be known.",
    ("queue", "state"),
)
queue_consumers: Final = Family(
    "pushq_queue_consumers", "Consumers of a queue; RabbitMQ only, Redis does not know them.", ("queue",)
)
queue_up: Final = Family("pushq_queue_up", "1 while the broker answers about its queues.", ("broker",))
queue_unacked_known: Final = Family(
    "pushq_queue_unacked_known",
    "1 while the broker says how many messages are unacknowledged; RabbitMQ needs PUSHQ_RABBITMQ_MANAGEMENT_URL for it.",
    ("broker",),
)
oldest_waiting_batch: Final = Family(
    "pushq_oldest_waiting_batch_seconds",
    "How long the batch that waits longest has been due without a worker; 0: none waits.",
    ("platform",),
)
batches: Final = Family(
    "pushq_batches",
    "Batches that are not done; state: planned, queued, running, retry.",
    ("platform", "state"),
)
greenlets: Final = Family(
    "pushq_greenlets", "Greenlets of this process that were started since it was ready and have not ended."
)
messages_held: Final = Family(
    "pushq_messages_held",
    "Messages that this worker has taken and not acknowledged; those that wait for a countdown are not among them.",
    ("queue",),
)
send_pending_recipients: Final = Family(
    "pushq_send_pending_recipients",
    "Recipients without a final outcome, of the newest open broadcasts (50 at most).",
    _SEND,
)
send_recipients: Final = Family(
    "pushq_send_recipients",
    "Recipients by outcome, of the newest open broadcasts (50 at most).",
    (*_SEND, "outcome"),
)
send_eta: Final = Family(
    "pushq_send_eta_seconds",
    "Time left at the rate of the last two minutes, of the newest open broadcasts; absent while nobody can tell.",
    ("send",),
)
sends: Final = Family(
    "pushq_sends", "Sends by state; those that have ended: within the last day.", ("state",)
)
tokens_active: Final = Family(
    "push_tokens_active",
    "Active tokens; a sample of the table counted every five minutes, exact while the table is small.",
    _TARGET,
)
redis_memory: Final = Family(
    "pushq_redis_memory_bytes", "Memory of Redis; kind: used, max (0: no limit).", ("kind",)
)
exporter_up: Final = Family(
    "pushq_exporter_up", "1 while the source answers in time; source: broker, database, redis.", ("source",)
)
exporter_errors: Final = Counter(
    "pushq_exporter_errors", "Scrapes in which a source did not answer in time.", ("source",), registry=None
)


# Credentials and this process

credential_expiry: Final = Gauge(
    "pushq_credential_expiry_timestamp_seconds",
    "When a credential ends, UNIX time; kind: client_certificate, access_token, provider_token, ca.",
    (*_TARGET, "kind"),
)
build_info: Final = Gauge("pushq_build_info", "1; what runs here is in the labels.", ("version", "python"))


def expect(app: str, platform: str) -> None:
    """Begin the series of an app and platform at zero: an alert on a counter that appears with its first event misses that one."""
    for lane in LANES:
        for counter in (push_sent, push_delivered, push_retries):
            counter.labels(app, platform, lane)
        for reason in FAILURES:
            push_failed.labels(app, platform, lane, reason)
        push_e2e_latency.observe((platform, lane), 0.0, 0)
    for reason in FAILURES:
        push_dead_letters.labels(app, platform, reason)
    push_provider_latency.observe((app, platform), 0.0, 0)
    for each in (
        breaker_state,
        mass_invalidation_held,
        mass_invalidation_holds,
        guarded_unproven,
        rate_limit_local,
    ):
        each.labels(app, platform)
    for reason in WAITS:
        rate_limit_wait_seconds.labels(app, platform, reason)
    token_cache_hits.labels(platform)
    token_cache_misses.labels(platform)


def expect_holds(platform: str) -> None:
    """The same for a process that delivers to a platform, whichever apps it has."""
    for cause in HOLDS:
        sends_held.labels(platform, cause)


def forget_states(app: str, platform: str) -> None:
    """No client of this app and platform is left: what it saw last is not so any more. Counters stay, for what happened did."""
    for each in (breaker_state, mass_invalidation_held):
        each.remove(app, platform)


def expect_deactivations(app: str, platform: str) -> None:
    """The same for a process that takes tokens out of use."""
    for reason in DEACTIVATIONS:
        push_tokens_deactivated.labels(app, platform, reason)


def expect_sweeps() -> None:
    """The same for a process that sweeps: its very first sweep may be the one that finds what all workers have left."""
    for action in SWEEPS:
        sweeper.labels(action)
