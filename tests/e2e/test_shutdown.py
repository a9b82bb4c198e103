"""SIGTERM in mid-batch, with a provider that does not answer: gone in time, and the guarantee holds."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from pushq.embedded.postgres import PostgresServer
from pushq.mock import MockProcess
from tests.e2e.world import World, open_world
from tests.services.faults import paused

DEVICES = 500
GRACE_S = 6


def requests_at(mock: MockProcess) -> int:
    requests: int = mock.stats()["platforms"]["apns"]["requests"]
    return requests


@pytest.mark.parametrize("guarantee", ["at_most_once", "at_least_once"])
def test_a_worker_is_gone_within_its_grace_period_and_others_go_on(
    database: str, redis_server: Any, tmp_path: Path, guarantee: str
) -> None:
    """Every tenth request of the first worker is processed and never answered, for longer than the grace period."""
    settings = {"PUSHQ_SHUTDOWN_GRACE": str(GRACE_S), "PUSHQ_BATCH_SIZE": "20", "PUSHQ_RELEASE_WINDOW": "4"}
    with open_world(
        tmp_path,
        database_url=database,
        redis_url=redis_server.url(0),
        broker_url=redis_server.url(1),
        settings=settings,
    ) as world:
        fleet = world.fleet
        assert fleet is not None
        world.import_devices(DEVICES, 0.0)
        world.mock.set_faults([{"platform": "apns", "every": 10, "stall": True, "processed": True}])
        send_id = world.send("--segment", "all", "--guarantee", guarantee)
        world.until(send_id, lambda _: requests_at(world.mock) >= 40)
        assert fleet.end("apns") == 0, fleet.log_tail("apns")
        stalled = world.mock.stats()["platforms"]["apns"]["requests"] // 10
        world.mock.set_faults([])
        fleet.spawn("apns")
        state = world.finished(send_id)
        check(world, state.platforms["apns"], guarantee, stalled)


def test_a_worker_that_hangs_is_ended_by_the_kernel_and_its_batches_are_swept(
    database: str, postgres: PostgresServer, redis_server: Any, tmp_path: Path
) -> None:
    """PostgreSQL is frozen, so that nothing can be settled: the grace period ends all the same."""
    settings = {
        "PUSHQ_SHUTDOWN_GRACE": str(GRACE_S),
        "PUSHQ_BATCH_SIZE": "20",
        "PUSHQ_RELEASE_WINDOW": "4",
        "PUSHQ_LEASE_SECONDS": "5",
    }
    with open_world(
        tmp_path,
        database_url=database,
        redis_url=redis_server.url(0),
        broker_url=redis_server.url(1),
        settings=settings,
        mock={"latency_ms": 300.0},
    ) as world:
        fleet = world.fleet
        assert fleet is not None
        world.import_devices(DEVICES, 0.0)
        send_id = world.send("--segment", "all", "--guarantee", "at_most_once")
        world.until(send_id, lambda _: requests_at(world.mock) >= 40)
        with paused(postgres):
            code = fleet.end("apns")
        assert code == -signal.SIGALRM, fleet.log_tail("apns")
        fleet.spawn("apns")
        state = world.finished(send_id)
        accepted = world.provider_counts()["apns"]
        assert set(accepted.values()) == {1}
        counts = state.platforms["apns"]
        assert counts["accepted"] + counts["unknown"] == len(world.alive("apns"))
        assert counts["accepted"] <= len(accepted)


def check(world: World, counts: Any, guarantee: str, stalled: int) -> None:
    alive, accepted = world.alive("apns"), world.provider_counts()["apns"]
    if guarantee == "at_most_once":
        assert accepted == dict.fromkeys(alive, 1)
        assert (counts["accepted"], counts["unknown"]) == (len(alive) - stalled, stalled)
    else:
        assert counts["accepted"] == len(alive)
        assert accepted.keys() == alive
        assert sum(accepted.values()) == len(alive) + stalled
