"""What Prometheus would read of a whole fleet, against what the ledger says."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from pushq.demo.fleet import WORKERS
from pushq.embedded.redis import RedisServer
from pushq.embedded.server import free_port
from tests.e2e.world import World, open_world

DEVICES = 900
#: Requests a second, so that there is something to see while it runs.
RATE = 150
PATIENT_S = 60.0
FAULT = {
    "platform": "apns",
    "every": 20,
    "times": 1,
    "answer": {"status": 503, "reason": "ServiceUnavailable"},
}
#: The metric's reason, and the ledger's column.
FAILURES = {"token_dead": "dead"} | {
    name: name for name in ("rejected", "exhausted", "expired", "suppressed", "cancelled", "unknown")
}


@pytest.fixture
def ports() -> dict[str, int]:
    return {name: free_port() for name in (*WORKERS, "beat", "exporter")}


@pytest.fixture
def world(database: str, redis_server: RedisServer, tmp_path: Path, ports: dict[str, int]) -> Iterator[World]:
    with open_world(
        tmp_path,
        database_url=database,
        redis_url=redis_server.url(0),
        broker_url=redis_server.url(1),
        settings={"PUSHQ_BATCH_SIZE": "50", "PUSHQ_RETRY_INITIAL_DELAY": "0.2"},
        own={name: {"PUSHQ_METRICS_PORT": str(port)} for name, port in ports.items() if name != "exporter"},
        # Some are asked to come again, so that requests and recipients are not the same number.
        mock={"faults": [FAULT]},
    ) as opened:
        yield opened


class Scrape:
    """The samples of one process."""

    def __init__(self, port: int) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            content = answer.read().decode()
        self.samples = [
            sample for family in text_string_to_metric_families(content) for sample in family.samples
        ]

    def sum(self, name: str, **labels: str) -> float:
        """Over all series of the name with these labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items())
        )


def until(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENT_S
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def exported(world: World) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = {}
    for sample in json.loads(world.run("exporter", "--once", "--json").stdout)["samples"]:
        found.setdefault(sample["name"], []).append(sample)
    return found


def healthy(port: int, probe: str, timeout: float = 10.0) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{probe}", timeout=timeout) as answer:
            return bool(json.load(answer)["ok"])
    except urllib.error.HTTPError as error:
        with error:
            return bool(json.load(error)["ok"])


def test_the_scraped_numbers_are_the_ledgers(world: World, ports: dict[str, int]) -> None:
    world.import_devices(DEVICES, dead_ratio=0.2)
    send_id = world.send("--segment", "all", "--rate", str(RATE))
    world.until(send_id, lambda p: p.settled > 0)

    # While it runs
    until(lambda: Scrape(ports["apns"]).sum("pushq_messages_held", queue="push.apns") > 0, "nothing is held")
    running = exported(world)
    assert any(one["value"] for one in running["pushq_send_pending_recipients"])
    assert {one["labels"]["send"] for one in running["pushq_send_recipients"]} == {str(send_id)}  # type: ignore[index]

    # At its end
    state = world.finished(send_id)
    assert state.state == "done"
    for platform, counts in state.platforms.items():
        scraped = Scrape(ports[platform])
        target = {"app": "shop", "platform": platform}
        lane = {**target, "lane": "broadcast"}
        assert scraped.sum("push_delivered_total", **lane) == counts["accepted"] > 0
        for reason, column in FAILURES.items():
            assert scraped.sum("push_failed_total", **lane, reason=reason) == counts[column], reason
        with world.database.begin() as connection:
            tries = connection.execute(
                text("SELECT attempts FROM send_batches WHERE send_id = :id AND platform = :platform"),
                {"id": send_id, "platform": platform},
            ).scalars()
            sent = sum(sum(each) for each in tries)
        assert scraped.sum("push_sent_total", **lane) == sent
        assert scraped.sum("push_provider_latency_seconds_count", **target) == sent
        assert scraped.sum("push_retries_total", **lane) == sent - counts["devices"]
        answered = counts["accepted"] + counts["dead"]
        assert scraped.sum("push_e2e_latency_seconds_count", platform=platform, lane="broadcast") == answered
        looked_up = scraped.sum("token_cache_hits_total") + scraped.sum("token_cache_misses_total")
        # A batch that had to wait for its turn was looked up again.
        assert looked_up >= sent
        assert scraped.sum("push_dead_letters_total", **target, reason="token_dead") == counts["dead"]
        assert scraped.sum("pushq_messages_held") == 0
        assert scraped.sum("pushq_build_info") == 1
    assert state.platforms["fcm"]["dead"] == Scrape(ports["fcm"]).sum("fcm_errors_total", code="UNREGISTERED")
    apns = Scrape(ports["apns"])
    assert apns.sum("apns_errors_total", reason="Unregistered") == state.platforms["apns"]["dead"]
    assert apns.sum("apns_errors_total", reason="ServiceUnavailable") == apns.sum("push_retries_total") > 0
    core = Scrape(ports["core"])
    assert core.sum("push_tokens_deactivated_total", reason="token_dead") == state.total("dead")
    until(
        lambda: time.time() - Scrape(ports["core"]).sum("pushq_last_sweep_timestamp_seconds") < PATIENT_S,
        "no sweep",
    )
    ended = exported(world)
    assert "pushq_send_pending_recipients" not in ended
    assert {one["labels"]["state"]: one["value"] for one in ended["pushq_sends"]}["done"] == 1  # type: ignore[index]
    assert sum(one["value"] for one in ended["push_tokens_active"]) == state.total("accepted")  # type: ignore[misc]


def test_probes_of_a_fleet(
    database: str, redis_server: RedisServer, tmp_path: Path, ports: dict[str, int]
) -> None:
    roles = ("fcm", "beat")
    with open_world(
        tmp_path,
        database_url=database,
        redis_url=redis_server.url(0),
        broker_url=redis_server.url(1),
        workers=("fcm",),
        own={role: {"PUSHQ_METRICS_PORT": str(ports[role])} for role in roles},
    ) as world:
        for role in roles:
            until(lambda role=role: healthy(ports[role], "ready"), f"{role} is not ready")  # type: ignore[misc]
        redis_server.stop()
        try:
            for role in roles:
                until(lambda role=role: not healthy(ports[role], "ready"), f"{role} is ready without Redis")  # type: ignore[misc]
            # Nobody is to be killed for that.
            assert all(healthy(ports[role], "live") for role in roles)
            asked = world.run("health", "fcm", "--port", str(ports["fcm"]), "--ready", check=False)
            assert asked.returncode == 1
            assert "fcm is not ready: " in asked.stdout
        finally:
            redis_server.start()
        for role in roles:
            until(lambda role=role: healthy(ports[role], "ready"), f"{role} is not ready again")  # type: ignore[misc]
        assert world.run("health", "beat", "--port", str(ports["beat"])).stdout == "beat is live\n"
        assert world.fleet is not None
        pid = world.fleet.pids()["fcm"]
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                healthy(ports["fcm"], "live", timeout=1.0)
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: healthy(ports["fcm"], "live"), "fcm is not live again")
