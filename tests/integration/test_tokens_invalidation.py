"""Dead letters and old devices take tokens out of use, and only those they speak of."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from sqlalchemy import text

from pushq.database import Database
from pushq.errors import InvalidRequest
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from pushq.tokens import Device, TokenCache, deactivate_unseen, invalidate_from_dead_letters, register
from pushq.tokens.buckets import bucket_of, cache_key

SEND = uuid.UUID(int=1)


@pytest.fixture
def store(database: str) -> Iterator[Database]:
    opened = Database(ServiceUrl(database), pool_size=6)
    yield opened
    opened.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    opened = open_redis(ServiceUrl(redis_url))
    yield opened
    opened.close()


def add(
    store: Database, user_id: int, number: int | None = None, platform: str = "apns", **fields: Any
) -> int:
    token = f"{number or user_id:064x}"
    return register(
        store, Device(user_id=user_id, app="shop", platform=platform, token=token, **fields)
    ).device_id


def bury(
    store: Database,
    user_id: int,
    device_id: int,
    *,
    since: timedelta | None,
    batch_no: int = 0,
    reason: str = "Unregistered",
) -> None:
    """A dead letter; ``since``: when the token died, counted from now; None: it says nothing about the token."""
    with store.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO dead_letters (send_id, batch_no, position, user_id, device_id, app, platform, outcome, reason, attempt,"
                " invalid_since) VALUES (:send, :batch, 0, :user, :device, 'shop', 'apns', 'dead', :reason, 1,"
                " clock_timestamp() + cast(:since AS interval))"
            ),
            {
                "send": SEND,
                "batch": batch_no,
                "user": user_id,
                "device": device_id,
                "since": since,
                "reason": reason,
            },
        )


def state(store: Database) -> dict[int, tuple[bool, str | None]]:
    with store.begin() as connection:
        rows = connection.execute(text("SELECT id, is_active, deactivation_reason FROM device_tokens"))
        return {row.id: (row.is_active, row.deactivation_reason) for row in rows}


def letters(store: Database) -> list[tuple[int, bool, bool | None]]:
    with store.begin() as connection:
        rows = connection.execute(
            text(
                "SELECT device_id, processed_at IS NOT NULL AS processed, invalidated FROM dead_letters ORDER BY id"
            )
        )
        return [(row.device_id, row.processed, row.invalidated) for row in rows]


SOON = timedelta(seconds=5)


def test_only_what_is_dead_since_its_registration_is_invalidated(store: Database) -> None:
    dead, back, other, spared, elsewhere = (add(store, n) for n in range(1, 6))
    bury(store, 1, dead, since=SOON)
    bury(store, 2, back, since=-timedelta(hours=1))  # registered again since
    bury(store, 3, other, since=None, reason="PayloadTooLarge")  # not the token's fault
    bury(store, 5, elsewhere, since=SOON, batch_no=1)  # another batch
    bury(store, 99, spared, since=SOON)  # the device is not this user's
    report = invalidate_from_dead_letters(store, SEND, 0)
    assert (report.invalidated, report.kept, report.processed) == (1, 2, 4)
    assert state(store) == {
        dead: (False, "Unregistered"),
        **dict.fromkeys((back, other, spared, elsewhere), (True, None)),
    }
    assert letters(store) == [
        (dead, True, True),
        (back, True, False),
        (other, True, False),
        (elsewhere, False, None),
        (spared, True, False),
    ]
    again = invalidate_from_dead_letters(store, SEND, 0)
    assert (again.invalidated, again.kept, again.processed) == (0, 0, 0)
    assert again.users == report.users


def test_a_phone_that_registers_after_its_token_was_called_dead_keeps_it(store: Database) -> None:
    device = add(store, 1)
    bury(store, 1, device, since=timedelta(0))
    assert add(store, 1) == device
    assert invalidate_from_dead_letters(store, SEND, 0).kept == 1
    assert state(store)[device] == (True, None)


def test_a_device_that_died_twice_is_counted_once(store: Database) -> None:
    device = add(store, 1)
    bury(store, 1, device, since=-timedelta(hours=1), reason="BadDeviceToken")
    bury(store, 1, device, since=SOON, reason="Unregistered")
    report = invalidate_from_dead_letters(store, SEND, 0)
    assert (report.invalidated, report.processed) == (1, 2)
    assert state(store)[device] == (False, "Unregistered")


def test_some_batches_together_end_as_each_would(store: Database) -> None:
    first, second, back, elsewhere = (add(store, n) for n in range(1, 5))
    bury(store, 1, first, since=SOON)
    bury(store, 2, second, since=SOON, batch_no=4)
    bury(store, 1, first, since=-timedelta(hours=1), batch_no=4)  # in both
    bury(store, 3, back, since=-timedelta(hours=1), batch_no=9)
    bury(store, 4, elsewhere, since=SOON, batch_no=5)
    report = invalidate_from_dead_letters(store, SEND, 0, 4, 9)
    assert (report.invalidated, report.kept, report.processed) == (2, 2, 4)
    assert sorted(report.users) == [("apns", 1), ("apns", 2), ("apns", 3)]
    assert {device for device, (active, _) in state(store).items() if active} == {back, elsewhere}
    assert [processed for _, processed, _ in letters(store)] == [True, True, True, True, False]


def test_many_batches_at_once_with_the_same_devices(store: Database) -> None:
    """The same users in several batches, in different orders: no deadlock, each device invalidated once."""
    devices = {user: add(store, user) for user in range(1, 101)}
    for batch in range(8):
        order = sorted(devices, key=lambda user: (user * (batch + 3)) % 101)
        for user in order:
            bury(store, user, devices[user], since=timedelta(minutes=1), batch_no=batch)
    with ThreadPoolExecutor(6) as threads:
        reports = list(
            threads.map(lambda batch: invalidate_from_dead_letters(store, SEND, batch), list(range(8)) * 2)
        )
    assert sum(report.invalidated for report in reports) == 100
    assert sum(report.processed for report in reports) == 800
    assert {active for active, _ in state(store).values()} == {False}


def test_the_cache_is_told_also_on_a_second_run(store: Database, client: redis.Redis) -> None:
    """Who died between the commit and the cache is followed by somebody who repeats both."""
    cache = TokenCache(client, store, timedelta(days=30))
    device = add(store, 1)
    bury(store, 1, device, since=SOON)
    cache.resolve("apns", [1], [device], "shop")
    key = cache_key("apns", bucket_of(1))
    entry = client.get(key)
    assert isinstance(entry, bytes)
    invalidate_from_dead_letters(store, SEND, 0, cache=cache)
    assert client.get(key) == b"~1" + entry
    client.set(key, entry)
    invalidate_from_dead_letters(store, SEND, 0, cache=cache)
    assert cache.resolve("apns", [1], [device], "shop").tokens == [None]


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_devices_that_were_not_seen_for_long_are_deactivated(
    store: Database, client: redis.Redis, limit: int
) -> None:
    cache = TokenCache(client, store, timedelta(days=30))
    now = datetime.now(UTC)
    devices = {
        user: add(
            store, user, last_seen=now - timedelta(days=user), platform="fcm" if user % 3 == 0 else "apns"
        )
        for user in range(1, 41)
    }
    cache.resolve("apns", [35], [devices[35]], "shop")
    gone = [user for user in devices if user >= 20 and user % 3]
    assert deactivate_unseen(store, "apns", 20, limit, cache=cache) == len(gone)
    assert {device: state(store)[device] for device in devices.values()} == {
        devices[user]: (False, "unseen") if user in gone else (True, None) for user in devices
    }
    assert deactivate_unseen(store, "apns", 20, limit, cache=cache) == 0
    assert cache.resolve("apns", [35], [devices[35]], "shop").tokens == [None]


def test_wrong_arguments(store: Database) -> None:
    with pytest.raises(InvalidRequest, match="platform"):
        deactivate_unseen(store, "ios", 30)
    with pytest.raises(ValueError, match="days"):
        deactivate_unseen(store, "apns", 0)
