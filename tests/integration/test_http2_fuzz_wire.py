"""Random frames and damaged ones over real sockets: every request ends, and the pool goes on."""

from __future__ import annotations

import gevent
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pushq.http2 import Burst, Code, HeaderTemplate, Pool, PoolSettings
from tests.integration.h2_server import Authority
from tests.integration.wire_server import Wire, WireServer, polite

TEMPLATE = HeaderTemplate(b"/3/device/", ((b"apns-topic", b"com.example.shop"),))
PATIENT = 30.0
STREAM = st.integers(0, 20).map(lambda number: 2 * number + 1)
FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.builds(lambda stream: HeadersFrame(stream, b"\x88", flags=["END_HEADERS", "END_STREAM"]), STREAM),
    st.builds(lambda stream: HeadersFrame(stream, b"\x8c", flags=["END_HEADERS"]), STREAM),
    st.builds(
        lambda stream, end: DataFrame(stream, b"{}", flags=["END_STREAM"] if end else []),
        STREAM,
        st.booleans(),
    ),
    st.builds(lambda stream, code: RstStreamFrame(stream, error_code=code), STREAM, st.integers(0, 14)),
    st.builds(lambda value: SettingsFrame(0, settings={3: value}), st.integers(0, 50)),
    st.builds(lambda value: SettingsFrame(0, settings={4: value}), st.integers(0, 70_000)),
    st.builds(
        lambda stream, code: GoAwayFrame(0, last_stream_id=stream, error_code=code),
        STREAM,
        st.integers(0, 14),
    ),
    st.just(PingFrame(0, b"12345678")),
)
OCTETS = st.one_of(
    FRAMES.map(lambda frame: frame.serialize()),
    FRAMES.map(lambda frame: frame.serialize()),
    st.binary(max_size=30),
)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(
    parts=st.lists(OCTETS, max_size=30),
    piece=st.sampled_from([0, 0, 5]),
    way=st.sampled_from(["cut", "reset", "alarm", "stay"]),
)
def test_whatever_comes_every_request_ends(
    authority: Authority, parts: list[bytes], piece: int, way: str
) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.take(5)
        wire.send(*parts, piece=piece)
        if way != "stay":
            getattr(wire, way)()
        wire.drain()

    values = PoolSettings(
        max_connections=2,
        first_request_alone=False,
        request_timeout_s=0.2,
        open_spacing_s=0.001,
        backoff_min_s=0.001,
        backoff_max_s=0.01,
        tick_s=0.02,
    )
    with WireServer(authority, script, polite) as server:
        pool = Pool("fuzz", server.origin, values)
        pool.start()
        try:
            with gevent.Timeout(PATIENT, AssertionError("the pool does not recover")):
                good = False
                while not good:
                    targets = [b"%064x" % number for number in range(15)]
                    burst = Burst(TEMPLATE, 15, targets=targets, bodies=b"{}")
                    pool.submit(burst, PATIENT)
                    assert burst.wait(PATIENT), (burst, pool.stats())
                    assert min(burst.codes) >= Code.OK
                    good = burst.codes.count(Code.OK) == 15
        finally:
            pool.close(0)
            gevent.sleep(0)
