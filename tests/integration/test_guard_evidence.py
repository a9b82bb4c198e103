"""What the fleet remembers of how a provider answered, on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from pushq.app_settings import ApnsSettings, AppSettings
from pushq.embedded.redis import RedisServer
from pushq.limits.evidence import EvidenceStore
from pushq.limits.guard import Counts, Evidence

HOUR = 3600.0


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture
def settings(tmp_path: Path) -> ApnsSettings:
    key = tmp_path / "key.p8"
    key.write_text("a key")
    return ApnsSettings(team_id="A" * 10, key_id="B" * 10, key_file=key, topic="com.example.shop")


def store(client: redis.Redis, settings: ApnsSettings, now: list[float]) -> EvidenceStore:
    return EvidenceStore({"shop": AppSettings(apns=settings)}, client, clock=lambda: now[0])


def test_the_fleet_adds_up(client: redis.Redis, settings: ApnsSettings) -> None:
    now = [1_000_000.0]
    one, two = store(client, settings, now), store(client, settings, now)
    assert one.read("shop", "apns") == Evidence()
    one.record("shop", "apns", Counts(10, 7, 2))
    two.record("shop", "apns", Counts(5, 0, 5))
    two.record("shop", "apns", Counts(1, 0, 1))
    assert one.read("shop", "apns") == Evidence(Counts(16, 7, 8), streak=6)
    one.record("shop", "apns", Counts(1, 1, 0))
    assert two.read("shop", "apns").streak == 0


def test_a_day_later_it_is_forgotten(client: redis.Redis, settings: ApnsSettings) -> None:
    now = [1_000_000.0]
    kept = store(client, settings, now)
    kept.record("shop", "apns", Counts(10, 10, 0))
    now[0] += 23 * HOUR
    kept.record("shop", "apns", Counts(3, 3, 0))
    assert kept.read("shop", "apns").counts == Counts(13, 13, 0)
    now[0] += 2 * HOUR
    assert kept.read("shop", "apns").counts == Counts(3, 3, 0)
    (key,) = client.keys("pushq:guard:*")
    assert len(client.hkeys(key)) == 4
    assert 86_400 < client.ttl(key) <= 90_000


@pytest.mark.parametrize(
    "change",
    [{"topic": "com.example.other"}, {"url": "https://api.sandbox.push.apple.com"}, {"key_id": "C" * 10}],
)
def test_another_set_up_begins_without_proof(
    client: redis.Redis, settings: ApnsSettings, change: dict[str, str]
) -> None:
    now = [1_000_000.0]
    store(client, settings, now).record("shop", "apns", Counts(10, 10, 0))
    assert store(client, settings.model_copy(update=change), now).read("shop", "apns") == Evidence()


def test_other_limits_are_the_same_set_up(client: redis.Redis, settings: ApnsSettings) -> None:
    now = [1_000_000.0]
    store(client, settings, now).record("shop", "apns", Counts(10, 10, 0))
    slower = settings.model_copy(update={"rate_per_minute": 600, "max_connections": 2})
    assert store(client, slower, now).read("shop", "apns").counts.accepted == 10
