"""Messages that differ by recipient, from the ledger to the providers: who gets which text, and who gets no request at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pushq.app_settings import load_apps
from pushq.embedded.postgres import PostgresServer
from pushq.mock import MockProcess
from pushq.tokens.invalidation import invalidate_from_dead_letters
from tests.integration.ledger_world import APP, Worker, World, open_world, token

BATCH = 30
MESSAGE = {"title": "Hello {name}", "languages": {"de": {"title": "Hallo {name}"}}}
UNAVAILABLE = {"apns": "ServiceUnavailable", "fcm": "UNAVAILABLE"}
GUARANTEES = ("at_most_once", "at_least_once")


@pytest.fixture(scope="module")
def running() -> Iterator[MockProcess]:
    with MockProcess(engine="strict", latency_ms=5.0) as mock:
        yield mock


@pytest.fixture
def world(postgres: PostgresServer, ledger_url: str, mock: MockProcess) -> Iterator[World]:
    app = load_apps(mock.config_file)[APP]
    with open_world(ledger_url, app, batch_size=BATCH, plan_page=100, request_timeout=5.0) as world:
        world.empty()
        yield world


def know(world: World, users: range, **attributes: Any) -> None:
    """Give the devices of these users attributes; ``{}`` in a text is the user's id."""
    world.change(
        "UPDATE device_tokens SET attributes = replace(:attributes, '{}', user_id::text)::jsonb"
        " WHERE user_id BETWEEN :first AND :last",
        attributes=json.dumps(attributes),
        first=users[0],
        last=users[-1],
    )


def users(count: int) -> dict[str, Any]:
    """An audience that is one batch."""
    return {"user_ids": list(range(1, count + 1))}


def titles(mock: MockProcess, platform: str) -> dict[str, str]:
    """What each token was told."""
    found: dict[str, str] = {}
    for request in mock.requests(platform, 1000):
        body = json.loads(request["body"])
        if platform == "apns":
            found[request["path"].rpartition("/")[2]] = body["aps"]["alert"]["title"]
        else:
            tokens = body["message"]["token"]
            for each in tokens if isinstance(tokens, list) else [tokens]:
                found[each] = body["message"]["notification"]["title"]
    return found


def letters(world: World) -> dict[int, tuple[str, str, int | None]]:
    return {
        row[0]: tuple(row[1:])
        for row in world.rows("SELECT user_id, outcome, reason, status FROM dead_letters")
    }


@pytest.mark.parametrize("guarantee", GUARANTEES)
@pytest.mark.parametrize("platform", ["apns", "fcm", "hms"])
def test_everybody_gets_his_own(
    world: World, worker: Worker, mock: MockProcess, platform: str, guarantee: Any
) -> None:
    """In his language, with his name; who has none gets no request, and his token stays. From the cache it is the same."""
    world.add_devices(platform, 40, language="en")
    world.add_devices(platform, 30, first=41, language="de-AT")
    know(world, range(1, 66), name="Nr {}")
    expected = {token(platform, u): f"{'Hello' if u <= 40 else 'Hallo'} Nr {u}" for u in range(1, 66)}
    for _ in ("from PostgreSQL", "from the cache"):
        mock.reset()
        send_id = world.send(notification=MESSAGE, guarantee=guarantee)
        worker.run_queued(send_id)
        assert titles(mock, platform) == expected
        assert mock.accepted(platform) == dict.fromkeys(expected, 1)
        assert world.totals(send_id) == {"devices": 70, "accepted": 65, "rejected": 5}
        assert world.progress(send_id).state == "done"
        assert letters(world) == dict.fromkeys(range(66, 71), ("rejected", "value_missing", None))
        for (batch_no,) in world.rows("SELECT batch_no FROM send_batches WHERE send_id = :id", id=send_id):
            invalidate_from_dead_letters(world.database, send_id, batch_no)
    assert world.value("SELECT count(*) FROM device_tokens WHERE NOT is_active") == 0


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_a_message_that_nobody_can_get_ends(
    world: World, worker: Worker, mock: MockProcess, guarantee: Any
) -> None:
    world.add_devices("apns", 40)
    send_id = world.send(notification=MESSAGE, guarantee=guarantee)
    worker.run_queued(send_id)
    assert world.totals(send_id) == {"devices": 40, "rejected": 40}
    assert world.progress(send_id).state == "done"
    assert mock.stats()["platforms"]["apns"]["requests"] == 0


def test_a_value_that_makes_the_message_too_large_costs_its_recipient_alone(
    world: World, worker: Worker, mock: MockProcess
) -> None:
    for platform, first in (("apns", 1), ("fcm", 11), ("hms", 21)):
        world.add_devices(platform, 10, first=first)
    know(world, range(1, 31), name="short")
    for user in (5, 15, 25):
        know(world, range(user, user + 1), name="é" * 2000)
        world.change("UPDATE device_tokens SET language = 'de' WHERE user_id = :u", u=user)
    send_id = world.send(notification=MESSAGE | {"data_templates": {"again": "{name}"}})
    worker.run_queued(send_id)
    assert world.totals(send_id) == {"devices": 30, "accepted": 27, "rejected": 3}
    assert letters(world) == dict.fromkeys((5, 15, 25), ("rejected", "payload_too_large", None))
    for platform in ("apns", "fcm", "hms"):
        assert set(mock.stats()["platforms"][platform]["answers"]) == {"200"}


