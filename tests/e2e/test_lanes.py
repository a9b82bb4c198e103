"""Who has to wait for whom: transactional sends for no broadcast, and of two broadcasts neither for the other's end."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.world import World, open_world

BATCHES = 40
BATCH = 10


@pytest.fixture
def options(database: str, redis_server: Any, tmp_path: Path) -> dict[str, Any]:
    """One batch at a time for each worker, and each batch takes a while."""
    return {
        "folder": tmp_path,
        "database_url": database,
        "redis_url": redis_server.url(0),
        "broker_url": redis_server.url(1),
        "workers": ("core",),
        "mock": {"latency_ms": 400.0},
        "settings": {"PUSHQ_BATCH_SIZE": str(BATCH), "PUSHQ_RELEASE_WINDOW": "4"},
    }


def pending(world: World, send_id: uuid.UUID) -> int:
    state = world.progress(send_id)
    assert state is not None
    return state.total("pending")


def started(world: World, send_id: uuid.UUID) -> None:
    world.until(send_id, lambda state: state.total("accepted") > 0)


def test_a_transactional_send_does_not_wait_for_a_broadcast(options: dict[str, Any]) -> None:
    """Each lane has its own worker: five transactional sends in turn are through while the broadcast has hardly begun."""
    with open_world(**options) as world:
        assert world.fleet is not None
        for lane, nice in (("broadcast", 5), ("transactional", 0)):
            world.fleet.spawn(
                "apns", "--lane", lane, "--concurrency", "1", "--nice", str(nice), name=f"apns-{lane}"
            )
        world.fleet.await_ready()
        pids, own = world.fleet.pids(), os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, pids["apns-broadcast"]) == min(own + 5, 19)
        assert os.getpriority(os.PRIO_PROCESS, pids["apns-transactional"]) == own
        devices = world.import_devices(BATCHES * BATCH, 0.0)
        user = next(device.user_id for device in devices if device.platform == "apns")
        phones = sum(device.user_id == user and device.platform == "apns" for device in devices)
        broadcast = world.send("--segment", "all", "--platform", "apns")
        started(world, broadcast)
        before = pending(world, broadcast)
        done = world.python(
            "from pushq import send_notification\n"
            "for n in range(5):\n"
            f"    print(send_notification.delay([{user}], {{'title': f'Order {{n}}'}}, platforms=['apns']).id)"
        )
        assert done.returncode == 0, done.stderr
        for send_id in map(uuid.UUID, done.stdout.split()):
            assert world.finished(send_id).total("accepted") == phones
        after = pending(world, broadcast)
        assert 0 < after < before
        world.finished(broadcast)


def test_two_broadcasts_share_the_workers(options: dict[str, Any]) -> None:
    """The second, called right after the first, is served in turn with it: it ends before the first plus itself would have."""
    with open_world(**options) as world:
        assert world.fleet is not None
        world.fleet.spawn("apns", "--concurrency", "2")
        world.fleet.await_ready()
        world.import_devices(BATCHES * BATCH, 0.0)
        # Both from one process: on a busy machine the start of another takes as long as the first broadcast.
        done = world.python(
            "from pushq import send_broadcast\n"
            "for n in range(2):\n"
            "    print(send_broadcast.delay({'title': 'Sale'}, {'segments': ['all'], 'platforms': ['apns']}).id)"
        )
        assert done.returncode == 0, done.stderr
        first, second = map(uuid.UUID, done.stdout.split())
        started(world, first)
        started(world, second)
        assert pending(world, first) > 0
        world.finished(first)
        # Window by window: when the first ends, the second has got about as much as the first after the second's start.
        assert world.progress(second).total("accepted") > BATCHES * BATCH // 10  # type: ignore[union-attr]
        world.finished(second)
