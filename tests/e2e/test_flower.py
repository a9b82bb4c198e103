"""Flower, started as the Procfile starts it, shows the workers and their tasks on both brokers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from pushq.app import CORE_QUEUES, PLATFORM_QUEUES
from pushq.demo.fleet import WORKERS
from tests.deployment import procfile_processes
from tests.e2e.flower_process import flower_process
from tests.e2e.world import World, open_world

SHOWN_TIMEOUT_S = 30.0
#: Longer than a batch takes to be picked up, shorter than a worker is given to stop.
SLOW_MS = 3000.0
DELIVERIES = {"pushq.deliver_batch.apns", "pushq.deliver_batch.fcm"}


@pytest.fixture
def world(database: str, redis_url: str, broker_url: str, tmp_path: Path) -> Iterator[World]:
    with open_world(
        tmp_path,
        database_url=database,
        redis_url=redis_url,
        broker_url=broker_url,
        settings={"PUSHQ_EVENTS": "true"},
    ) as opened:
        yield opened


class Flower:
    """Flower's HTTP API."""

    def __init__(self, client: httpx.Client, log: Path) -> None:
        self._client, self._log = client, log

    def workers(self) -> dict[str, dict[str, Any]]:
        answer = self._client.get("/api/workers", params={"refresh": "1"}).raise_for_status()
        found: dict[str, dict[str, Any]] = answer.json()
        return found

    def states(self, *names: str) -> dict[str, list[str]]:
        """The states of all tasks of these names."""
        tasks = self._client.get("/api/tasks", params={"limit": 1000}).raise_for_status().json().values()
        return {name: [task["state"] for task in tasks if task["name"] == name] for name in names}

    def page(self, path: str) -> str:
        return self._client.get(path).raise_for_status().text

    def log(self) -> str:
        return self._log.read_text()

    def until(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SHOWN_TIMEOUT_S
        while not what():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)


@contextmanager
def flower(world: World) -> Iterator[Flower]:
    """Run the Procfile's command."""
    (line,) = [process for process in procfile_processes() if process.name == "flower"]
    with (
        flower_process(world, line.command, {"FLOWER_UNAUTHENTICATED_API": "true"}) as process,
        httpx.Client(base_url=process.url, timeout=15.0, trust_env=False) as client,
    ):
        yield Flower(client, process.log)


def test_flower_shows_workers_and_tasks(world: World, broker_url: str) -> None:
    world.import_devices(200)
    with flower(world) as shown:
        assert world.fleet is not None
        expected = {f"{kind}-{world.fleet.pids()[kind]}@{os.uname().nodename}" for kind in WORKERS}
        shown.until(lambda: set(shown.workers()) >= expected)
        queues = {queue["name"] for found in shown.workers().values() for queue in found["active_queues"]}
        served = {queue for (platform, _), queue in PLATFORM_QUEUES.items() if platform in WORKERS}
        assert queues == {*CORE_QUEUES, *served}

        world.finished(world.send("--segment", "all"))
        names = ("pushq.send_broadcast", "pushq.plan_shard", *DELIVERIES)
        shown.until(
            lambda: all(states and set(states) == {"SUCCESS"} for states in shown.states(*names).values())
        )

        assert all(name in shown.page("/workers") for name in expected)
        password = urlsplit(broker_url).password
        assert password is not None
        assert password not in str(shown.workers())
        assert password not in shown.page("/broker")
        assert password not in shown.log()


def test_a_stopping_worker_tells_how_its_last_tasks_ended(world: World) -> None:
    """Events are published in groups; the last group must not go down with the worker."""
    world.import_devices(200)
    world.mock.set_latency(SLOW_MS)
    with flower(world) as shown:
        assert world.fleet is not None
        world.send("--segment", "all")
        shown.until(lambda: all("STARTED" in states for states in shown.states(*DELIVERIES).values()))
        world.fleet.stop()
        # Some may never have been started: they are still in the queue.
        shown.until(
            lambda: all(
                "SUCCESS" in states and "STARTED" not in states
                for states in shown.states(*DELIVERIES).values()
            )
        )
