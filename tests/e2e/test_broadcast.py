"""One call, all devices, through real workers: on Redis and on RabbitMQ, counted at the providers."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import text

from pushq.app import PLATFORM_QUEUES
from tests.e2e.world import World, open_world

Opener = Callable[..., AbstractContextManager[World]]

DEVICES = 3000


@pytest.fixture
def world(database: str, redis_url: str, broker_url: str, tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path, database_url=database, redis_url=redis_url, broker_url=broker_url) as opened:
        yield opened


@pytest.fixture
def on_redis(database: str, redis_server: Any, tmp_path: Path) -> Opener:
    def opener(**options: Any) -> AbstractContextManager[World]:
        return open_world(
            tmp_path,
            database_url=database,
            redis_url=redis_server.url(0),
            broker_url=redis_server.url(1),
            **options,
        )

    return opener


def ledger_of(world: World, send_id: uuid.UUID) -> list[tuple[int, str, int, str, bytes, list[int]]]:
    """What the ledger says of a send, without ids and times that differ from run to run."""
    with world.database.begin() as connection:
        rows = connection.execute(
            text(
                """
                SELECT batch_no, platform, recipients, state, outcomes, user_ids FROM send_batches
                WHERE send_id = :id ORDER BY batch_no LIMIT 1000
                """
            ),
            {"id": send_id},
        ).all()
    return [(r.batch_no, r.platform, r.recipients, r.state, bytes(r.outcomes), r.user_ids) for r in rows]


#: The ledger of the broadcast below by broker: filled by whichever runs first, compared by the other.
_LEDGERS: dict[str, list[tuple[int, str, int, str, bytes, list[int]]]] = {}


@pytest.mark.parametrize("guarantee", ["at_most_once", "at_least_once"])
def test_a_broadcast_reaches_every_device_once(world: World, guarantee: str) -> None:
    """The same broadcast gives the same ledger on both brokers, and the providers count every living device once."""
    world.import_devices(DEVICES)
    state = world.finished(world.send("--segment", "all", "--guarantee", guarantee))
    assert (state.state, state.error) == ("done", None)
    dead = sum(device.dead for device in world.devices)
    assert {p: (c["accepted"], c["dead"]) for p, c in state.platforms.items()} == {
        p: (len(world.alive(p)), sum(d.dead for d in world.devices if d.platform == p))
        for p in ("apns", "fcm")
    }
    assert state.total("accepted") + state.total("dead") == state.total("devices") == DEVICES
    for platform, counted in world.provider_counts().items():
        assert counted == dict.fromkeys(world.alive(platform), 1)
    with world.database.begin() as connection:
        inactive = connection.execute(
            text(
                "SELECT deactivation_reason, count(*) FROM device_tokens WHERE NOT is_active GROUP BY 1 LIMIT 10"
            )
        ).all()
    assert sum(n for _, n in inactive) == dead
    assert {reason for reason, _ in inactive} == {"Unregistered", "UNREGISTERED"}
    with redis.Redis.from_url(world.environment["PUSHQ_REDIS_URL"]) as client:
        assert list(client.scan_iter("pushq:journal:*")) == []
    ledger = ledger_of(world, state.id)
    assert ledger == _LEDGERS.setdefault(guarantee, ledger)


def test_an_application_calls_send_broadcast_delay(world: World) -> None:
    """The call of the README, typed into Python; the same idempotency key is the same send."""
    world.import_devices(300, 0.0)
    code = """
from pushq import send_broadcast, send_notification
def call():
    return send_broadcast.delay(
        notification={"title": "Sale", "body": "20% off", "data": {"campaign": "c-42"}},
        audience={"segments": ["all"], "platforms": ["apns", "fcm"]},
        guarantee="at_most_once",
        idempotency_key="promo-42",
    )
