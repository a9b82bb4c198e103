"""What the connection pools of a worker count, as metrics."""

from __future__ import annotations

from collections.abc import Sequence

from pushq import metrics
from pushq.http2 import Reason
from pushq.providers.client import RequestPool
from pushq.providers.error_metrics import expect_errors

#: Error codes of RFC 9113 section 7; whatever else a peer sends is one label.
_HIGHEST_CODE = 0xD


class PoolMetrics:
    """Counts events of pools; see :class:`pushq.http2.figures.PoolObserver`."""

    def connection_opened(self, pool: str, seconds: float) -> None:
        metrics.http2_connections_opened.labels(pool).inc()

    def connection_ended(self, pool: str, reason: Reason) -> None:
        metrics.http2_connections_ended.labels(pool, reason).inc()

    def connect_failed(self, pool: str, reason: Reason) -> None:
        metrics.http2_connects_failed.labels(pool, reason).inc()

    def answered(self, pool: str, waits: Sequence[tuple[float, int]]) -> None:
        platform, app = _target(pool)
        metrics.push_provider_latency.observe_all((app, platform), waits)

    def goaway_received(self, pool: str, code: int) -> None:
        metrics.http2_goaways.labels(pool, str(code) if code <= _HIGHEST_CODE else "other").inc()

    def exhausted(self, pool: str) -> None:
        metrics.http2_pool_exhausted.labels(pool).inc()
        if pool.startswith("apns/"):
            metrics.apns_connection_pool_exhausted.labels(pool).inc()


def _target(pool: str) -> tuple[str, str]:
    """Platform and app: ``fcm/shop``, ``apns/shop/sandbox``."""
    platform, app = pool.split("/")[:2]
    return platform, app


#: Open pools by name, the newest last: a renewed credential makes another one while the old one drains.
_open: dict[str, list[RequestPool]] = {}


def expose(pool: RequestPool) -> None:
    """Let the gauges of this pool be read from it whenever they are scraped. The newest pool of a name counts."""
    _open.setdefault(pool.name, []).append(pool)
    _show(pool)


def conceal(pool: RequestPool) -> None:
    """The pool is closed: an older one of its name counts again, or there are no gauges of that name any more."""
    left = [each for each in _open.get(pool.name, ()) if each is not pool]
    if left:
        _open[pool.name] = left
        _show(left[-1])
    elif _open.pop(pool.name, None) is not None:
        for state in ("open", "draining"):
            metrics.http2_connections.remove(pool.name, state)
        for kind in ("in_use", "limit"):
            metrics.http2_streams.remove(pool.name, kind)
        metrics.http2_queued.remove(pool.name)
        if _target(pool.name) not in map(_target, _open):
            platform, app = _target(pool.name)
            metrics.forget_states(app, platform)


def _show(pool: RequestPool) -> None:
    name, stats = pool.name, pool.stats
    platform, app = _target(name)
    metrics.expect(app, platform)
    expect_errors(platform)
    metrics.http2_connections.labels(name, "open").set_function(lambda: stats().connections)
    metrics.http2_connections.labels(name, "draining").set_function(lambda: stats().draining)
    metrics.http2_streams.labels(name, "in_use").set_function(lambda: stats().streams)
    metrics.http2_streams.labels(name, "limit").set_function(lambda: stats().stream_limit)
    metrics.http2_queued.labels(name).set_function(lambda: stats().queued)
    # Zero from the start: an alert on a counter that appears with its first event misses that one.
    metrics.http2_pool_exhausted.labels(name)
    if name.startswith("apns/"):
        metrics.apns_connection_pool_exhausted.labels(name)
