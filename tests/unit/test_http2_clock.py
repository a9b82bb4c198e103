"""What happens when time passes: nothing that one connection does keeps the clock from the others."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import gevent
import pytest
from gevent.event import Event

from pushq.delivery.attempt import Attempt
from pushq.http2 import Reason
from pushq.http2.connection import Connection, Owner, Transport
from pushq.http2.core import Core
from pushq.http2.errors import ConnectFailed, ConnectionLost
from pushq.http2.frames import settings_frame
from pushq.http2.greenlets import Signal
from pushq.http2.members import Member
from pushq.http2.network import Channel
from pushq.http2.opening import Opener
from pushq.http2.pool import Pool
from pushq.http2.proxy import Proxy, connect_request
from pushq.http2.reasons import NO_CONNECTION
from pushq.http2.settings import Origin, PoolSettings
from tests.unit.http2_referee import burst_of

PATIENT = 30.0


class Nobody:
    """A connector that never gets through."""

    def connect(self, timeout_s: float) -> Transport:
        raise ConnectFailed(Reason.CONNECT_REFUSED, "nobody there")


class Deaf:
    """A gevent SSLSocket whose peer reads nothing: ``send`` goes by the socket's own mode, whatever time-out it is given."""

    def __init__(self) -> None:
        self.blocking = True
        self.closed = False

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 3128

    def setblocking(self, flag: bool) -> None:
        self.blocking = flag

    def send(self, data: bytes, flags: int = 0, timeout: float | None = None) -> int:
        if self.blocking:
            gevent.sleep(PATIENT)
        raise ssl.SSLWantWriteError

    def close(self) -> None:
        self.closed = True


def test_the_last_words_never_wait_for_a_tls_proxy_that_reads_nothing() -> None:
    """Behind a proxy that speaks TLS the socket is an SSLSocket, and the clock's greenlet closes what stalls."""
    sock, incoming, outgoing = Deaf(), ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    channel = Channel(cast("gevent.socket.socket", sock), tls, incoming, outgoing, lambda _: None)
    with gevent.Timeout(2, AssertionError("close() waits")):
        channel.close(b"goodbye")
    assert sock.closed


def test_a_connection_whose_clock_fails_does_not_stop_the_others() -> None:
    pool = Pool("test", Origin("localhost", 443), PoolSettings())
    ticked: list[str] = []

    def fails(now: float) -> None:
        raise RuntimeError("a fault of ours")

    def one(tick: Callable[[float], None]) -> Connection:
        core = SimpleNamespace(answered=0, in_flight=0, oldest_written_at=None, draining=False)
        return cast(
            "Connection",
            SimpleNamespace(core=core, takes_requests=True, full=False, opened_at=0.0, tick=tick),
        )

    pool._connections = [one(fails), one(lambda now: ticked.append("second"))]
    pool._tick(1.0)
    assert ticked == ["second"]


def test_a_peer_without_settings_has_proven_nothing_however_old_it_is() -> None:
    now = [0.0]
    pool = Pool("test", Origin("localhost", 443), PoolSettings(), clock=lambda: now[0])
    said: list[str] = []
    pool._opener = cast(
        "Opener",
        SimpleNamespace(
            proven=lambda: said.append("proven"),
            attempt_failed=lambda reason, *_: said.append(reason),
        ),
    )
    core = SimpleNamespace(answered=0, peer=SimpleNamespace(received=False))
    connection = cast("Connection", SimpleNamespace(core=core, opened_at=0.0))
    now[0] = 11.0  # the loop was late, and the ten seconds for SETTINGS became eleven
    pool._judge(connection, Member(connection, 1, 0.0), Reason.NO_SETTINGS, "no SETTINGS in 10 s")
    assert said == ["no_settings"]
    core.peer.received = True
    pool._judge(connection, Member(connection, 1, 0.0), Reason.CONNECTION_LOST, "")
    assert said == ["no_settings", "proven"]


