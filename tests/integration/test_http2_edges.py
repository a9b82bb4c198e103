"""The protocol's edges over real sockets and TLS: a scripted peer does what nobody should, or what APNs and FCM are known for.

docs/http2.md lists the edges with their tests.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import gevent
import pytest
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from pushq.http2 import Burst, Code, GoAwayReceived, HeaderTemplate, Pool, PoolSettings, Reason
from pushq.http2.core import Core
from pushq.http2.frames import ErrorCode
from tests.integration.h2_server import Authority
from tests.integration.wire_server import (
    FRAME_SIZE,
    STREAMS,
    WINDOW,
    ClientGone,
    Wire,
    WireServer,
    polite,
)

TEMPLATE = HeaderTemplate(
    b"/3/device/", ((b"authorization", b"bearer " + b"x" * 180), (b"apns-topic", b"com.example.shop"))
)
PATIENT = 30.0
MAX = 2**31 - 1

Pools = Callable[..., Pool]


@pytest.fixture
def pools() -> Iterator[Pools]:
    made: list[Pool] = []

    def make(
        server: WireServer, heard: Callable[[GoAwayReceived], None] | None = None, **settings: object
    ) -> Pool:
        values = {
            "max_connections": 1,
            "first_request_alone": False,
            "stream_ceiling": 1.0,
            "open_spacing_s": 0.001,
            "backoff_min_s": 0.001,
            "backoff_max_s": 0.01,
            "tick_s": 0.02,
        }
        pool = Pool("test", server.origin, PoolSettings(**{**values, **settings}), on_goaway=heard)  # type: ignore[arg-type]
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.close(0)
    gevent.sleep(0)


def burst_of(count: int, body: bytes = b'{"aps":{}}', start: int = 0) -> Burst:
    targets = [b"%064x" % number for number in range(start, start + count)]
    return Burst(TEMPLATE, count, targets=targets, bodies=body)


def send(pool: Pool, burst: Burst) -> Burst:
    pool.start()
    pool.submit(burst, PATIENT)
    assert burst.wait(PATIENT), (burst, pool.stats())
    return burst


def codes(burst: Burst) -> list[Code]:
    return [Code(code) for code in burst.codes]


def recovers(pool: Pool) -> None:
    """The pool is sound: bursts are sent again, as soon as it has noticed that a connection has gone."""
    with gevent.Timeout(PATIENT, AssertionError("the pool does not recover")):
        while True:
            outcome = set(codes(send(pool, burst_of(3, start=1000))))
            if outcome == {Code.OK}:
                return
            assert outcome <= {Code.OK, Code.UNKNOWN, Code.NOT_SENT, Code.REFUSED}, outcome


# Answers in every shape


@pytest.mark.parametrize("piece", [0, 1, 7])
def test_answers_in_every_shape(authority: Authority, pools: Pools, piece: int) -> None:
    """At once, and as records of a few octets."""

    def script(wire: Wire) -> None:
        wire.greet()
        plain, data, split, padded, trailers, early, refused = wire.take(7)
        block = wire.block(200, server="wire")
        frames: list[Frame] = [
            HeadersFrame(plain, wire.block(200), flags=["END_HEADERS", "END_STREAM"]),
            wire.headers(early, 103, end=False, link="x"),
            HeadersFrame(split, block[:1]),
            ContinuationFrame(split, block[1:2]),
            ContinuationFrame(split, b""),
            ContinuationFrame(split, block[2:], flags=["END_HEADERS"]),
            HeadersFrame(padded, wire.block(200), pad_length=5, flags=["PADDED", "PRIORITY", "END_HEADERS"]),
            wire.headers(data, 200, end=False),
            wire.headers(refused, 410, end=False, **{"apns-id": "7"}),
            wire.headers(trailers, 503, end=False),
            # Bodies between each other.
            DataFrame(refused, b'{"reason":', pad_length=3, flags=["PADDED"]),
            DataFrame(data, b"one"),
            DataFrame(trailers, b"busy"),
            DataFrame(refused, b'"Unregistered"}', flags=["END_STREAM"]),
            DataFrame(split, b"", flags=["END_STREAM"]),
            DataFrame(padded, b"x", pad_length=200, flags=["PADDED", "END_STREAM"]),
            DataFrame(data, b""),
            HeadersFrame(
                trailers, wire.encoder.encode([("grpc-status", "0")]), flags=["END_HEADERS", "END_STREAM"]
            ),
            DataFrame(data, b"two", flags=["END_STREAM"]),
            wire.headers(early, 100, end=False),
            wire.headers(early, 200),
        ]
        wire.send(*frames, piece=piece)
        wire.drain()

    with WireServer(authority, script) as server:
        burst = send(pools(server), burst_of(7))
    ok = Code.OK
    assert codes(burst) == [ok, ok, ok, ok, Code.ANSWERED, ok, Code.ANSWERED]
    assert (burst.answers[4].status, burst.answers[4].body) == (503, b"busy")
    assert (burst.answers[6].status, burst.answers[6].body) == (410, b'{"reason":"Unregistered"}')
    assert burst.answers[6].headers == {"apns-id": "7"}


def test_a_peer_that_keeps_its_header_table(authority: Authority, pools: Pools) -> None:
    """It acknowledges HEADER_TABLE_SIZE 0 and goes on with a table: every block counts, also those of streams that ended."""

    def script(wire: Wire) -> None:
        encoder = Encoder()
        wire.greet()
        ids = wire.take(60)
        wire.send(RstStreamFrame(ids[0], error_code=ErrorCode.REFUSED_STREAM))
        for number, stream_id in enumerate(ids):
            fields = [
                (":status", "200" if number % 3 else "429"),
                ("apns-id", f"id-{number // 2}"),
                ("server", "wire"),
            ]
            wire.send(HeadersFrame(stream_id, encoder.encode(fields), flags=["END_HEADERS", "END_STREAM"]))
        wire.drain()

    with WireServer(authority, script) as server:
        burst = send(pools(server), burst_of(60))
    assert codes(burst)[0] == Code.REFUSED
    assert all(codes(burst)[number] == (Code.OK if number % 3 else Code.ANSWERED) for number in range(1, 60))
    assert {number: answer.headers["apns-id"] for number, answer in burst.answers.items()} == {
        number: f"id-{number // 2}" for number in range(3, 60, 3)
    }


# Windows


def test_tiny_window_updates_stream_by_stream(authority: Authority, pools: Pools) -> None:
    def script(wire: Wire) -> None:
        wire.greet({WINDOW: 5})
        while sum(each.complete for each in wire.asked.values()) < 4:
            frame = wire.frame()
            if isinstance(frame, DataFrame) and "END_STREAM" not in frame.flags:
                assert len(frame.data) <= 7
                wire.send(WindowUpdateFrame(frame.stream_id, window_increment=3))
                wire.send(WindowUpdateFrame(frame.stream_id, window_increment=4))
        wire.answer(wire.take(4))
        wire.drain()

    body = bytes(range(256))
    with WireServer(authority, script) as server:
        burst = send(pools(server), burst_of(4, body))
        assert [bytes(each.body) for each in server.wires[0].asked.values()] == [body] * 4
    assert set(codes(burst)) == {Code.OK}


def test_the_connection_window_in_small_change(authority: Authority, pools: Pools) -> None:
    """65,535 octets hold 15 full payloads; what follows waits without a stream and goes out as the window opens."""
    body = b"x" * 4096

    def script(wire: Wire) -> None:
        wire.greet()
        ids = wire.take(15)
        wire.echo()
        assert len(wire.asked) == 15
        got = 15
        while got < 40:
            for _ in range(5):
                wire.send(WindowUpdateFrame(0, window_increment=1000))
                wire.echo()
            fresh = [each.stream_id for each in wire.asked.values() if each.complete][got:]
            ids += fresh
            got += len(fresh)
        wire.answer(ids)
        wire.drain()

    with WireServer(authority, script) as server:
        burst = send(pools(server), burst_of(40, body))
        assert all(each.body == body for each in server.wires[0].asked.values())
    assert set(codes(burst)) == {Code.OK}


def test_a_window_below_zero(authority: Authority, pools: Pools) -> None:
    seen: list[int] = []

    def script(wire: Wire) -> None:
        wire.greet({WINDOW: 100})
        wire.until(lambda: 1 in wire.asked and bool(wire.asked[1].body))
        seen.append(len(wire.asked[1].body))
        for step in (
            SettingsFrame(0, settings={WINDOW: 10}),  # -90
            WindowUpdateFrame(1, window_increment=90),  # 0
            WindowUpdateFrame(1, window_increment=5),
            SettingsFrame(0, settings={WINDOW: 0}),  # -10
            SettingsFrame(0, settings={WINDOW: 12}),  # 2
        ):
            wire.send(step)
            wire.echo()
            seen.append(len(wire.asked[1].body))
        wire.send(WindowUpdateFrame(1, window_increment=1000))
        wire.answer(wire.take())
        wire.drain()

    with WireServer(authority, script) as server:
        burst = send(pools(server), burst_of(1, b"x" * 300))
    assert seen == [100, 100, 100, 105, 105, 107]
    assert codes(burst) == [Code.OK]


def test_frame_size_raised_and_lowered(authority: Authority, pools: Pools) -> None:
    def script(wire: Wire) -> None:
        wire.greet({FRAME_SIZE: 30_000, WINDOW: 1 << 20}, credit=1 << 20)
        wire.answer(wire.take())
        wire.send(SettingsFrame(0, settings={FRAME_SIZE: 16_384}))
        wire.answer(wire.take())
        wire.drain()

    with WireServer(authority, script) as server:
        pool = pools(server)
        for _ in range(2):
            assert codes(send(pool, burst_of(1, b"x" * 50_000))) == [Code.OK]
            # Only then is the next setting there for sure: the client acknowledges in order.
            gevent.sleep(0.05)
        first, second = server.wires[0].asked.values()
    assert first.pieces == [30_000, 20_000]
    assert second.pieces == [16_384, 16_384, 16_384, 50_000 - 3 * 16_384]


# The stream limit


def test_a_limit_lowered_while_requests_were_on_the_way(authority: Authority, pools: Pools) -> None:
    """The surplus is refused, which makes it safe to repeat, and the new limit is kept."""
    together: list[int] = []

    def script(wire: Wire) -> None:
        wire.greet({STREAMS: 20})
        ids = wire.take(20)
        wire.send(SettingsFrame(0, settings={STREAMS: 1}))
        wire.send(*(RstStreamFrame(each, error_code=ErrorCode.REFUSED_STREAM) for each in ids[1:]))
        wire.answer(ids[:1])
        with contextlib.suppress(ClientGone):
            while True:
                fresh = wire.take()
                wire.echo()
                together.append(len([each for each in wire.asked if each > fresh[0]]))
                wire.answer(fresh)

    with WireServer(authority, script) as server:
        pool = pools(server)
        burst = send(pool, burst_of(20))
        assert codes(burst) == [Code.OK] + [Code.REFUSED] * 19
        assert set(burst.reasons.values()) == {Reason.REFUSED_STREAM}
        assert set(codes(send(pool, burst_of(19)))) == {Code.OK}
        assert len(server.wires) == 1
    assert together == [0] * 19


@pytest.mark.parametrize(
    ("code", "debug"),
    [
        (ErrorCode.REFUSED_STREAM, b"Maximum active streams violated for this endpoint"),
        (ErrorCode.PROTOCOL_ERROR, b"exceeded_max_concurrent_streams"),
    ],
)
def test_a_crossing_that_is_punished_with_goaway(
    authority: Authority, pools: Pools, code: ErrorCode, debug: bytes
) -> None:
    """As APNs does it, and as FCM does it."""

    def script(wire: Wire) -> None:
        wire.greet({STREAMS: 10})
        ids = wire.take(10)
        wire.send(SettingsFrame(0, settings={STREAMS: 1}))
        wire.send(GoAwayFrame(0, last_stream_id=ids[3], error_code=code, additional_data=debug))
        wire.answer(ids[:2])
        wire.cut()

    with WireServer(authority, script, polite) as server:
        pool = pools(server)
        burst = send(pool, burst_of(10))
        assert codes(burst) == [Code.OK] * 2 + [Code.UNKNOWN] * 2 + [Code.REFUSED] * 6
        recovers(pool)


def test_stream_ids_used_up(authority: Authority, pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushq.http2.pool.Core", functools.partial(Core, retire_at_stream_id=101))
    with WireServer(authority) as server:
        pool = pools(server, chunk=7, grab=7)
        assert set(codes(send(pool, burst_of(400)))) == {Code.OK}
        tokens = [each.token for wire in server.wires for each in wire.asked.values()]
        assert len(tokens) == len(set(tokens)) == 400
        assert all(max(wire.asked, default=0) < 115 for wire in server.wires)
        assert len(server.wires) >= 400 // 57
        assert pool.stats().lost == 0
        gevent.sleep(0)


# GOAWAY


def test_two_goaways(authority: Authority, pools: Pools) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        ids = wire.take(6)
        wire.send(GoAwayFrame(0, last_stream_id=MAX))
        wire.answer(ids[:1])
        wire.echo()
        wire.send(GoAwayFrame(0, last_stream_id=ids[3], additional_data=b'{"reason":"Shutdown"}'))
        wire.answer(ids[1:3])
        wire.send(wire.headers(ids[3], 400, end=False), DataFrame(ids[3], b"{}", flags=["END_STREAM"]))
        wire.drain()
        assert wire.goaway is not None
        assert wire.goaway.error_code == 0

    heard: list[GoAwayReceived] = []
    with WireServer(authority, script, polite) as server:
        pool = pools(server, heard.append)
        burst = send(pool, burst_of(6))
        assert codes(burst) == [Code.OK] * 3 + [Code.ANSWERED] + [Code.REFUSED] * 2
        recovers(pool)
    assert [(event.reason, event.refused) for event in heard] == [("", 0), ("Shutdown", 2)]


def test_an_expired_credential_in_a_goaway(authority: Authority, pools: Pools) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.take(4)
        wire.send(GoAwayFrame(0, additional_data=b'{"reason":"ExpiredProviderToken"}'))
        wire.cut()

    heard: list[GoAwayReceived] = []
    with WireServer(authority, script, polite) as server:
        pool = pools(server, heard.append)
        burst = send(pool, burst_of(4))
        assert codes(burst) == [Code.REFUSED] * 4
        assert [event.reason for event in heard] == ["ExpiredProviderToken"]
        recovers(pool)


# RST_STREAM


@pytest.mark.parametrize(("status", "code"), [(200, Code.OK), (413, Code.ANSWERED)])
def test_an_answer_before_the_request_is_complete(
    authority: Authority, pools: Pools, status: int, code: Code
) -> None:
    def script(wire: Wire) -> None:
        wire.greet({WINDOW: 10})
        wire.until(lambda: 1 in wire.asked and len(wire.asked[1].body) == 10)
        wire.send(wire.headers(1, status), RstStreamFrame(1, error_code=ErrorCode.NO_ERROR))
        wire.send(WindowUpdateFrame(1, window_increment=1000))
        wire.echo()
        assert len(wire.asked[1].body) == 10
        wire.send(SettingsFrame(0, settings={WINDOW: 65_535}))
        while True:
            wire.answer(wire.take())

    with WireServer(authority, script) as server:
        pool = pools(server)
        assert codes(send(pool, burst_of(1, b"x" * 100))) == [code]
        recovers(pool)
        assert len(server.wires) == 1


def test_resets_at_every_point_of_an_answer(authority: Authority, pools: Pools) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        ids = wire.take(6)
        wire.send(
            RstStreamFrame(ids[0], error_code=ErrorCode.REFUSED_STREAM),
            RstStreamFrame(ids[1], error_code=ErrorCode.INTERNAL_ERROR),
            RstStreamFrame(ids[2], error_code=ErrorCode.NO_ERROR),
            wire.headers(ids[3], end=False),
            RstStreamFrame(ids[3], error_code=ErrorCode.CANCEL),
            wire.headers(ids[4]),
            RstStreamFrame(ids[4], error_code=ErrorCode.NO_ERROR),
            wire.headers(ids[5]),
            RstStreamFrame(ids[5], error_code=ErrorCode.INTERNAL_ERROR),
        )
        while True:
            wire.answer(wire.take())

    with WireServer(authority, script) as server:
        pool = pools(server)
        burst = send(pool, burst_of(6))
        assert codes(burst) == [Code.REFUSED, *[Code.UNKNOWN] * 3, *[Code.OK] * 2]
        recovers(pool)
        assert len(server.wires) == 1


# Ends


WAYS: dict[str, Callable[[Wire], None]] = {
    "fin": Wire.cut,
    "close_notify": Wire.bow,
    "reset": Wire.reset,
    "alert": Wire.alarm,
}


def _after_settings(wire: Wire) -> None:
    wire.greet()
    wire.echo()


def _after_the_requests(wire: Wire) -> None:
    wire.greet()
    wire.take(10)


def _in_a_request(wire: Wire) -> None:
    wire.greet({WINDOW: 5})
    wire.until(lambda: any(each.body for each in wire.asked.values()))


def _in_an_answer(wire: Wire) -> None:
    wire.greet()
    ids = wire.take(10)
    wire.answer(ids[:4])
    wire.send(wire.headers(ids[4], end=False))
    wire.send(wire.headers(ids[5], 400, end=False), DataFrame(ids[5], b'{"rea'))


def _in_a_frame(wire: Wire) -> None:
    wire.greet()
    ids = wire.take(10)
    wire.answer(ids[:4])
    wire.send(wire.headers(ids[4]).serialize()[:5])


def _after_the_answers(wire: Wire) -> None:
    wire.greet()
    wire.answer(wire.take(10))


POINTS: dict[str, tuple[Callable[[Wire], None], int | None]] = {
    "after_settings": (_after_settings, None),
    "in_a_request": (_in_a_request, None),
    "after_the_requests": (_after_the_requests, 0),
    "in_an_answer": (_in_an_answer, 4),
    "in_a_frame": (_in_a_frame, 4),
    "after_the_answers": (_after_the_answers, 10),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("point", POINTS)
def test_the_wire_breaks(authority: Authority, pools: Pools, point: str, way: str) -> None:
    """What was answered stays answered, the rest is unknown or was not sent, and the pool goes on."""
    lead, answered = POINTS[point]

    def script(wire: Wire) -> None:
        lead(wire)
        WAYS[way](wire)
        wire.drain()

    with WireServer(authority, script, polite) as server:
        pool = pools(server)
        burst = send(pool, burst_of(10))
        counted = {code: codes(burst).count(code) for code in Code}
        if answered is None:
            # Whether they were written before the end was noticed, or on the next connection, is a race.
            assert counted[Code.OK] + counted[Code.UNKNOWN] + counted[Code.NOT_SENT] == 10
        elif way == "reset":
            assert counted[Code.OK] <= max(answered, 10 if point == "after_the_answers" else 4)
            assert counted[Code.OK] + counted[Code.UNKNOWN] + counted[Code.NOT_SENT] == 10
        else:
            assert counted[Code.OK] == answered
            assert counted[Code.UNKNOWN] == 10 - answered
        recovers(pool)


@pytest.mark.parametrize("way", ["fin", "reset", "alert", "hello", "http1"])
def test_the_wire_breaks_in_the_handshake(authority: Authority, pools: Pools, way: str) -> None:
    accepted = 0

    def before_tls(sock: socket.socket) -> bool:
        nonlocal accepted
        accepted += 1
        if accepted > 1:
            return True
        if way != "fin":
            assert sock.recv(5, socket.MSG_WAITALL)
        if way == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif way == "alert":
            sock.sendall(b"\x15\x03\x03\x00\x02\x02\x28")
        elif way == "hello":
            sock.sendall(b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03")
        elif way == "http1":
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        return False

    with WireServer(authority, before_tls=before_tls) as server:
        pool = pools(server)
        recovers(pool)
        assert pool.stats().failed == 1
        assert Reason.TLS_FAILED in pool.stats().last_error or way == "reset"


def test_answers_in_front_of_an_alert_are_kept(authority: Authority, pools: Pools) -> None:
    """They arrive in one read with a record that does not decrypt."""

    def script(wire: Wire) -> None:
        wire.greet()
        ids = wire.take(30)
        wire.tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        wire.answer(ids)
        wire.alarm()
        wire.tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        wire.drain()

    with WireServer(authority, script, polite) as server:
        pool = pools(server)
        assert set(codes(send(pool, burst_of(30)))) == {Code.OK}
        recovers(pool)


# What was surely not sent


def test_what_the_system_never_took_was_not_sent(authority: Authority, pools: Pools) -> None:
    """The peer stops reading in the middle of a write of 8 MB, more than a system buffers. Exactly the requests that it can read later are unknown."""
    seen: list[str] = []

    def script(wire: Wire) -> None:
        wire.greet({WINDOW: 1 << 20}, credit=1 << 30)
        wire.answer(wire.take(1))
        wire.until(lambda: len(wire.asked) > 5)
        gone.wait(PATIENT)
        wire.drain()
        seen.extend(each.token for each in list(wire.asked.values())[1:])
        read_out.set()

    gone, read_out = threading.Event(), threading.Event()
    with WireServer(authority, script, polite, receive_buffer=200_000) as server:
        pool = pools(server, write_timeout_s=0.3, queue_timeout_s=0.5)
        send(pool, burst_of(1, start=5000))
        burst = burst_of(500, b"x" * 16_000)
        pool.submit(burst, PATIENT)
        while pool.stats().lost == 0:
            gevent.sleep(0.02)
        gone.set()
        assert burst.wait(PATIENT)
        with gevent.Timeout(PATIENT, AssertionError("the peer does not come to an end")):
            while not read_out.is_set():
                gevent.sleep(0.02)  # the socket is closed by the loop
    tokens = [f"{number:064x}" for number in range(500)]
    unknown = {token for token, code in zip(tokens, codes(burst), strict=True) if code == Code.UNKNOWN}
    unsent = {token for token, code in zip(tokens, codes(burst), strict=True) if code == Code.NOT_SENT}
    assert unknown == set(seen)
    assert unsent == set(tokens) - unknown
    assert len(unsent) > 100


# Peers that break the protocol


def _plain_http1(wire: Wire) -> None:
    wire.send(b"HTTP/1.1 505 HTTP Version Not Supported\r\nconnection: close\r\n\r\n")


def _garbage(wire: Wire) -> None:
    wire.greet()
    wire.take(1)
    wire.send(bytes(range(256)) * 10)


def _table_index_out_of_nowhere(wire: Wire) -> None:
    wire.greet()
    wire.send(HeadersFrame(wire.take(1)[0], b"\xff\x20", flags=["END_HEADERS", "END_STREAM"]))


def _headers_without_end(wire: Wire) -> None:
    wire.greet()
    (stream_id, *_) = wire.take(1)
    wire.send(HeadersFrame(stream_id, b""))
    for _ in range(100_000):
        wire.send(*[ContinuationFrame(stream_id, b"")] * 1000)


def _pings_without_reading(wire: Wire) -> None:
    wire.greet()
    wire.take(1)
    for _ in range(100_000):
        wire.send(*[PingFrame(0, b"12345678")] * 1000)


def _settings_without_reading(wire: Wire) -> None:
    wire.greet()
    wire.take(1)
    for number in range(100_000):
        wire.send(*[SettingsFrame(0, settings={STREAMS: number % 100 + 1})] * 1000)


def _a_stream_nobody_opened(wire: Wire) -> None:
    wire.greet()
    wire.take(1)
    wire.answer([4001])


@pytest.mark.parametrize(
    ("misbehave", "words"),
    [
        (_plain_http1, "speaks HTTP/1"),
        (_garbage, "HTTP/2 error 6"),
        (_table_index_out_of_nowhere, "header block"),
        (_headers_without_end, "a header block of over"),
        (_pings_without_reading, "faster than their answers are read"),
        (_settings_without_reading, "faster than their answers are read"),
        (_a_stream_nobody_opened, "stream 4001, which was not opened"),
    ],
)
def test_a_peer_that_breaks_the_protocol(
    authority: Authority,
    pools: Pools,
    misbehave: Callable[[Wire], None],
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A clean close, an error by name, an end for every request; and the next connection is as good as ever."""
    caplog.set_level(logging.INFO, "pushq.http2")

    def script(wire: Wire) -> None:
        try:
            misbehave(wire)
        finally:
            wire.drain()

    with WireServer(authority, script, polite) as server:
        pool = pools(server, write_timeout_s=5.0)
        burst = send(pool, burst_of(10))
        assert set(codes(burst)) <= {Code.UNKNOWN, Code.NOT_SENT, Code.OK}
        recovers(pool)
        ends = [vars(record) for record in caplog.records if record.msg == "http2_connection_ended"]
        assert ends[0]["reason"] == Reason.PROTOCOL_VIOLATION
        assert words in ends[0]["detail"]


