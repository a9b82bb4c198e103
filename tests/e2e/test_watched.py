"""A real Prometheus watches real workers through a bad broadcast: the right alerts fire and end, and every panel has something to show."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from pushq.cli.root import cli
from pushq.demo.fleet import WORKERS
from pushq.embedded.sandbox import Sandbox
from pushq.embedded.server import free_port
from tests.e2e.world import World, open_world, shell_environment
from tests.services.dashboard import queries
from tests.services.prometheus import Alert, PrometheusServer, Target, shortened

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules" / "pushq.yml"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
#: Five minutes are 15 seconds. Only durations are shortened: what counts as too many or too late is what it is.
DIVISOR = 20
DEVICES = 1600
#: A little more than a fifth: of each five devices the same would be dead otherwise, and all of them on FCM.
DEAD = 0.201
#: Requests a second of the broadcast, so that it lasts about half a minute.
RATE = 100
WINDOW_S = 60
TIMEOUT_S = 90.0
#: 429 for so many requests that a third of the recipients are refused three times.
REFUSED = 0.7
#: The metric's reason, and the ledger's column.
FAILURES = {"token_dead": "dead"} | {
    name: name for name in ("rejected", "exhausted", "expired", "suppressed", "cancelled", "unknown")
}
#: In which the runbook's commands can be run one after the other.
ORDER = (
    "sends",
    "show",
    "rate",
    "pause",
    "resume",
    "cancel",
    "tokens",
    "cache",
    "db",
    "health",
    "export",
    "replay",
)

pytestmark = pytest.mark.timeout(240)


class Watched:
    """A world, and who watches it.

    Attributes:
        ports: where the processes serve their metrics, by name.
        door: the HTTP API.
        ever: alerts that have fired, by name and labels.
    """

    def __init__(self, world: World, prometheus: PrometheusServer, ports: dict[str, int], door: str) -> None:
        self.world, self.prometheus, self.ports, self.door = world, prometheus, ports, door
        self.ever: dict[tuple[str, frozenset[tuple[str, str]]], Alert] = {}

    def firing(self) -> list[Alert]:
        now = [alert for alert in self.prometheus.alerts() if alert.state == "firing"]
        for alert in now:
            self.ever[alert.name, frozenset(alert.labels.items())] = alert
        return now

    def until(self, reached: Callable[[], bool]) -> None:
        """Wait for something, and take note of what fires meanwhile."""
        deadline = time.monotonic() + TIMEOUT_S
        while not reached():
            firing = self.firing()
            assert time.monotonic() < deadline, firing
            time.sleep(0.5)


@pytest.fixture
def watched(database: str, redis_url: str, sandbox: Sandbox, tmp_path: Path) -> Iterator[Watched]:
    ports = {name: free_port() for name in (*WORKERS, "web", "exporter")}
    with open_world(
        tmp_path,
        database_url=database,
        redis_url=redis_url,
        broker_url=redis_url[: -len("/0")] + "/1",
        # Small batches, so that outcomes are settled while the broadcast runs.
        settings={
            "PUSHQ_BATCH_SIZE": "50",
            "PUSHQ_RETRY_INITIAL_DELAY": "0.5",
            "PUSHQ_EXPORTER_PORT": str(ports["exporter"]),
        },
        own={name: {"PUSHQ_METRICS_PORT": str(ports[name])} for name in WORKERS},
    ) as world:
        # Before the exporter, which counts tokens every five minutes.
        world.import_devices(DEVICES, DEAD)
        targets = [Target("pushq", name, ports[name]) for name in (*WORKERS, "web")]
        targets.append(Target("pushq-exporter", "exporter", ports["exporter"]))
        door = free_port()
        with (
            served(world, "exporter", ports["exporter"], "exporter"),
            served(world, "web", ports["web"], "web", "--port", str(door)),
        ):
            prometheus = PrometheusServer(sandbox, targets, shortened(RULES.read_text(), DIVISOR))
            prometheus.start()
            try:
                yield Watched(world, prometheus, ports, f"http://127.0.0.1:{door}")
            finally:
                prometheus.stop()


@contextmanager
def served(world: World, name: str, port: int, *arguments: str) -> Iterator[None]:
    """A process beside the workers, once it serves its metrics."""
    log = world.folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pushq", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=shell_environment() | world.environment | {"PUSHQ_METRICS_PORT": str(port)},
            cwd=world.folder,
        )
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not answers(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(port: int) -> bool:
    try:
        with httpx.Client(timeout=15.0, trust_env=False) as client:
            return client.get(f"http://127.0.0.1:{port}/metrics").status_code == 200
    except httpx.TransportError:
        return False


def test_a_broadcast_to_dead_tokens_and_an_fcm_that_refuses(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(watched.world.folder)
    world, prometheus = watched.world, watched.prometheus
    # What happened before the first scrape is no increase.
    watched.until(lambda: prometheus.values("count (up == 1)", "") == {"": len(watched.ports)})
    assert watched.firing() == []  # nothing is sent: nothing is wrong

    world.mock.set_faults(
        [
            {
                "platform": "fcm",
                "probability": REFUSED,
                "answer": {"status": 429, "reason": "QUOTA_EXCEEDED", "retry_after": 1},
            },
            {
                "platform": "apns",
                "nth_on_connection": 100,
                "times": 1,
                "per": "total",
                "goaway": {"reason": "Shutdown"},
            },
        ]
    )
    send_id = world.send("--segment", "all", "--rate", str(RATE), "--guarantee", "at_most_once")
    alive = next(device for device in world.devices if device.platform == "apns" and not device.dead)
    single = world.send("--user", str(alive.user_id), "--platform", "apns")

    made = json.loads(world.run("keys", "create", "watched", "--scope", "send", "--json").stdout)
    call_over_http(watched.door, made["key"], alive.user_id)

    missing = {(query.panel, query.ref): query for query in queries()}
    deadline = time.monotonic() + TIMEOUT_S
    expected = {"PushqDeliveryRateLow", "PushqQuotaErrors"}
    while missing or {alert.name for alert in watched.ever.values()} != expected:
        watched.firing()
        over_http = call_over_http(watched.door, made["key"], alive.user_id)
        for key, query in list(missing.items()):
            if prometheus.query(query.filled_in(WINDOW_S)):
                del missing[key]
        assert time.monotonic() < deadline, "\n".join(
            (
                *(f"no data: {query.panel}: {query.filled_in(WINDOW_S)}" for query in missing.values()),
                *(f"fired: {alert}" for alert in watched.ever.values()),
                str(world.progress(send_id)),
                str(world.progress(single)),
            )
        )
        time.sleep(0.5)
    low = next(alert for alert in watched.ever.values() if alert.name == "PushqDeliveryRateLow")
    assert low.labels == {"app": "shop", "platform": "fcm", "lane": "broadcast", "severity": "critical"}
    assert re.fullmatch(
        r"shop, fcm, broadcast: [\d.]+% of the recipients did not get it", low.annotations["summary"]
    )

    world.mock.set_faults([])
    state = world.finished(send_id)
    # What the dashboard counts is what the ledger says.
    assert (
        state.total("dead") > DEVICES * DEAD / 2
    )  # dead tokens of FCM may have been refused for another reason
    ledger = {name: state.total(outcome) for name, outcome in FAILURES.items()} | {
        "delivered": state.total("accepted")
        + world.finished(single).total("accepted")
        + world.finished(over_http).total("accepted")
    }
    deadline = time.monotonic() + TIMEOUT_S
    while (counted := counts(prometheus)) != ledger:
        assert time.monotonic() < deadline, (counted, ledger)
        time.sleep(0.5)

    run_the_commands_of_the_runbook(watched, send_id)
    watched.until(lambda: not watched.firing())
    assert {alert.name for alert in watched.ever.values()} == expected
    assert {alert.labels.get("platform") for alert in watched.ever.values()} == {"fcm"}
    assert prometheus.rule_errors() == []


def call_over_http(door: str, key: str, user_id: int) -> uuid.UUID:
    """The same call each time: the first is a send, the others are that send again."""
    with httpx.Client(timeout=15.0, trust_env=False) as client:
        answer = client.post(
            f"{door}/v1/notifications",
            headers={"Authorization": f"Bearer {key}", "Idempotency-Key": "watched"},
            json={"user_ids": [user_id], "platforms": ["apns"], "notification": {"title": "Your code"}},
        )
    assert answer.status_code == 202, answer.text
    return uuid.UUID(answer.json()["send_id"])


def counts(prometheus: PrometheusServer) -> dict[str, float]:
    failed = prometheus.values("sum by (reason) (push_failed_total)", "reason")
    delivered = prometheus.values("sum (push_delivered_total)", "")
    return failed | {"delivered": delivered[""]}


def run_the_commands_of_the_runbook(watched: Watched, ended: uuid.UUID) -> None:
    """Every command that stands on lines of its own, in an order in which each can succeed."""
    world = watched.world
    settings = world.environment | {"PUSHQ_METRICS_PORT": str(watched.ports["apns"])}
    blocks = re.findall(r"^```\n(.*?)^```$", RUNBOOK, re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line)[1:] for line in {line for block in blocks for line in block.splitlines()}]
    # A worker of its own for a lane is what tests/e2e/test_lanes.py runs; the exporter sets up the logs of its process.
    # Those about keys and users name somebody, and one asks for a password: tests/integration/test_access_commands.py runs them.
    elsewhere = {"worker", "exporter", "keys", "users", "audit"}
    world.run("exporter", "--once")
    commands = sorted(
        (command for command in commands if command[0] not in elsewhere),
        key=lambda command: (ORDER.index(command[0]), "--yes" in command, "--trust-rejections" in command),
    )
    assert len(commands) > 10
    slow = world.send("--segment", "all", "--rate", "1", "--platform", "apns")
    world.until(slow, lambda progress: progress.total("devices") > 0)
    for command in commands:
        send = slow if command[0] in {"rate", "pause", "resume", "cancel"} else ended
        if "--trust-rejections" in command:
            run("pause", str(slow), settings=settings)
        run(*(str(send) if word == "ID" else word for word in command), settings=settings)


def run(*arguments: str, settings: dict[str, str]) -> None:
    """Run a command of pushq in this process: twenty interpreters would take longer to start than the test may."""
    done = CliRunner().invoke(cli, arguments, env=settings)
    assert done.exit_code == 0, (arguments, done.output, done.exception)
