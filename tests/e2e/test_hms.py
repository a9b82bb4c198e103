"""HMS through real workers: many devices in a request, and a worker that is killed with requests in flight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.world import World, open_world

DEVICES = 3000
SETTINGS = {
    "PUSHQ_BATCH_SIZE": "250",
    "PUSHQ_RELEASE_WINDOW": "6",
    "PUSHQ_LEASE_SECONDS": "4",
    "PUSHQ_REQUEST_TIMEOUT": "5",
}


def requests_at(world: World) -> int:
    requests: int = world.mock.stats()["platforms"]["hms"]["requests"]
    return requests


@pytest.mark.parametrize("guarantee", ["at_most_once", "at_least_once"])
def test_a_killed_worker_reaches_nobody_twice_or_nobody_not_at_all(
    database: str, redis_server: Any, tmp_path: Path, guarantee: str
) -> None:
    with open_world(
        tmp_path,
        database_url=database,
        redis_url=redis_server.url(0),
        broker_url=redis_server.url(1),
        workers=("core", "hms"),
        settings=SETTINGS,
        mock={"latency_ms": 300.0},
    ) as world:
        fleet = world.fleet
        assert fleet is not None
        world.import_devices(DEVICES, 0.02, platforms=("hms",))
        # Its answer is lost: processed, and nobody hears of it.
        world.mock.set_faults(
            [{"platform": "hms", "times": 1, "per": "total", "stall": True, "processed": True}]
        )
        send_id = world.send("--segment", "all", "--guarantee", guarantee)
        world.until(send_id, lambda _: requests_at(world) >= 4)
        fleet.kill("hms")
        fleet.spawn("hms")
        state = world.finished(send_id)
        assert (state.state, state.error) == ("done", None)
        counts, accepted = state.platforms["hms"], world.provider_counts()["hms"]
        alive = world.alive("hms")
        assert accepted.keys() <= alive
        if guarantee == "at_most_once":
            assert set(accepted.values()) == {1}
            assert counts["unknown"] > 0
            # Of the unknown some are dead, and nobody has heard so.
            assert counts["accepted"] + counts["dead"] + counts["unknown"] == DEVICES
        else:
            assert accepted.keys() == alive
            assert (counts["accepted"], counts["dead"]) == (len(alive), DEVICES - len(alive))
        # Whole batches, not single devices.
        assert requests_at(world) < DEVICES / 50