def test_what_the_call_says_goes_over_the_attributes(world: World, worker: Worker, mock: MockProcess) -> None:
    world.add_devices("fcm", 3)
    know(world, range(1, 4), name="stored {}", city="Wien")
    call: dict[str, Any] = {
        "kind": "transactional",
        "audience": users(3),
        "notification": {"title": "{name|x} {order} {city}"},
        "values": {1: {"order": 17, "name": "Ada"}, 2: {"order": "18"}, 3: {"order": 1.5, "name": ""}},
    }
    send_id = world.send(**call)
    worker.run_queued(send_id)
    assert titles(mock, "fcm") == {
        token("fcm", 1): "Ada 17 Wien",
        token("fcm", 2): "stored 2 18 Wien",
        token("fcm", 3): "x 1.5 Wien",
    }


@pytest.mark.parametrize("platform", ["apns", "fcm"])
def test_a_repetition_says_the_same(world: World, worker: Worker, mock: MockProcess, platform: str) -> None:
    world.add_devices(platform, 20)
    know(world, range(1, 16), name="Nr {}")
    mock.set_faults(
        [
            {
                "platform": platform,
                "every": 1,
                "times": 1,
                "answer": {"status": 503, "reason": UNAVAILABLE[platform]},
            }
        ]
    )
    send_id = world.send(notification=MESSAGE, audience=users(20))
    (batch_no,) = world.queued(send_id)
    worker.run(send_id, batch_no)
    assert world.totals(send_id) == {"devices": 20, "pending": 15, "rejected": 5}
    world.let_time_pass(send_id)
    worker.run(send_id, batch_no)
    assert world.totals(send_id) == {"devices": 20, "accepted": 15, "rejected": 5}
    bodies = [(request["path"], request["body"]) for request in mock.requests(platform, 1000)]
    assert len(bodies) == 30
    assert {bodies.count(each) for each in bodies} == {2}
    assert len(letters(world)) == 5


def test_hms_shares_a_request_among_those_who_get_the_same(
    world: World, worker: Worker, mock: MockProcess
) -> None:
    """Up to 1,000 devices for one request: one for each language, and one for each person where there are names."""
    world.add_devices("hms", 20, language="en")
    world.add_devices("hms", 10, first=21, language="de")
    worker.run_queued(
        world.send(
            notification={"title": "Sale", "languages": {"de": {"title": "Ausverkauf"}}}, audience=users(30)
        )
    )
    assert len(mock.requests("hms")) == 2
    assert titles(mock, "hms") == {token("hms", u): "Sale" if u <= 20 else "Ausverkauf" for u in range(1, 31)}
    mock.reset()
    know(world, range(1, 31), name="Nr {}")
    worker.redis.flushdb()
    worker.run_queued(world.send(notification=MESSAGE, audience=users(30)))
    assert len(mock.requests("hms")) == 30


def test_one_message_that_the_provider_refuses_costs_its_recipient_alone(
    world: World, worker: Worker, mock: MockProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does one language, though it is that of a whole batch: others were reached."""
    monkeypatch.setattr("pushq.delivery.attempt.ENOUGH_DOUBTS", BATCH)
    world.add_devices("apns", 2 * BATCH)
    know(world, range(1, 2 * BATCH + 1), name="Nr {}")
    refused = [7, *range(BATCH + 1, 2 * BATCH + 1)]
    mock.set_faults(
        [
            {
                "platform": "apns",
                "token": token("apns", user),
                "answer": {"status": 413, "reason": "PayloadTooLarge"},
            }
            for user in refused
        ]
    )
    send_id = world.send(notification=MESSAGE, audience=users(2 * BATCH))
    worker.run_queued(send_id)
    assert world.rows("SELECT accepted FROM send_batches ORDER BY batch_no") == [(29,), (0,)]
    assert world.progress(send_id).state == "done"
    assert letters(world) == dict.fromkeys(refused, ("rejected", "PayloadTooLarge", 413))


@pytest.mark.parametrize(
    ("platform", "answer"),
    [
        ("apns", {"status": 413, "reason": "PayloadTooLarge"}),
        ("fcm", {"status": 400, "reason": "INVALID_ARGUMENT"}),  # token or message
    ],
)
def test_a_message_that_is_refused_whatever_it_says_to_whom_ends_the_send(
    world: World,
    worker: Worker,
    mock: MockProcess,
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    answer: dict[str, Any],
) -> None:
    monkeypatch.setattr("pushq.delivery.attempt.ENOUGH_DOUBTS", BATCH)
    world.add_devices(platform, 2 * BATCH)
    know(world, range(1, 2 * BATCH + 1), name="Nr {}")
    mock.set_faults([{"platform": platform, "answer": answer}])
    send_id = world.send(notification=MESSAGE, audience=users(2 * BATCH))
    worker.run_queued(send_id)
    progress = world.progress(send_id)
    assert progress.state == "failed"
    assert progress.error is not None
    assert answer["reason"] in progress.error
    assert mock.stats()["platforms"][platform]["requests"] == BATCH