def test_cancelled_work_makes_room_for_who_waits() -> None:
    pool = Pool("test", Origin("localhost", 443), PoolSettings(queue_limit=10), connector=Nobody())
    first = burst_of(10)
    pool.submit(first, PATIENT)
    waiting = gevent.spawn(pool.submit, burst_of(10), PATIENT)
    gevent.sleep(0)
    first.cancel()
    waiting.get(timeout=5)
    pool.close(0)
    gevent.sleep(0)


class Silent:
    """A transport that takes everything, or nothing, and on which nothing ever comes."""

    has_output = False
    peer = "silence"
    delivered = 0

    def __init__(self, *, takes: bool = True) -> None:
        self._closed = Event()
        self._takes = takes

    def receive(self) -> bytes:
        self._closed.wait()
        raise ConnectionLost(Reason.CONNECTION_LOST, "closed")

    def send(self, data: bytes) -> None:
        if not self._takes:
            self.receive()

    def close(self, last_words: bytes = b"") -> None:
        self._closed.set()


def connected(transport: Silent, core: Core) -> tuple[Connection, list[float]]:
    """A connection that has had SETTINGS, its owner's ears shut, and its clock."""
    now = [0.0]
    owner = SimpleNamespace(
        changed=lambda *_: None, ended=lambda *_: None, feed=lambda _: 0, others_could_write=lambda _: False
    )
    core.receive(settings_frame([]))
    connection = Connection(transport, core, cast("Owner", owner), PoolSettings(), lambda: now[0])
    connection.start()
    gevent.sleep(0.01)
    return connection, now


@pytest.mark.parametrize(("blocked", "drains"), [(True, Reason.WEDGED), (False, None)])
def test_a_window_that_stays_shut_with_nothing_in_flight_is_wedged(
    blocked: bool, drains: Reason | None
) -> None:
    core = Core(b"localhost", first_request_alone=False)
    connection, now = connected(Silent(), core)
    core._out.window = 0
    connection.blocked = blocked
    connection.tick(PoolSettings().ping_after_s - 0.1)
    assert connection.drain_reason is None
    now[0] = PoolSettings().ping_after_s + 0.1
    connection.tick(now[0])
    assert connection.drain_reason == drains
    connection.abort(Reason.POOL_CLOSED, "")
    gevent.sleep(0)


def test_silence_while_we_write_is_the_write_time_outs_business() -> None:
    settings = PoolSettings()
    assert settings.write_timeout_s > settings.ping_after_s + settings.ping_timeout_s
    core = Core(b"localhost", first_request_alone=False)
    core.receive(settings_frame([]))
    core.write(burst_of(1), 1, 0.0, 1e9)
    connection, now = connected(Silent(takes=False), core)
    while now[0] <= settings.write_timeout_s:
        connection.tick(now[0])
        assert connection.end_reason is None
        now[0] += 1.0
    connection.tick(settings.write_timeout_s + 0.1)
    assert connection.end_reason == Reason.WRITE_STALLED
    gevent.sleep(0)


def test_no_way_through_the_proxy_is_no_connection() -> None:
    assert {reason for reason in Reason if reason.startswith("proxy_")} < NO_CONNECTION


@pytest.mark.parametrize("reason", [Reason.PROXY_UNREACHABLE, Reason.CONNECT_REFUSED])
def test_delivery_counts_it_as_a_failure(reason: Reason) -> None:
    attempt = Attempt(bytearray(2), at_most_once=False)
    burst = burst_of(2)
    attempt.add(burst, [0, 1])
    burst.attach(Signal(), lambda _: None)
    burst.cancel(reason)
    attempt.collect(lambda answer: pytest.fail("there was no answer"))
    assert attempt.failed == 2


def test_a_host_beyond_ascii_is_asked_for_by_its_encoded_name() -> None:
    """The head as a whole is longer than a name may be."""
    proxy = Proxy("proxy.example", 3128, user="push", password="x" * 80)
    head = connect_request(proxy, "bücher.example", 443)
    assert head.startswith(
        b"CONNECT xn--bcher-kva.example:443 HTTP/1.1\r\nHost: xn--bcher-kva.example:443\r\n"
    )
