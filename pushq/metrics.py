"""Every metric of pushq: names and label sets in one place, labels from closed sets.

The parts count where something is decided; a worker serves what they counted on ``PUSHQ_METRICS_PORT``. No device, user, send or
text of a provider is ever a label.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import Counter, Gauge, start_http_server

from pushq.errors import SettingsError

_TARGET: Final = ("app", "platform")

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
    "Seconds that batches were told to wait; reason: rate, send_rate, retry_after, breaker_open.",
    (*_TARGET, "reason"),
)
rate_limit_local: Final = Counter(
    "pushq_rate_limit_local",
    "Grants by the local limit, because Redis could not be reached.",
    _TARGET,
)
guarded_unproven: Final = Counter(
    "pushq_guarded_unproven",
    "Rejections of tokens that were not believed: nothing proves that the set-up is right.",
    _TARGET,
)
batches_parked: Final = Counter(
    "pushq_batches_parked", "Batches that crashed their workers too often and were put aside."
)
sweeper: Final = Counter("pushq_sweeper", "What the sweeper did, in rows.", ("action",))
leases_lost: Final = Counter("pushq_leases_lost", "Leases that another holder took over or that ended.")
unlisted_answers: Final = Counter(
    "pushq_unlisted_answers",
    "Answers that no table lists, by the status class they fell to: look for answer_not_listed in the log.",
    (*_TARGET, "reason"),
)
unknown: Final = Counter(
    "pushq_unknown", "Recipients of whom nobody knows whether they were reached.", (*_TARGET, "reason")
)

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


def serve(host: str, port: int) -> Callable[[], None]:
    """Serve the metrics over HTTP; returns what ends it.

    Raises:
        SettingsError: nobody can listen there.
    """
    try:
        server, thread = start_http_server(port, host)
    except OSError as exc:
        raise SettingsError(
            f"PUSHQ_METRICS_PORT: found {port} on {host}, where nobody can listen ({exc.strerror}); "
            "expected a port of its own for each worker of this machine"
        ) from exc

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join(5.0)

    return end