first, second = call(), call()
assert first.id == second.id
third = send_notification.delay(user_ids=[1, 2], notification={"title": "Your order"})
print(first.id, third.id)
"""
    done = world.python(code)
    assert done.returncode == 0, done.stderr
    broadcast, transactional = (uuid.UUID(part) for part in done.stdout.split())
    assert world.finished(broadcast).total("accepted") == 300
    state = world.finished(transactional)
    mine = [device for device in world.devices if device.user_id in (1, 2)]
    assert (state.kind, state.guarantee, state.total("accepted")) == (
        "transactional",
        "at_least_once",
        len(mine),
    )
    counts = {token: n for counted in world.provider_counts().values() for token, n in counted.items()}
    assert counts == {d.token: 1 + (d in mine) for d in world.devices}


def test_queue_messages_are_ids_only(on_redis: Opener) -> None:
    """A message's body is the send's id and a number, however large notification and audience are; and few are out at a time."""
    settings = {"PUSHQ_BATCH_SIZE": "10", "PUSHQ_RELEASE_WINDOW": "8"}
    with on_redis(workers=("core",), beat=False, settings=settings) as world:
        world.import_devices(2000, 0.0)
        send_id = world.send("--segment", "all", "--body", "b" * 3000)
        world.until(send_id, lambda state: state.state == "sending")
        with redis.Redis.from_url(world.environment["PUSHQ_BROKER_URL"]) as client:
            for platform in ("apns", "fcm"):
                messages = client.lrange(PLATFORM_QUEUES[platform, "broadcast"], 0, -1)
                assert isinstance(messages, list)
                assert len(messages) == 8
                for raw in messages:
                    message = json.loads(raw)
                    arguments, keywords, _ = json.loads(base64.b64decode(message["body"]))
                    assert arguments[0] == str(send_id)
                    assert isinstance(arguments[1], int)
                    assert (len(arguments), keywords) == (2, {})
                    assert len(base64.b64decode(message["body"])) < 200
                    assert len(raw) < 1500  # with Celery's own headers


def test_a_failing_provider_is_tried_again(on_redis: Opener) -> None:
    """503 on the first try of every seventh token: delivered on the second, through Celery's retry."""
    faults = [
        {
            "platform": "apns",
            "every": 7,
            "times": 1,
            "answer": {"status": 503, "reason": "ServiceUnavailable"},
        },
    ]
    with on_redis() as world:
        world.mock.set_faults(faults)
        world.import_devices(500, 0.0)
        state = world.finished(world.send("--segment", "all", "--guarantee", "at_least_once"))
        assert state.total("accepted") == 500
        for platform, counted in world.provider_counts().items():
            assert counted == dict.fromkeys(world.alive(platform), 1)
        answers = world.mock.stats()["platforms"]["apns"]["answers"]
        assert answers == {"200": 300, "503 ServiceUnavailable": 300 // 7}
        with world.database.begin() as connection:
            attempts = connection.execute(
                text("SELECT max(attempt) FROM send_batches WHERE send_id = :id AND platform = 'apns'"),
                {"id": state.id},
            ).scalar_one()
        assert attempts == 2


def test_a_scheduled_send_waits_for_its_time(on_redis: Opener) -> None:
    with on_redis() as world:
        world.import_devices(50, 0.0)
        at = datetime.now(UTC) + timedelta(seconds=6)
        send_id = world.send("--segment", "all", "--send-at", at.isoformat())
        early = world.until(send_id, lambda state: state.state == "scheduled")
        assert early.total("devices") == 0
        state = world.finished(send_id)
        assert state.finished_at is not None
        assert state.finished_at >= at
        assert state.total("accepted") == 50


@pytest.mark.parametrize("guarantee", ["at_most_once", "at_least_once"])
def test_a_killed_worker_costs_a_delay(on_redis: Opener, guarantee: str) -> None:
    """kill -9 in mid-batch: the sweeper issues its batches again; never twice, or never lost, as the guarantee says."""
    settings = {"PUSHQ_LEASE_SECONDS": "3", "PUSHQ_BATCH_SIZE": "100"}
    with on_redis(settings=settings, mock={"latency_ms": 400.0}) as world:
        world.import_devices(1000, 0.0)
        send_id = world.send("--segment", "all", "--guarantee", guarantee)
        world.until(send_id, lambda state: state.state == "sending")
        assert world.fleet is not None
        world.fleet.kill("apns")
        world.fleet.spawn("apns")
        state = world.finished(send_id)
        counted = world.provider_counts()
        assert counted["fcm"] == dict.fromkeys(world.alive("fcm"), 1)
        if guarantee == "at_most_once":
            assert set(counted["apns"].values()) == {1}
            assert state.total("accepted") + state.total("unknown") == 1000
            assert state.total("accepted") <= sum(map(len, counted.values())) <= 1000
        else:
            assert counted["apns"].keys() == world.alive("apns")
            assert state.total("accepted") == 1000