@pytest.mark.parametrize("flood", ["data", "reset", "unknown", "informational", "goaway"])
def test_a_flood_of_frames_that_mean_nothing(authority: Authority, pools: Pools, flood: str) -> None:
    """They cost no memory and ask for no answer: the connection ends by name, or its requests by their time-out."""

    def script(wire: Wire) -> None:
        wire.greet()
        first, *_ = wire.take(10)
        wire.send(wire.headers(first, end=False))
        frames: dict[str, Frame | bytes] = {
            "data": DataFrame(first, b""),
            "reset": RstStreamFrame(first, error_code=ErrorCode.NO_ERROR),
            "unknown": b"\0\0\1\x77\0\0\0\0\0x",
            "informational": wire.headers(first + 2, 103, end=False),
            "goaway": GoAwayFrame(0, last_stream_id=MAX),
        }
        with contextlib.suppress(ClientGone):
            while True:
                wire.send(*[frames[flood]] * 2000)

    with WireServer(authority, script, polite) as server:
        pool = pools(server, request_timeout_s=0.5, max_connections=2)
        burst = send(pool, burst_of(10))
        assert set(codes(burst)) == {Code.UNKNOWN}
        named = {Reason.STREAM_RESET, Reason.TIMEOUT, Reason.PROTOCOL_VIOLATION}
        assert set(burst.reasons.values()) <= named
        recovers(pool)


def test_an_answer_drop_by_drop(authority: Authority, pools: Pools) -> None:
    """Something always comes, so neither PING nor EOF helps: the request's time-out does."""

    def script(wire: Wire) -> None:
        wire.greet()
        ids = wire.take(5)
        wire.answer(ids[:2])
        octets = wire.headers(ids[2], 400, end=False, x="y" * 400).serialize()
        with contextlib.suppress(ClientGone):
            for octet in octets:
                wire.send(bytes((octet,)))
                time.sleep(0.02)
        wire.drain()

    with WireServer(authority, script, polite) as server:
        pool = pools(server, request_timeout_s=0.4, ping_after_s=0.2, ping_timeout_s=0.2)
        burst = send(pool, burst_of(5))
        assert codes(burst) == [Code.OK] * 2 + [Code.UNKNOWN] * 3
        assert set(burst.reasons.values()) <= {Reason.TIMEOUT, Reason.PING_TIMEOUT}
        recovers(pool)
