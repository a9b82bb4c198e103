"""Transactional calls taken in together, compared with what the long way makes of the same call."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pushq.errors import PushqError
from pushq.ledger import sends
from pushq.ledger.intake import MOST_USERS, prepare, take_in
from tests.integration.ledger_world import World

SENDS = (
    "SELECT kind, app, guarantee, idempotency_key, fingerprint, notification, audience, options, rate, state, error, called_at,"
    " send_at, expires_at, planned_at IS NOT NULL, finished_at IS NOT NULL FROM sends WHERE id = :id"
)
BATCHES = (
    "SELECT batch_no, platform, state, recipients, user_ids, device_ids, publishes, due_at IS NOT NULL, outcomes, runs"
    " FROM send_batches WHERE send_id = :id ORDER BY batch_no"
)


@pytest.fixture
def world_settings() -> dict[str, Any]:
    return {"batch_size": 4, "plan_page": 100, "release_window": 2}


def both_ways(world: World, user_ids: list[int], **call: Any) -> tuple[uuid.UUID, uuid.UUID]:
    """The same call twice: by the long way, and taken in."""
    now = datetime.now(UTC)
    slow = world.accept(audience={"user_ids": user_ids}, kind="transactional", called_at=now, **call)
    world.plan(slow)
    quick = uuid.uuid4()
    take_in(world.database, world.settings, [world.call(quick, user_ids, called_at=now, **call)])
    return slow, quick


@pytest.mark.parametrize(
    "call",
    [
        {},
        {"guarantee": "at_most_once", "rate": 7, "retry": {"max_attempts": 2}},
        {"notification": {"title": "Hi {name|you}"}, "values": {1: {"name": "Ann"}, 2: {"name": "Ben"}}},
    ],
    ids=["plain", "with options", "with values"],
)
def test_the_rows_are_those_of_the_long_way(world: World, call: dict[str, Any]) -> None:
    world.add_devices("apns", 3)
    world.add_devices("fcm", 2)
    slow, quick = both_ways(world, [1, 2], **call)
    assert world.rows(SENDS, id=quick) == world.rows(SENDS, id=slow)
    planned = world.rows(BATCHES, id=quick)
    assert planned == world.rows(BATCHES, id=slow)
    assert [(row.platform, row.recipients, row.state) for row in planned] == [
        ("apns", 2, "queued"),
        ("fcm", 2, "queued"),
    ]


def test_more_devices_than_a_batch_holds_and_more_batches_than_the_window(world: World) -> None:
    world.add_devices("apns", 14)
    slow, quick = both_ways(world, list(range(1, 15)))
    assert world.rows(BATCHES, id=quick) == world.rows(BATCHES, id=slow)
    assert world.states(quick) == {"queued": 2, "planned": 2}


def test_a_user_without_devices_is_a_failed_send_with_the_same_reason(world: World) -> None:
    slow, quick = both_ways(world, [1])
    assert world.rows(SENDS, id=quick) == world.rows(SENDS, id=slow)
    assert world.progress(quick).state == "failed"
    assert world.progress(quick).error == sends.NOBODY


def test_many_calls_at_once_each_get_their_own_devices(world: World) -> None:
    world.add_devices("apns", 40)
    world.add_devices("fcm", 20, first=21)
    ids = {user: uuid.uuid4() for user in range(1, 51)}
    taken = take_in(
        world.database, world.settings, [world.call(send_id, [user]) for user, send_id in ids.items()]
    )
    assert taken.known == set()
    for user, send_id in ids.items():
        platforms = [row.platform for row in world.rows(BATCHES, id=send_id)]
        assert platforms == ["apns"] * (user <= 40) + ["fcm"] * (21 <= user <= 40)
        assert sorted(order.platform for order in taken.orders if order.send_id == send_id) == platforms
        assert all(row.user_ids == [user] for row in world.rows(BATCHES, id=send_id))


def test_only_the_platforms_that_were_asked_for(world: World) -> None:
    world.add_devices("apns", 1)
    world.add_devices("fcm", 1)
    submission = world.submission(audience={"user_ids": [1], "platforms": ["fcm"]}, kind="transactional")
    call = prepare(world.settings, send_id := uuid.uuid4(), submission)
    assert call is not None
    take_in(world.database, world.settings, [call])
    assert [row.platform for row in world.rows(BATCHES, id=send_id)] == ["fcm"]


def test_inactive_devices_and_other_apps_get_nothing(world: World) -> None:
    world.add_devices("apns", 2)
    world.add_devices("apns", 1, app="other", first=3)
    world.change(
        "UPDATE device_tokens SET is_active = false, deactivated_at = now(), deactivation_reason = 'unseen' WHERE user_id = 2"
    )
    send_id = uuid.uuid4()
    take_in(world.database, world.settings, [world.call(send_id, [1, 2, 3])])
    assert [row.user_ids for row in world.rows(BATCHES, id=send_id)] == [[1]]


def test_a_repeated_call_changes_nothing_and_is_named(world: World) -> None:
    world.add_devices("apns", 1)
    call = world.call(uuid.uuid4(), [1])
    first = take_in(world.database, world.settings, [call])
    again = take_in(world.database, world.settings, [call, world.call(other := uuid.uuid4(), [1])])
    assert (first.known, again.known) == (set(), {call.send_id})
    assert [order.send_id for order in again.orders] == [other]
    assert len(world.rows(BATCHES, id=call.send_id)) == 1


def test_the_same_call_twice_in_a_round_is_one(world: World) -> None:
    world.add_devices("apns", 1)
    call = world.call(uuid.uuid4(), [1])
    taken = take_in(world.database, world.settings, [call, call])
    assert len(taken.orders) == 1
    assert taken.known == set()


def test_a_key_that_is_taken_is_known_under_whatever_id(world: World) -> None:
    world.add_devices("apns", 1)
    first, second = (world.call(uuid.uuid4(), [1], idempotency_key="order-1") for _ in range(2))
    taken = take_in(world.database, world.settings, [first, second])
    assert len(taken.orders) == 1
    assert len(taken.known) == 1
    assert take_in(world.database, world.settings, [second]).orders == []


def test_a_round_that_the_database_refuses_leaves_nothing(world: World) -> None:
    world.add_devices("apns", 1)
    good, bad = (world.call(uuid.uuid4(), [1]) for _ in range(2))
    with pytest.raises(Exception, match="invalid input syntax for type json"):
        take_in(world.database, world.settings, [good, replace(bad, notification="no JSON")])
    assert world.value("SELECT count(*) FROM sends") == 0


@pytest.mark.parametrize(
    "call",
    [
        {"kind": "broadcast", "audience": {"user_ids": [1]}},
        {"audience": {"segments": ["all"]}},
        {"audience": {"user_ids": [1], "filter": {"country": ["DE"]}}},
        {"audience": {"user_ids": [1, 2], "exclude_user_ids": [2]}},
        {"audience": {"user_ids": list(range(1, MOST_USERS + 2))}},
        {"audience": {"user_ids": [1]}, "send_at": datetime.now(UTC) + timedelta(hours=1)},
        {"audience": {"user_ids": [1]}, "app": "nobody's"},
        {"audience": {"user_ids": [1], "platforms": ["hms"]}},
    ],
    ids=["broadcast", "segment", "filter", "exclusion", "too many", "later", "unknown app", "unconfigured"],
)
def test_what_is_out_of_the_ordinary_goes_the_long_way(world: World, call: dict[str, Any]) -> None:
    settings = world.settings
    if "hms" in call["audience"].get("platforms", ()):
        apps = {name: app.model_copy(update={"hms": None}) for name, app in settings.apps.items()}
        settings = settings.model_copy(update={"apps": apps})
    assert prepare(settings, uuid.uuid4(), world.submission(**{"kind": "transactional", **call})) is None


def test_without_a_database_it_says_so(world: World) -> None:
    call = world.call(uuid.uuid4(), [1])
    broken = type(world.database)(
        type(world.database.url)("postgresql://nobody@127.0.0.1:1/none"), pool_size=1
    )
    with pytest.raises(PushqError, match="PUSHQ_DATABASE_URL"):
        take_in(broken, world.settings, [call])
    broken.close()
