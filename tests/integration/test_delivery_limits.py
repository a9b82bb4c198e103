"""Deliveries behind the fleet's gate: rates, pauses that a provider asks for, and breakers, counted at the provider."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client import REGISTRY

from pushq.app_settings import AppSettings
from pushq.limits.gate import FleetGate
from pushq.mock import MockProcess
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from tests.integration.ledger_world import APP, Worker, World, open_worker

BATCH = 60


@pytest.fixture
def world_settings() -> dict[str, Any]:
    return {"batch_size": BATCH, "plan_page": 100, "request_timeout": 5.0}


@contextmanager
def gated_worker(world: World, redis_url: str, app: AppSettings | None = None) -> Iterator[Worker]:
    """A worker that shares the fleet's limits and breakers."""
    with open_redis(ServiceUrl(redis_url)) as client:
        gate = FleetGate({APP: app or world.settings.apps[APP]}, client, random=lambda: 0.0)
        with open_worker(world, redis_url, app=app, gate=gate) as worker:
            yield worker


@pytest.fixture
def two(world: World, redis_url: str) -> Iterator[tuple[Worker, Worker]]:
    """Two workers of one fleet."""
    with gated_worker(world, redis_url) as one, gated_worker(world, redis_url) as other:
        yield one, other


def users(first: int, count: int) -> dict[str, Any]:
    return {"user_ids": list(range(first, first + count))}


def requests(mock: MockProcess, platform: str) -> int:
    count: int = mock.stats()["platforms"][platform]["requests"]
    return count


def test_a_rate_is_kept_and_nobody_is_lost(world: World, mock: MockProcess, redis_url: str) -> None:
    fcm = world.settings.apps[APP].fcm
    assert fcm is not None
    slow = world.settings.apps[APP].model_copy(
        update={"fcm": fcm.model_copy(update={"rate_per_minute": 6000, "ramp_up_s": 0.0})}
    )
    world.add_devices("fcm", 100)
    send_id = world.send(audience=users(1, 100), guarantee="at_most_once")
    labels = {"app": APP, "platform": "fcm", "reason": "rate"}
    before = REGISTRY.get_sample_value("pushq_rate_limit_wait_seconds_total", labels) or 0.0
    with gated_worker(world, redis_url, slow) as worker:
        worker.run_queued(send_id)
    assert world.totals(send_id) == {"devices": 100, "accepted": 100}
    assert set(mock.accepted("fcm").values()) == {1}
    # 100 permits cost a second at 100 a second; none of them was there in advance.
    assert (REGISTRY.get_sample_value("pushq_rate_limit_wait_seconds_total", labels) or 0.0) - before > 0.5


@pytest.mark.parametrize("guarantee", ["at_least_once", "at_most_once"])
def test_a_429_of_the_project_stops_the_whole_fleet(
    world: World, mock: MockProcess, two: tuple[Worker, Worker], guarantee: Any
) -> None:
    one, other = two
    world.add_devices("fcm", 2 * BATCH)
    world.add_devices("apns", 10, first=1000)
    mock.set_faults(
        [{"platform": "fcm", "answer": {"status": 429, "reason": "QUOTA_EXCEEDED", "retry_after": 30}}]
    )
    first, second = (world.send(audience=users(at, BATCH), guarantee=guarantee) for at in (1, 1 + BATCH))
    (batch_no,) = world.queued(first)
    step = one.run(first, batch_no)
    assert step.retry_in is not None
    assert 29 <= step.retry_in <= 31
    asked = requests(mock, "fcm")
    mock.set_faults([])
    (batch_no,) = world.queued(second)
    step = other.run(second, batch_no)
    assert step.retry_in is not None
    assert 28 <= step.retry_in <= 31
    assert requests(mock, "fcm") == asked
    assert world.totals(second) == {"devices": BATCH, "pending": BATCH}
    assert (
        world.value("SELECT coalesce(max(attempt), 0) FROM send_batches WHERE send_id = :id", id=second) == 0
    )
    # The other provider knows nothing of it.
    third = world.send(audience=users(1000, 10), guarantee=guarantee)
    other.run_queued(third)
    assert world.totals(third) == {"devices": 10, "accepted": 10}


def test_a_provider_that_fails_is_left_alone_until_one_probe_succeeds(
    world: World, mock: MockProcess, two: tuple[Worker, Worker]
) -> None:
    one, other = two
    world.add_devices("apns", 2 * BATCH)
    mock.set_faults([{"platform": "apns", "answer": {"status": 503, "reason": "ServiceUnavailable"}}])
    first, second = (world.send(audience=users(at, BATCH)) for at in (1, 1 + BATCH))
    (batch_no,) = world.queued(first)
    one.run(first, batch_no)
    asked = requests(mock, "apns")
    assert asked == BATCH
    (second_no,) = world.queued(second)
    step = other.run(second, second_no)
    assert step.retry_in is not None
    assert step.retry_in > 2
    assert requests(mock, "apns") == asked
    assert world.totals(second) == {"devices": BATCH, "pending": BATCH}
    # Later, and it has recovered: everything goes out again, after one that tries it.
    mock.set_faults([])
    (key,) = one.redis.keys("pushq:limit:apns:*")
    one.redis.hset(key, "until", 0)
    world.let_time_pass(first, 60)
    one.run(first, batch_no)
    assert world.totals(first) == {"devices": BATCH, "accepted": BATCH}
    assert one.redis.hget(key, "open") is None


def test_a_probe_that_fails_is_one_request(
    world: World, mock: MockProcess, two: tuple[Worker, Worker]
) -> None:
    one, other = two
    world.add_devices("apns", 2 * BATCH)
    mock.set_faults([{"platform": "apns", "answer": {"status": 503, "reason": "ServiceUnavailable"}}])
    send_id = world.send(audience=users(1, BATCH))
    (batch_no,) = world.queued(send_id)
    one.run(send_id, batch_no)
    asked = requests(mock, "apns")
    (key,) = one.redis.keys("pushq:limit:apns:*")
    one.redis.hset(key, "until", 0)
    second = world.send(audience=users(1 + BATCH, BATCH))
    (second_no,) = world.queued(second)
    step = other.run(second, second_no)
    assert requests(mock, "apns") == asked + 1
    assert step.retry_in is not None
    assert float(one.redis.hget(key, "open") or 0) == 10.0
