"""No reconnect storm, whatever the peer does and however many ask."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable

import gevent
import pytest

from pushq.http2 import Burst, Code, Origin, Pool
from pushq.http2.frames import ErrorCode
from tests.integration.h2_server import Authority, H2Server, Request
from tests.integration.pool_world import PATIENT, Pools, burst_of, send, tally

LOW, HIGH = 0.05, 0.4
GREENLETS, POOLS = 1000, 4


class Door:
    """Listens, counts who comes in, and treats everybody the same."""

    def __init__(self, treat: Callable[[socket.socket], None]) -> None:
        self.attempts = self.at_once = self.inside = 0
        self._treat = treat
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENT)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.attempts += 1
                self.inside += 1
                self.at_once = max(self.at_once, self.inside)
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        time.sleep(0.01)  # the time in which another attempt would be noticed
        with self._lock:
            self.inside -= 1
        with contextlib.suppress(OSError):
            self._treat(sock)
        sock.close()


def close(sock: socket.socket) -> None:
    sock.recv(1)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def talk_no_tls(sock: socket.socket) -> None:
    sock.recv(1)
    sock.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
    sock.recv(100_000)


def attempts_allowed(seconds: float, doors: int = 1) -> int:
    """The most attempts that the back-off lets through in that time, were its jitter always the shortest."""
    allowed, spent = 1, 0.0
    while spent < seconds:
        spent += 0.5 * min(HIGH, LOW * 2 ** (allowed - 1))
        allowed += 1
    return allowed * doors


def ask(pools: list[Pool], seconds: float) -> list[Burst]:
    """A thousand greenlets that each want one request sent, again and again, for a while."""
    bursts: list[Burst] = []

    def one(number: int) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            burst = burst_of(1, start=number)
            bursts.append(burst)
            pools[number % len(pools)].submit(burst, PATIENT)
            assert burst.wait(PATIENT)

    jobs = [gevent.spawn(one, number) for number in range(GREENLETS)]
    gevent.joinall(jobs, timeout=PATIENT, raise_error=True)
    return bursts


@pytest.mark.parametrize("treat", [close, reset, talk_no_tls])
def test_a_door_that_slams(
    treat: Callable[[socket.socket], None], authority: Authority, pools: Pools
) -> None:
    with Door(treat) as door:
        origin = Origin("127.0.0.1", door.port, authority.ca_file)
        started = time.monotonic()
        asking = [
            pools(origin, backoff_min_s=LOW, backoff_max_s=HIGH, queue_timeout_s=0.2) for _ in range(POOLS)
        ]
        bursts = ask(asking, 0.8)
        took = time.monotonic() - started
        assert 2 <= door.attempts <= attempts_allowed(took)
        assert door.at_once == 1, "one attempt at a time, over all pools of the host"
        # The last one may still be under way.
        assert door.attempts - 1 <= sum(pool.stats().failed for pool in asking) <= door.attempts
        assert {code for burst in bursts for code in tally(burst)} == {Code.NOT_SENT}
        reasons = {reason for burst in bursts for reason in burst.reasons.values()}
        assert reasons <= {"tls_failed", "queue_timeout"}
        # Whichever pool made the attempt, all of them know why there is no connection.
        for pool in asking:
            assert set(send(pool, burst_of(1)).reasons.values()) == {"tls_failed"}


def test_nobody_at_the_door(authority: Authority, pools: Pools) -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        port = placeholder.getsockname()[1]
    origin = Origin("127.0.0.1", port, authority.ca_file)
    started = time.monotonic()
    asking = [pools(origin, backoff_min_s=LOW, backoff_max_s=HIGH, queue_timeout_s=0.2) for _ in range(POOLS)]
    bursts = ask(asking, 0.8)
    took = time.monotonic() - started
    assert 2 <= sum(pool.stats().failed for pool in asking) <= attempts_allowed(took)
    assert {reason for burst in bursts for reason in burst.reasons.values()} <= {
        "connect_refused",
        "queue_timeout",
    }
    for pool in asking:
        assert set(send(pool, burst_of(1)).reasons.values()) == {"connect_refused"}


def test_a_peer_that_lets_us_in_and_sends_us_away(authority: Authority, pools: Pools) -> None:
    def behave(request: Request) -> None:
        request.connection.goaway(0, ErrorCode.ENHANCE_YOUR_CALM)
        request.connection.cut()

    with H2Server(authority, behave) as server:
        started = time.monotonic()
        asking = [
            pools(server.origin, backoff_min_s=LOW, backoff_max_s=HIGH, queue_timeout_s=0.3)
            for _ in range(POOLS)
        ]
        bursts = ask(asking, 0.8)
        took = time.monotonic() - started
        # Each pool opened one in advance, before there was anything to fail with.
        assert len(server.connections) <= attempts_allowed(took) + POOLS
    assert {code for burst in bursts for code in tally(burst)} <= {Code.NOT_SENT, Code.REFUSED}


def test_a_certificate_of_ours_that_is_refused_slows_down_only_its_pool(
    authority: Authority, pools: Pools, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two apps with certificates of their own, at one provider: a revoked one must not stop the other."""
    folder = tmp_path_factory.mktemp("clients")
    good_ca, bad_ca = Authority(folder, "good"), Authority(folder, "bad")
    good, bad = good_ca.issue("good-app"), bad_ca.issue("bad-app")
    with H2Server(authority, client_ca=good_ca.ca_file) as server:
        ours = {
            name: pools(
                Origin("localhost", server.port, authority.ca_file, client_cert=pem, client_key=pem),
                backoff_min_s=PATIENT,
                backoff_max_s=PATIENT,
                queue_timeout_s=0.3,
            )
            for name, pem in (("bad", bad), ("good", good))
        }
        assert tally(send(ours["bad"], burst_of(1))) == {Code.NOT_SENT: 1}
        assert ours["bad"].stats().failed == 1
        assert tally(send(ours["good"], burst_of(1))) == {Code.OK: 1}
