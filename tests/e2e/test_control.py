"""The brake, with real workers: pause, resume, cancel, replay and export, counted at the providers."""

from __future__ import annotations

import csv
import io
import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from pushq import control
from tests.e2e.world import World, open_world

DEVICES = 1500


@pytest.fixture
def world(database: str, redis_server: Any, tmp_path: Path) -> Iterator[World]:
    with open_world(
        tmp_path,
        database_url=database,
        redis_url=redis_server.url(0),
        broker_url=redis_server.url(1),
        mock={"latency_ms": 250.0},
        settings={"PUSHQ_BATCH_SIZE": "50", "PUSHQ_RELEASE_WINDOW": "2"},
    ) as opened:
        yield opened


def states(world: World, send_id: uuid.UUID) -> dict[str, int]:
    with world.database.begin() as connection:
        rows = connection.execute(
            text("SELECT state, count(*) FROM send_batches WHERE send_id = :id GROUP BY 1"), {"id": send_id}
        ).all()
    return {row[0]: row[1] for row in rows}


def times_accepted(world: World) -> Counter[str]:
    return Counter({token: n for counted in world.provider_counts().values() for token, n in counted.items()})


def exported(world: World, send_id: uuid.UUID) -> Counter[str]:
    rows = list(csv.DictReader(io.StringIO(world.run("export", str(send_id)).stdout)))
    assert len({row["device_id"] for row in rows}) == len(rows)
    return Counter(row["outcome"] for row in rows)


def test_a_send_is_paused_resumed_cancelled_and_replayed(world: World) -> None:
    """Nobody gets it twice, whatever the operator does; at the end everybody has it."""
    world.import_devices(DEVICES, 0.0)
    # Slow enough that a busy machine gives its orders before the send has ended.
    send_id = world.send("--segment", "all", "--guarantee", "at_most_once", "--rate", "60")
    world.until(send_id, lambda state: state.state == "sending" and state.total("accepted") > 0)
    assert control.pause(send_id, database=world.database).changed
    time.sleep(1.5)  # what was in flight ends
    held = times_accepted(world)
    assert 0 < sum(held.values()) < DEVICES
    time.sleep(1.5)
    assert times_accepted(world) == held

    assert control.resume(send_id, database=world.database).changed
    world.until(send_id, lambda state: state.total("accepted") > sum(held.values()))
    assert control.cancel(send_id, database=world.database).changed
    state = world.finished(send_id)
    assert state.state == "cancelled"
    assert states(world, send_id).keys() == {"done"}
    counted = times_accepted(world)
    assert set(counted.values()) == {1}
    assert exported(world, send_id) == {"accepted": len(counted), "cancelled": DEVICES - len(counted)}
    assert state.total("accepted") == len(counted) < DEVICES

    told = json.loads(world.run("replay", str(send_id), "--outcome", "cancelled", "--yes", "--json").stdout)
    assert told["recipients"] == DEVICES - len(counted)
    world.run("rate", str(send_id), "--unlimited")
    state = world.finished(send_id)
    assert (state.state, state.total("accepted")) == ("done", DEVICES)
    assert times_accepted(world) == dict.fromkeys(world.alive("apns") | world.alive("fcm"), 1)
    assert exported(world, send_id) == {"accepted": DEVICES}


def test_the_exhausted_get_it_when_the_provider_is_well_again(world: World) -> None:
    """A send with one attempt of its own: nothing is tried twice until an operator says so."""
    world.import_devices(500, 0.0)
    fault = {"platform": "apns", "every": 5, "answer": {"status": 503, "reason": "ServiceUnavailable"}}
    world.mock.set_faults([fault])
    send_id = world.send("--segment", "all", "--guarantee", "at_least_once", "--max-attempts", "1")
    state = world.finished(send_id)
    failed = len(world.alive("apns")) // 5
    assert (state.state, state.total("exhausted"), state.total("accepted")) == ("done", failed, 500 - failed)
    rows = csv.DictReader(io.StringIO(world.run("export", str(send_id), "--outcome", "exhausted").stdout))
    assert Counter((r["reason"], r["status"], r["attempt"], r["platform"]) for r in rows) == {
        ("ServiceUnavailable", "503", "1", "apns"): failed
    }

    world.mock.set_faults([])
    told = world.run(
        "replay", str(send_id), "--outcome", "exhausted", "--reason", "ServiceUnavailable", "--yes"
    )
    assert f"{failed}  recipients" in told.stdout
    state = world.finished(send_id)
    assert (state.state, state.total("accepted")) == ("done", 500)
    assert times_accepted(world) == dict.fromkeys(world.alive("apns") | world.alive("fcm"), 1)
    assert json.loads(world.run("show", str(send_id), "--json").stdout)["reasons"] == []
