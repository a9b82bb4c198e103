"""What the guard of the tokens shows on a real Redis: an alert that nobody misses, and that ends."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from prometheus_client import REGISTRY

from pushq.app_settings import ApnsSettings, AppSettings
from pushq.embedded.redis import RedisServer
from pushq.limits.guard import Counts, Ruling
from pushq.limits.token_guard import TokenGuard
from tests.services.faults import crash

OpenGuard = Callable[[], TokenGuard]


@pytest.fixture
def app() -> str:
    return f"a{uuid.uuid4().hex}"  # the metrics of a process outlive a test


@pytest.fixture
def open_guard(redis_server: RedisServer, tmp_path: Path, app: str) -> Iterator[OpenGuard]:
    """Makes the guards of any number of processes."""
    key = tmp_path / "key.p8"
    key.write_text("a key")
    settings = ApnsSettings(team_id="A" * 10, key_id="B" * 10, key_file=key, topic="com.example.shop")
    with ExitStack() as stack:

        def make() -> TokenGuard:
            client: redis.Redis = stack.enter_context(redis_server.client())
            return TokenGuard({app: AppSettings(apns=settings)}, client)

        yield make


def judge(guard: TokenGuard, app: str, counts: Counts) -> Ruling:
    return guard.judge(app, "apns", counts, broadcast=True, trusted=False)


def held(app: str) -> float | None:
    return REGISTRY.get_sample_value("pushq_mass_invalidation_held", {"app": app, "platform": "apns"})


def holds(app: str) -> float | None:
    return REGISTRY.get_sample_value("pushq_mass_invalidation_holds_total", {"app": app, "platform": "apns"})


def test_one_batch_that_works_does_not_end_the_alert(open_guard: OpenGuard, app: str) -> None:
    guard, other = open_guard(), open_guard()
    assert judge(guard, app, Counts(100, 0, 100)) is Ruling.HOLD
    assert (held(app), holds(app)) == (1, 1)
    judge(guard, app, Counts(100, 100, 0))
    assert held(app) == 1
    judge(other, app, Counts(400, 400, 0))  # the fleet's answers are sound again
    judge(guard, app, Counts(1, 1, 0))
    assert (held(app), holds(app)) == (0, 1)


def test_a_hold_that_is_over_at_once_has_been_counted(open_guard: OpenGuard, app: str) -> None:
    guard = open_guard()
    judge(guard, app, Counts(10_000, 10_000, 0))
    judge(guard, app, Counts(100, 0, 100))
    judge(guard, app, Counts(100, 100, 0))
    assert (held(app), holds(app)) == (0, 1)
    judge(guard, app, Counts(100, 0, 100))
    assert (held(app), holds(app)) == (1, 2)


def test_without_redis_it_stays(open_guard: OpenGuard, app: str, redis_server: RedisServer) -> None:
    guard = open_guard()
    judge(guard, app, Counts(10_000, 10_000, 0))
    judge(guard, app, Counts(100, 0, 100))
    crash(redis_server)
    judge(guard, app, Counts(100, 100, 0))
    assert held(app) == 1


def test_a_guard_that_is_calm_asks_only_once(
    open_guard: OpenGuard, app: str, redis_server: RedisServer
) -> None:
    guard = open_guard()
    for _ in range(20):
        judge(guard, app, Counts(100, 100, 0))
    with redis_server.client() as client:
        assert client.info("commandstats")["cmdstat_hgetall"]["calls"] == 1
