"""The client against HTTP/2 servers that nobody here wrote, also while they reload, shut down and come back.

What is counted on the server's side must agree: a request that ended with an answer was read once, one that was refused or not
sent never was, and one that is unknown was read once or never.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import gevent
import pytest

from pushq.http2 import Burst, Code, HeaderTemplate, Origin, Pool, PoolSettings
from tests.integration.h2_server import Authority
from tests.services.http2_servers import Http2Server, Nginx, asgi, nghttpd, running

PATIENT = 60.0
HEADERS = ((b"authorization", b"bearer " + b"x" * 180), (b"apns-topic", b"com.example.shop"))

Pools = Callable[..., Pool]


@pytest.fixture(scope="module")
def pem(authority: Authority) -> Path:
    return authority.issue("localhost")


@pytest.fixture
def pools(authority: Authority) -> Iterator[Pools]:
    made: list[Pool] = []

    def make(server: Http2Server, **settings: object) -> Pool:
        values = {"max_connections": 2, "open_spacing_s": 0.01, "backoff_min_s": 0.01, "backoff_max_s": 0.1}
        origin = Origin("localhost", server.port, authority.ca_file)
        pool = Pool("referee", origin, PoolSettings(**{**values, **settings}))  # type: ignore[arg-type]
        pool.start()
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.close(0)
    gevent.sleep(0)


def bodies(count: int, size: int) -> list[bytes]:
    """All different."""
    return [(b"%d " % number * size)[:size] for number in range(count)]


def burst_of(path: bytes, targets: list[bytes], each: list[bytes] | bytes = b'{"aps":{}}') -> Burst:
    return Burst(HeaderTemplate(path, HEADERS), len(targets), targets=targets, bodies=each)


def send(pool: Pool, burst: Burst) -> Counter[Code]:
    pool.submit(burst, PATIENT)
    assert burst.wait(PATIENT), (burst, pool.stats())
    return Counter(map(Code, burst.codes))


def names(start: int, count: int) -> list[bytes]:
    return [b"%064x" % number for number in range(start, start + count)]


class Sender:
    """Sends every target until it has an end that must not be repeated."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.answered: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.repeated = 0

    def send_all(self, start: int, count: int, slices: int, between: Callable[[int], None]) -> None:
        size = count // slices
        for number in range(slices):
            burst = burst_of(b"/3/device/", names(start + number * size, size))
            self.pool.submit(burst, PATIENT)
            between(number)
            self._settle(burst)

    def _settle(self, burst: Burst) -> None:
        with gevent.Timeout(PATIENT, AssertionError("it does not come to an end")):
            while True:
                assert burst.wait(PATIENT), (burst, self.pool.stats())
                assert burst.targets is not None
                again = []
                for target, code in zip(burst.targets, burst.codes, strict=True):
                    if code in (Code.REFUSED, Code.NOT_SENT):
                        again.append(target)
                    else:
                        counts = self.unknown if code == Code.UNKNOWN else self.answered
                        counts[target.decode()] += 1
                if not again:
                    return
                self.repeated += len(again)
                burst = burst_of(b"/3/device/", again)
                self.pool.submit(burst, PATIENT)

    def check(self, server: Http2Server, sent: int) -> None:
        read = Counter(line.split()[0].rpartition("/")[2] for line in server.lines())
        assert sum(self.answered.values()) + sum(self.unknown.values()) == sent
        assert set(self.answered.values()) == {1}
        assert set(read.values()) <= {1}, "a request was repeated that the server had read"
        assert not set(self.answered) - set(read)
        assert set(read) - set(self.answered) <= set(self.unknown)


# nginx


def test_nginx(pem: Path, pools: Pools, tmp_path: Path) -> None:
    with running(Nginx(tmp_path, pem)) as server:
        pool = pools(server)
        assert send(pool, burst_of(b"/3/device/", names(0, 5000))) == {Code.OK: 5000}
        assert send(pool, burst_of(b"/3/device/", names(5000, 2000), bodies(2000, 150))) == {Code.OK: 2000}
        assert send(pool, burst_of(b"/read/", names(7000, 2000), bodies(2000, 4096))) == {Code.OK: 2000}
        gone = burst_of(b"/gone/", names(9000, 500))
        assert send(pool, gone) == {Code.ANSWERED: 500}
        assert {(a.status, a.body) for a in gone.answers.values()} == {(410, b'{"reason":"Unregistered"}')}
        assert pool.stats().lost == 0
        pool.close(5)
    counted = Counter(line.split()[1] for line in server.lines())
    assert counted == {"200": 9000, "410": 500}
    assert len(set(server.lines())) == 9500


def test_nginx_reloads_under_load(pem: Path, pools: Pools, tmp_path: Path) -> None:
    server = Nginx(tmp_path, pem)
    with running(server):
        sender = Sender(pools(server))
        sender.send_all(0, 12_000, 12, lambda number: server.reload() if number in (2, 5, 8) else None)
        sent = 12_000
        while not sender.pool.stats().goaways and sent < 200_000:  # until nginx has got round to it
            sender.send_all(sent, 1000, 1, lambda _: None)
            sent += 1000
        stats = sender.pool.stats()
        sender.pool.close(5)
    sender.check(server, sent)
    assert stats.goaways >= 1


