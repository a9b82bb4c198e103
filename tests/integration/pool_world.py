"""What tests of the pool share: pools that are closed, bursts with a token each, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import gevent

from pushq.http2 import Answer, Burst, Code, HeaderTemplate, Origin, Pool, PoolSettings, Proxy, Reason, never
from pushq.http2.opening import Connector
from tests.integration.h2_server import Request

TEMPLATE = HeaderTemplate(
    b"/3/device/", ((b"authorization", b"bearer " + b"x" * 180), (b"apns-topic", b"com.example.shop"))
)
#: Time-outs for tests that do not wait for one: long enough for a busy machine.
PATIENT = 60.0
MAX = 2**31 - 1


Pools = Callable[..., Pool]


def made() -> Iterator[Pools]:
    """For a fixture: a maker of quick pools, which are closed afterwards."""
    pools: list[Pool] = []

    def make(
        origin: Origin,
        retire_on: Callable[[Answer], bool] = never,
        *,
        proxy: Proxy | None = None,
        connector: Connector | None = None,
        **settings: object,
    ) -> Pool:
        defaults: dict[str, object] = {"open_spacing_s": 0.01, "backoff_min_s": 0.01, "tick_s": 0.02}
        pool = Pool(
            "test",
            origin,
            PoolSettings(**{**defaults, **settings}),  # type: ignore[arg-type]
            retire_on=retire_on,
            observer=Counts(),
            proxy=proxy,
            connector=connector,
        )
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close(0)
    gevent.sleep(0)  # the last greenlets end


class Counts:
    """An observer that keeps what it hears."""

    def __init__(self) -> None:
        self.opened = 0
        self.ended: list[str] = []
        self.failed: list[str] = []
        self.goaways: list[int] = []
        self.exhaustions = 0
        self.answers: list[tuple[float, int]] = []

    def connection_opened(self, pool: str, seconds: float) -> None:
        self.opened += 1

    def connection_ended(self, pool: str, reason: Reason) -> None:
        self.ended.append(reason)

    def connect_failed(self, pool: str, reason: Reason) -> None:
        self.failed.append(reason)

    def answered(self, pool: str, waits: Sequence[tuple[float, int]]) -> None:
        self.answers += waits

    def goaway_received(self, pool: str, code: int) -> None:
        self.goaways.append(code)

    def exhausted(self, pool: str) -> None:
        self.exhaustions += 1


def heard(pool: Pool) -> Counts:
    observer = pool._observer
    assert isinstance(observer, Counts)
    return observer


def burst_of(count: int, start: int = 0, body: bytes = b'{"aps":{}}') -> Burst:
    targets = [b"%064x" % number for number in range(start, start + count)]
    return Burst(TEMPLATE, count, targets=targets, bodies=body)


def number_of(request: Request) -> int:
    return int(request.token, 16)


def send(pool: Pool, burst: Burst) -> Burst:
    pool.submit(burst, PATIENT)
    assert burst.wait(PATIENT), (burst, pool.stats())
    return burst


def tally(burst: Burst) -> dict[Code, int]:
    return {code: burst.codes.count(code) for code in Code if burst.codes.count(code)}


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that must come; the deadline only keeps a failure from hanging."""
    with gevent.Timeout(PATIENT, AssertionError("it did not happen")):
        while not condition():
            gevent.sleep(0.005)
