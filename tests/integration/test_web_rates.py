"""The rate of a key, on a real Redis: shared by processes, and local while Redis is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
import redis

from pushq.embedded.redis import RedisServer
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from pushq.web import ratelimit
from pushq.web.ratelimit import Meters, Rate, RateLimiter
from pushq.web.threads import Threads
from tests.services.faults import crash

Body = Callable[[list[RateLimiter]], Awaitable[None]]


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    opened = open_redis(ServiceUrl(redis_server.url(0)), connect_timeout=0.5, command_timeout=2.0)
    yield opened
    opened.close()


def processes(client: redis.Redis, count: int, body: Body) -> None:
    """As many limiters as there are web processes, over one Redis."""

    async def main() -> None:
        threads = Threads("test", 4, wait_s=10.0, timeout_s=20.0)
        try:
            await body([RateLimiter(client, threads) for _ in range(count)])
        finally:
            threads.close()

    asyncio.run(main())


async def granted(limiter: RateLimiter, name: str, rate: Rate, tries: int) -> int:
    return sum([await limiter.take(name, rate) == 0.0 for _ in range(tries)])


def test_all_processes_together_let_through_the_burst_and_then_the_rate(client: redis.Redis) -> None:
    rate = Rate(per_s=5.0, burst=40)

    async def body(limiters: list[RateLimiter]) -> None:
        started = time.monotonic()
        counts = await asyncio.gather(*(granted(limiter, "k", rate, 60) for limiter in limiters))
        most = rate.burst + rate.per_s * (time.monotonic() - started) + 1
        assert rate.burst <= sum(counts) <= most

    processes(client, 3, body)


def test_who_is_refused_is_told_when_to_come_again(client: redis.Redis) -> None:
    rate = Rate(per_s=20.0, burst=2)

    async def body(limiters: list[RateLimiter]) -> None:
        while (wait := await limiters[0].take("k", rate)) == 0.0:
            pass
        assert 0 < wait <= 1 / rate.per_s
        deadline = time.monotonic() + 60
        while await limiters[0].take("k", rate) > 0:
            assert time.monotonic() < deadline, "the bucket fills again"
            await asyncio.sleep(wait)

    processes(client, 1, body)


def test_a_busy_key_costs_few_round_trips(client: redis.Redis) -> None:
    rate = Rate(per_s=1000.0, burst=2000)

    async def body(limiters: list[RateLimiter]) -> None:
        before = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
        results = await asyncio.gather(*(limiters[0].take("k", rate) for _ in range(500)))
        assert results == [0.0] * 500
        after = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        assert after - before <= 10

    processes(client, 1, body)


def test_names_do_not_share(client: redis.Redis) -> None:
    rate = Rate(per_s=0.001, burst=3)

    async def body(limiters: list[RateLimiter]) -> None:
        assert await granted(limiters[0], "a", rate, 10) == 3
        assert await granted(limiters[0], "b", rate, 10) == 3
        await limiters[0].forget("a")
        assert await granted(limiters[0], "a", rate, 10) == 3

    processes(client, 1, body)


def test_without_redis_each_process_limits_by_itself(redis_server: RedisServer, client: redis.Redis) -> None:
    rate = Rate(per_s=0.001, burst=5)
    crash(redis_server)

    async def body(limiters: list[RateLimiter]) -> None:
        started = time.monotonic()
        assert [await granted(limiter, "k", rate, 10) for limiter in limiters] == [5, 5]
        await limiters[0].forget("k")
        assert await granted(limiters[0], "k", rate, 10) == 5
        assert time.monotonic() - started < 60, "nobody waits for Redis at each request"

    processes(client, 2, body)


def test_it_remembers_so_many_names_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratelimit, "MOST", 10)
    now = 0.0
    meters = Meters(lambda: now)
    rate = Rate(per_s=1.0, burst=1)
    assert meters.take("first", rate) == 0.0
    assert meters.take("first", rate) == 1.0
    now = 0.25
    assert meters.take("first", rate) == 0.75
    for number in range(10):
        assert meters.take(f"other{number}", rate) == 0.0
    assert meters.take("first", rate) == 0.0, "it was forgotten, and begins anew"