def test_nginx_ends_each_connection_after_a_number_of_requests(
    pem: Path, pools: Pools, tmp_path: Path
) -> None:
    """GOAWAY all the time: every 300 requests, as its ``keepalive_requests`` says."""
    with running(Nginx(tmp_path, pem, requests_per_connection=300)) as server:
        sender = Sender(pools(server))
        sender.send_all(0, 4000, 4, lambda number: None)
        sender.pool.close(5)
    sender.check(server, 4000)
    assert not sender.unknown


def test_nginx_stops_under_load_and_comes_back(pem: Path, pools: Pools, tmp_path: Path) -> None:
    server = Nginx(tmp_path, pem)

    def between(number: int) -> None:
        if number == 3:
            gevent.sleep(0.005)
            server.stop()
            server.start()

    with running(server):
        sender = Sender(pools(server))
        sender.send_all(0, 8000, 8, between)
        sender.pool.close(5)
    sender.check(server, 8000)


# nghttpd


@pytest.mark.parametrize(
    "options",
    [
        ("--echo-upload",),
        ("--echo-upload", "-m", "1000", "-b", "60", "-w", "12", "-W", "16", "--trailer", "grpc-status: 0"),
        ("--echo-upload", "-c", "0", "--encoder-header-table-size", "0"),
    ],
    ids=["plain", "padding, small windows, trailers", "no tables"],
)
def test_nghttpd(options: tuple[str, ...], pem: Path, pools: Pools, tmp_path: Path) -> None:
    """It sends every body back, which the client reads and drops."""
    with running(nghttpd(tmp_path, pem, *options)) as server:
        pool = pools(server)
        assert send(pool, burst_of(b"/3/device/", names(0, 2000))) == {Code.OK: 2000}
        assert send(pool, burst_of(b"/3/device/", names(0, 500), bodies(500, 4096))) == {Code.OK: 500}
        assert pool.stats().lost == 0


def test_nghttpd_says_no_and_comes_back(pem: Path, pools: Pools, tmp_path: Path) -> None:
    server = nghttpd(tmp_path, pem)
    with running(server):
        pool = pools(server)
        for _ in range(2):
            burst = burst_of(b"/3/device/", names(0, 500))
            while (outcome := send(pool, burst)) != {Code.ANSWERED: 500}:
                assert set(outcome) <= {Code.ANSWERED, Code.UNKNOWN, Code.NOT_SENT, Code.REFUSED}
                burst = burst_of(b"/3/device/", names(0, 500))
            assert {answer.status for answer in burst.answers.values()} == {404}
            server.stop(signal.SIGKILL)
            server.start()


# ASGI


@pytest.mark.parametrize("name", ["hypercorn", "granian"])
def test_asgi(name: str, pem: Path, pools: Pools, tmp_path: Path) -> None:
    """The application compares every body with the SHA-256 in its path."""
    with running(asgi(name, tmp_path, pem)) as server:
        pool = pools(server)
        each = bodies(1500, 150) + bodies(300, 4096)
        digests = [sha256(body).hexdigest().encode() for body in each]
        assert send(pool, burst_of(b"/3/device/", digests, each)) == {Code.OK: 1800}
        wrong = burst_of(b"/3/device/", names(0, 50))
        assert send(pool, wrong) == {Code.ANSWERED: 50}
        assert {answer.status for answer in wrong.answers.values()} == {409}
        gone = burst_of(b"/gone/", names(0, 300))
        assert send(pool, gone) == {Code.ANSWERED: 300}
        assert {answer.body for answer in gone.answers.values()} == {b'{"reason":"Unregistered"}'}
        assert len(server.lines()) == 2150


@pytest.mark.parametrize("name", ["hypercorn", "granian"])
def test_asgi_shuts_down_under_load_and_comes_back(
    name: str, pem: Path, pools: Pools, tmp_path: Path
) -> None:
    server = asgi(name, tmp_path, pem)

    def between(number: int) -> None:
        if number == 2:
            gevent.sleep(0.05)
            server.stop()
            server.start()

    with running(server):
        sender = Sender(pools(server, request_timeout_s=5.0))
        sender.send_all(0, 2000, 5, between)
        sender.pool.close(2)
    sender.check(server, 2000)


def test_a_server_that_drops_answers_at_its_goaway(pem: Path, pools: Pools, tmp_path: Path) -> None:
    """hypercorn reads them, says GOAWAY with a last stream above, and closes: they are unknown, and none is repeated."""
    with running(asgi("hypercorn", tmp_path, pem, requests_per_connection=200)) as server:
        sender = Sender(pools(server, request_timeout_s=0.8))
        sender.send_all(0, 600, 2, lambda number: None)
        sender.pool.close(2)
        gevent.sleep(0)
    sender.check(server, 600)
