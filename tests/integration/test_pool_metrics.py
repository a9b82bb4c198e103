"""What Prometheus sees of the connection pools."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent

from pushq import metrics
from pushq.embedded.server import free_port
from pushq.http2 import Origin, Pool, PoolSettings
from pushq.providers.pool_metrics import PoolMetrics, conceal, expose
from tests.integration.counted import value
from tests.integration.h2_server import Authority, H2Server, Request, Settings
from tests.integration.pool_world import PATIENT, burst_of, number_of, until


@contextmanager
def open_pool(name: str, origin: Origin, **settings: Any) -> Iterator[Pool]:
    pool = Pool(name, origin, PoolSettings(**settings), observer=PoolMetrics())
    expose(pool)
    try:
        yield pool
    finally:
        pool.close(0)


def test_a_pool_that_may_have_no_more_connections_is_counted(authority: Authority) -> None:
    name, held = "apns/metrics", list[Request]()

    def behave(request: Request) -> None:
        if number_of(request):
            held.append(request)
        else:
            request.answer()

    with (
        H2Server(authority, behave, settings={Settings.MAX_CONCURRENT_STREAMS: 10}) as server,
        open_pool(name, server.origin, max_connections=2, first_request_alone=False) as pool,
    ):
        assert value("apns_connection_pool_exhausted_total", pool=name) == 0
        pool.submit(burst_of(100, start=1), PATIENT)
        until(lambda: len(held) == 18)
        until(lambda: value("apns_connection_pool_exhausted_total", pool=name) == 1)
        assert value("pushq_http2_pool_exhausted_total", pool=name) == 1
        assert value("pushq_http2_connections_opened_total", pool=name) == 2
        assert value("pushq_http2_connections", pool=name, state="open") == 2
        assert value("pushq_http2_streams", pool=name, kind="in_use") == 18
        assert value("pushq_http2_streams", pool=name, kind="limit") == 18
        assert value("pushq_http2_queued", pool=name) == 82
    assert value("pushq_http2_connections", pool=name, state="open") == 0
    assert value("pushq_http2_connections_ended_total", pool=name, reason="pool_closed") == 2


def test_attempts_that_fail_are_counted_by_reason() -> None:
    name = "fcm/metrics"
    with open_pool(name, Origin("localhost", free_port()), backoff_min_s=0.01) as pool:
        pool.start()
        until(
            lambda: (value("pushq_http2_connects_failed_total", pool=name, reason="connect_refused") or 0) > 0
        )
    assert value("apns_connection_pool_exhausted_total", pool=name) is None


def test_how_long_answers_took_is_a_histogram_of_the_app(authority: Authority) -> None:
    held = list[Request]()

    def seen(suffix: str, **more: str) -> float:
        return value(f"push_provider_latency_seconds_{suffix}", app="timed", platform="apns", **more) or 0.0

    with (
        H2Server(authority, held.append) as server,
        open_pool("apns/timed/sandbox", server.origin, first_request_alone=False) as pool,
    ):
        assert seen("count") == 0  # begun by the pool
        pool.submit(burst_of(20), PATIENT)
        until(lambda: len(held) == 20)
        gevent.sleep(0.3)
        for request in held:
            request.answer()
        until(lambda: seen("count") == 20)
    assert seen("bucket", le="0.25") == 0
    assert seen("sum") >= 20 * 0.3


def test_an_app_that_is_gone_leaves_counters_and_no_states() -> None:
    def states() -> set[float | None]:
        found = {
            value(name, app="gone", platform="apns")
            for name in ("pushq_breaker_state", "pushq_mass_invalidation_held")
        }
        return found | {value("pushq_http2_queued", pool="apns/gone")}

    origin = Origin("localhost", free_port())
    pools = [
        Pool(name, origin, PoolSettings()) for name in ("apns/gone", "apns/gone/sandbox", "apns/gone-on")
    ]
    for pool in pools:
        expose(pool)
    metrics.breaker_state.labels("gone", "apns").set(2)
    metrics.mass_invalidation_held.labels("gone", "apns").set(2)
    metrics.push_sent.labels("gone", "apns", "broadcast").inc(7)
    conceal(pools[0])
    assert states() == {2, None}, "the sandbox's is still there"
    conceal(pools[1])
    assert states() == {None}
    assert value("push_sent_total", app="gone", platform="apns", lane="broadcast") == 7
    expose(pools[0])  # the app is back
    assert states() == {0}
    for pool in (pools[0], pools[2]):
        conceal(pool)
