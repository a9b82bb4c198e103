"""Credentials that change under running workers, as an operator changes them: by writing files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pushq.redis_client import open_redis
from pushq.reload import ConfigState, announced
from pushq.service_urls import ServiceUrl
from tests.e2e.world import World, open_world

DEVICES = 1200
PLATFORMS = ("apns", "fcm")


@pytest.fixture
def world(database: str, redis_server: Any, tmp_path: Path) -> Iterator[World]:
    with open_world(
        tmp_path,
        database_url=database,
        redis_url=redis_server.url(0),
        broker_url=redis_server.url(1),
        settings={"PUSHQ_RELOAD_SECONDS": "0.5", "PUSHQ_BATCH_SIZE": "50", "PUSHQ_RELEASE_WINDOW": "2"},
    ) as opened:
        yield opened


def replace(path: Path, text: str) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.replace(path)


def until(world: World, reached: Callable[[ConfigState], bool]) -> None:
    """Wait until every worker says so of its configuration."""
    deadline = time.monotonic() + 60.0
    client = open_redis(ServiceUrl(world.environment["PUSHQ_REDIS_URL"]))
    try:
        while True:
            found = announced(client)
            if {each.kind for each in found} == {"core", *PLATFORMS} and all(
                reached(each.state) for each in found
            ):
                return
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
    finally:
        client.close()


def doctor(world: World, status: str) -> dict[str, list[str]]:
    """What `pushq doctor` finds in this state, by subject."""
    found: dict[str, list[str]] = {}
    for each in json.loads(world.run("doctor", "--json", "--timeout", "60", check=False).stdout)["findings"]:
        if each["status"] == status:
            found.setdefault(each["subject"], []).append(each["found"])
    return found


def test_keys_are_rotated_in_the_middle_of_a_broadcast(world: World) -> None:
    """Nobody is missed and nobody gets it twice, though the old keys are refused before the broadcast has ended."""
    config = world.mock.config_file
    world.import_devices(DEVICES, 0.0)
    send_id = world.send("--segment", "all", "--guarantee", "at_most_once", "--rate", "15")
    world.until(send_id, lambda state: state.total("accepted") > 0)
    text = good = config.read_text()
    old = {}
    for platform in PLATFORMS:
        new, ready = world.mock.add_key(platform), world.mock.ready[platform]
        # The longest first: a key's id is a part of its file's name.
        for name in sorted(new.keys() & ready.keys(), key=lambda name: len(ready[name]), reverse=True):
            text = text.replace(ready[name], new[name])
        old[platform] = ready.get("key_id", "mock")
    assert text != good

    replace(config, text.replace("[apps.shop.fcm]", "[apps.shop.fcm"))
    until(world, lambda state: bool(state.failed))
    broken = doctor(world, "failed")
    assert "not TOML" in broken["configuration"][0]
    assert sum("cannot use the configuration" in found for found in broken["workers"]) == 3

    replace(config, text)
    until(world, lambda state: not state.failed)
    for platform in PLATFORMS:
        world.mock.revoke_key(platform, old[platform])
    world.mock.expire_credentials("fcm")
    state = world.until(send_id, lambda state: state.total("accepted") > 0)
    assert not state.finished, "the broadcast was over before the old keys were refused"
    world.run("rate", str(send_id), "--unlimited")
    done = world.finished(send_id)
    assert (done.state, done.total("accepted")) == ("done", DEVICES)
    for platform in PLATFORMS:
        assert world.mock.accepted(platform) == dict.fromkeys(world.alive(platform), 1)
    assert doctor(world, "failed") == {}
