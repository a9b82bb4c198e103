"""Registrations on a real PostgreSQL: one token belongs to one user, whoever comes at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import text

from pushq.database import Database
from pushq.errors import InvalidRequest, ServiceUnavailable
from pushq.service_urls import ServiceUrl
from pushq.tokens import Device, register, stats, unregister
from pushq.tokens.locks import lock_gate
from pushq.tokens.lookup import devices_of
from tests.services.faults import crash

TOKEN = "c0:APA91b" + "x" * 40


@pytest.fixture
def store(database: str) -> Iterator[Database]:
    opened = Database(ServiceUrl(database), pool_size=12)
    yield opened
    opened.close()


def device(user_id: int = 1, token: str = TOKEN, **fields: Any) -> Device:
    return Device(user_id=user_id, app="shop", platform="fcm", token=token, **fields)


def rows(store: Database) -> list[Any]:
    with store.begin() as connection:
        return list(connection.execute(text("SELECT * FROM device_tokens ORDER BY id")))


def test_the_same_registration_twice_is_one_device(store: Database) -> None:
    first = register(store, device(language="de", tags=("a",), attributes={"plan": "pro"}))
    before = rows(store)[0]
    second = register(store, device(language="fr"))
    after = rows(store)[0]
    assert first.created
    assert not second.created
    assert (first.device_id, first.moved_from) == (second.device_id, second.moved_from)
    assert after.registered_at > before.registered_at
    assert after.last_seen > before.last_seen
    # What the second call does not speak of stays.
    assert (after.language, after.tags, after.attributes) == ("fr", ["a"], {"plan": "pro"})
    register(store, device(tags=(), attributes={}))
    assert (rows(store)[0].tags, rows(store)[0].attributes) == ([], {})


def test_last_seen_never_goes_back(store: Database) -> None:
    register(store, device())
    seen = rows(store)[0].last_seen
    register(store, device(last_seen=datetime.now(UTC) - timedelta(days=50)))
    assert rows(store)[0].last_seen == seen


def test_a_token_that_moves_leaves_the_old_user(store: Database) -> None:
    first = register(store, device(1))
    second = register(store, device(2))
    assert second.moved_from == (1,)
    assert second.device_id != first.device_id
    old, new = rows(store)
    assert (old.user_id, old.is_active, old.deactivation_reason) == (1, False, "moved")
    assert (new.user_id, new.is_active, new.deactivated_at) == (2, True, None)
    back = register(store, device(1))
    assert back.device_id == first.device_id
    assert back.moved_from == (2,)
    assert [(row.user_id, row.is_active) for row in rows(store)] == [(1, True), (2, False)]


def test_app_and_environment_are_part_of_a_token(store: Database) -> None:
    register(store, device(1))
    register(store, Device(user_id=2, app="news", platform="fcm", token=TOKEN))
    register(store, Device(user_id=3, app="shop", platform="fcm", token=TOKEN, environment="sandbox"))
    assert [row.is_active for row in rows(store)] == [True, True, True]


def test_users_who_register_one_token_at_once_end_with_one_owner(store: Database) -> None:
    """Eight users, forty tokens, each token by all of them at the same moment."""
    users, names = 8, [f"{TOKEN}{n}" for n in range(40)]
    barrier = Barrier(users)

    def run(user: int) -> int:
        moved = 0
        for name in names:
            barrier.wait(timeout=30)
            moved += len(register(store, device(user, name)).moved_from)
        return moved

    with ThreadPoolExecutor(users) as threads:
        moves = sum(threads.map(run, range(1, users + 1)))
    found = rows(store)
    assert len(found) == users * len(names)
    for name in names:
        assert sum(row.is_active for row in found if row.token == name) == 1
        newest = max((row for row in found if row.token == name), key=lambda row: row.registered_at)
        assert newest.is_active
    # Each of a token's eight registrations but the last was followed by exactly one move.
    assert moves == (users - 1) * len(names)


def test_a_registration_waits_for_an_import_window(store: Database) -> None:
    with ThreadPoolExecutor(1) as thread:
        with store.begin() as window:
            lock_gate(window)
            waiting = thread.submit(register, store, device(2))
            # It stands in the queue for the gate: only then may the window write what the registration must see.
            while True:
                with store.begin() as other:
                    blocked = other.execute(
                        text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
                    )
                    if blocked.scalar_one():
                        break
            window.execute(
                text(
                    "INSERT INTO device_tokens (user_id, app, platform, token, token_hash)"
                    " VALUES (1, 'shop', 'fcm', :token, substr(encode(sha256(:identity), 'hex'), 1, 32)::uuid)"
                ),
                {"token": TOKEN, "identity": f"shop\0fcm\0production\0{TOKEN}".encode()},
            )
        assert waiting.result(timeout=30).moved_from == (1,)


def test_unregistering_is_idempotent_and_reversible(store: Database) -> None:
    first = register(store, device())
    who: dict[str, Any] = {"app": "shop", "platform": "fcm", "token": TOKEN}
    assert unregister(store, **who, user_id=2) == 0
    assert unregister(store, **who) == 1
    assert unregister(store, **who) == 0
    assert rows(store)[0].deactivation_reason == "unregistered"
    again = register(store, device())
    assert again.device_id == first.device_id
    assert (rows(store)[0].is_active, rows(store)[0].deactivation_reason) == (True, None)


def test_unregistering_checks_its_fields(store: Database) -> None:
    for field, value in (("app", "My App"), ("platform", "wns"), ("token", "x"), ("environment", "test")):
        with pytest.raises(InvalidRequest) as caught:
            fields: dict[str, Any] = {"app": "shop", "platform": "fcm", "token": TOKEN, field: value}
            unregister(store, **fields)
        assert caught.value.field == field


def test_statistics_and_a_users_devices(store: Database) -> None:
    register(store, device(1, TOKEN + "1", language="de"))
    register(store, device(1, TOKEN + "2", last_seen=datetime.now(UTC) - timedelta(days=31)))
    register(store, device(2, TOKEN + "1"))
    unregister(store, app="shop", platform="fcm", token=TOKEN + "2")
    register(store, Device(user_id=3, app="shop", platform="apns", token="ab" * 32, environment="sandbox"))
    register(store, device(4, TOKEN + "4", last_seen=datetime.now(UTC) - timedelta(days=31)))
    apns, fcm = stats(store)
    assert (apns.platform, apns.environment, apns.active, apns.inactive, apns.seen) == (
        "apns",
        "sandbox",
        1,
        0,
        1,
    )
    assert (fcm.active, fcm.inactive, fcm.seen) == (2, 2, 1)
    assert fcm.by_reason == {"moved": 1, "unregistered": 1}
    mine = devices_of(store, 1)
    assert sorted((found.is_active, found.deactivation_reason) for found in mine) == [
        (False, "moved"),
        (False, "unregistered"),
    ]
    assert TOKEN not in repr(mine)


def test_a_database_that_is_down_is_named(store: Database, postgres: Any) -> None:
    register(store, device())
    crash(postgres)
    try:
        with pytest.raises(ServiceUnavailable, match="PUSHQ_DATABASE_URL"):
            register(store, device())
    finally:
        postgres.start()
    register(store, device())
