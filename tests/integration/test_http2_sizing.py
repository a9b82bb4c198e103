"""How many connections a pool keeps: it grows by need, shrinks when idle, replaces in time, and lets idle ones go."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial

import gevent
import pytest

from pushq.http2 import Code, ConnectionState
from pushq.http2.frames import ErrorCode
from tests.integration.h2_server import Authority, H2Server, Request, ServerConnection, Settings
from tests.integration.pool_world import MAX, PATIENT, Pools, burst_of, heard, number_of, send, tally, until


def test_free_streams_are_no_reason_to_grow(authority: Authority, pools: Pools) -> None:
    held: list[Request] = []

    def behave(request: Request) -> None:
        if number_of(request):
            held.append(request)
        else:
            request.answer()

    with H2Server(authority, behave, settings={Settings.MAX_CONCURRENT_STREAMS: 200}) as server:
        pool = pools(server.origin, max_connections=4, request_timeout_s=PATIENT)
        send(pool, burst_of(1))
        for number in range(1, 101):
            pool.submit(burst_of(1, start=number), PATIENT)
        until(lambda: len(held) == 100)
        gevent.sleep(0.1)
        assert len(server.connections) == 1
        assert pool.stats().exhausted == 0


def test_a_pool_shrinks_one_by_one_when_idle(authority: Authority, pools: Pools) -> None:
    release = threading.Event()

    def behave(request: Request) -> None:
        if number_of(request) >= 1000:
            release.wait(PATIENT)
        request.answer()

    with H2Server(authority, behave, settings={Settings.MAX_CONCURRENT_STREAMS: 10}) as server:
        pool = pools(
            server.origin,
            min_connections=1,
            max_connections=4,
            first_request_alone=False,
            idle_close_s=0.4,
            request_timeout_s=PATIENT,
        )
        burst = burst_of(100, start=1000)
        pool.submit(burst, PATIENT)
        until(lambda: pool.stats().connections == 4)
        seen: list[int] = []
        release.set()
        assert burst.wait(PATIENT)

        def shrunk() -> bool:
            seen.append(pool.stats().connections)
            return seen[-1] == 1

        until(shrunk)
        assert sorted(set(seen), reverse=True) == [4, 3, 2, 1]
        until(lambda: heard(pool).ended == ["surplus"] * 3)
        gevent.sleep(0.6)
        assert pool.stats().connections == 1, "neither below the minimum nor up again"
        assert pool.stats().opened == 4
        assert pool.stats().lost == 0
        assert tally(send(pool, burst_of(5))) == {Code.OK: 5}
        assert len(server.connections) == 4


def test_what_is_in_flight_keeps_its_connection(authority: Authority, pools: Pools) -> None:
    held: list[Request] = []
    with H2Server(authority, held.append, settings={Settings.MAX_CONCURRENT_STREAMS: 1}) as server:
        pool = pools(
            server.origin,
            max_connections=3,
            first_request_alone=False,
            idle_close_s=0.1,
            request_timeout_s=PATIENT,
        )
        burst = burst_of(3)
        pool.submit(burst, PATIENT)
        until(lambda: len(held) == 3)
        gevent.sleep(0.4)
        assert pool.stats().connections == 3
        assert tally(burst) == {Code.IN_FLIGHT: 3}


def test_a_draining_connection_is_replaced_before_it_is_gone(authority: Authority, pools: Pools) -> None:
    held: list[Request] = []

    def behave(request: Request) -> None:
        if request.connection.number or number_of(request) == 0:
            if number_of(request) == 999:  # the sign to finish the old connection's
                for waiting in held:
                    waiting.answer()
                    waiting.connection.flush()
            request.answer()
            return
        held.append(request)
        if len(held) == 10:
            request.connection.goaway(MAX)

    with H2Server(authority, behave) as server:
        # The minimum is none, so it is the use that makes it worth replacing.
        pool = pools(server.origin, min_connections=0, request_timeout_s=PATIENT)
        burst = burst_of(11)
        pool.submit(burst, PATIENT)
        until(lambda: pool.stats().draining == 1 and pool.stats().connections == 1)
        states = [row.state for row in pool.connections()]
        assert states == [ConnectionState.DRAINING, ConnectionState.WARMING]
        assert pool.connections()[0].drain_reason == "goaway"
        assert tally(burst) == {Code.OK: 1, Code.IN_FLIGHT: 10}
        assert tally(send(pool, burst_of(1, start=999))) == {Code.OK: 1}
        assert burst.wait(PATIENT)
        assert tally(burst) == {Code.OK: 11}
        until(lambda: pool.stats().draining == 0)
        assert pool.stats().lost == 0, "an orderly end is no loss"


@pytest.mark.parametrize("farewell", ["goaway", "goaway, then the end", "end of stream"])
def test_an_idle_close_is_normal_and_silent(
    farewell: str, authority: Authority, pools: Pools, caplog: pytest.LogCaptureFixture
) -> None:
    def close(connection: ServerConnection) -> None:
        if farewell.startswith("goaway"):
            connection.goaway(MAX)
        if farewell.endswith("then the end"):
            time.sleep(0.1)  # on the connection's own thread: the client reads one without the other
        connection.cut()

    caplog.set_level(logging.INFO, "pushq.http2")
    with H2Server(authority, on_silence=close) as server:
        pool = pools(server.origin, idle_after_s=1e-6)
        assert tally(send(pool, burst_of(10))) == {Code.OK: 10}
        until(lambda: pool.stats().idle_closed == 2)
        # The first was in use before, and was replaced. The second was never used: nothing is opened for nobody.
        gevent.sleep(0.5)
        assert len(server.connections) == 2
        assert pool.stats().connections == 0
        assert heard(pool).ended == ["idle_closed", "idle_closed"]
        assert (pool.stats().lost, pool.stats().failed, pool.stats().goaways) == (0, 0, 0)
        assert pool.stats().last_error == ""
        assert {record.getMessage() for record in caplog.records} == {"http2_connection_opened"}
        assert tally(send(pool, burst_of(3, start=100))) == {Code.OK: 3}
        assert pool.stats().failed == 0


def test_a_close_before_it_was_idle_is_a_loss(authority: Authority, pools: Pools) -> None:
    with H2Server(authority, on_silence=ServerConnection.cut) as server:
        pool = pools(server.origin, idle_after_s=PATIENT)
        pool.start()
        until(lambda: pool.stats().lost == 2)
        assert pool.stats().idle_closed == 0
        assert pool.stats().failed > 0
        assert heard(pool).ended[0] == "connection_lost"


def test_a_peer_that_takes_nothing_and_leaves_is_no_idle_one(authority: Authority, pools: Pools) -> None:
    settings = {Settings.MAX_CONCURRENT_STREAMS: 0}
    with H2Server(authority, settings=settings, on_silence=ServerConnection.cut) as server:
        pool = pools(server.origin, idle_after_s=1e-6)
        pool.submit(burst_of(1), PATIENT)
        until(lambda: pool.stats().failed == 2)
        assert pool.stats().idle_closed == 0


def test_an_end_with_a_request_in_flight_is_a_loss(authority: Authority, pools: Pools) -> None:
    """However long the request has been waiting: silence is not idleness."""

    def behave(request: Request) -> None:
        if number_of(request) == 0:
            request.answer()

    with H2Server(authority, behave, on_silence=ServerConnection.cut) as server:
        pool = pools(server.origin, idle_after_s=0.01, request_timeout_s=PATIENT)
        burst = send(pool, burst_of(3))
        assert tally(burst) == {Code.OK: 1, Code.UNKNOWN: 2}
        assert pool.stats().lost == 1
        assert heard(pool).ended[0] == "connection_lost"


def test_a_row_for_each_connection(authority: Authority, pools: Pools) -> None:
    held: list[Request] = []

    def behave(request: Request) -> None:
        if number_of(request) < 2:
            request.answer()
        else:
            held.append(request)

    with H2Server(authority, behave, settings={Settings.MAX_CONCURRENT_STREAMS: 10}) as server:
        pool = pools(server.origin, max_connections=2, request_timeout_s=PATIENT, stream_ceiling=1.0)
        send(pool, burst_of(1))
        first = pool.connections()
        assert [(row.number, row.state, row.requests, row.answered) for row in first] == [
            (1, ConnectionState.OPEN, 1, 1)
        ]
        pool.submit(burst_of(10, start=2), PATIENT)
        until(lambda: len(held) == 10)
        (row,) = pool.connections()
        assert row.state == ConnectionState.BLOCKED
        assert (row.streams, row.stream_limit, row.requests) == (10, 10, 11)
        assert row.peer == f"127.0.0.1:{server.port}"
        assert row.window == 65_535 - 11 * len(b'{"aps":{}}') or row.window > 60_000
        assert row.age_s >= row.idle_s >= 0
        assert row.drain_reason is None


def test_a_provider_that_throws_out_after_each_answer_is_asked_less_and_less(
    authority: Authority, pools: Pools
) -> None:
    """Every connection answers once, so none of them is a failed attempt. They are not opened as fast as they end, all the same."""

    def behave(request: Request) -> None:
        request.answer()
        request.connection.flush()
        request.connection.goaway(request.stream_id, ErrorCode.ENHANCE_YOUR_CALM)
        request.connection.cut()

    with H2Server(authority, behave) as server:
        pool = pools(server.origin, backoff_min_s=0.02, backoff_max_s=10.0)

        def thrown_out(times: int) -> bool:
            return len(heard(pool).ended) == times

        for number in range(5):
            assert tally(send(pool, burst_of(1, start=number))) == {Code.OK: 1}
            until(partial(thrown_out, number + 1))
        assert pool._opener._admission.failures == 5
        assert pool.stats().failed == 0
