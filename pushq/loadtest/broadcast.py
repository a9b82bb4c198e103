"""One whole broadcast, measured: servers, providers and workers of its own, and transactional calls beside it.

What the ledger says is compared with what the mock providers counted; seconds are the ledger's, from the call to the last settled
outcome.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pushq.database import Database
from pushq.demo.commands import pushq_command
from pushq.demo.devices import DEFAULT_PLATFORMS, Device, generate, user_of, write_csv
from pushq.demo.stack import Stack
from pushq.errors import PushqError
from pushq.ledger.progress import Progress, progress, waiting_dead_letters
from pushq.ledger.sends import UnknownSend
from pushq.ledger.timings import database_bytes, stages, transactional_ends
from pushq.loadtest.broker import BrokerWatch, rabbitmq_megabytes, redis_megabytes
from pushq.loadtest.pacing import PacedCalls
from pushq.loadtest.processes import Watch
from pushq.loadtest.quantiles import histogram, summary
from pushq.mock import MockProcess
from pushq.service_urls import ServiceUrl

APP: Final = "shop"
LOOK_S: Final = 0.5
#: CPU time is read in every such look: it adds up by itself, and a look reads a file for each process of the machine.
CPU_EVERY: Final = 4
#: Memory in every such look: the kernel walks all pages for it.
MEMORY_EVERY: Final = 8
#: The ledger is summed in every such look: the end is read from it, so this costs no accuracy.
LEDGER_EVERY: Final = 2
SETTLE_TIMEOUT_S: Final = 60.0
CONNECT_TIMEOUT_S: Final = 60.0
#: What is opened in advance by each worker that is meant for a hundred thousand requests a second: 5,400 at a time to APNs, 4,000 to FCM.
CONNECTIONS: Final[Mapping[str, int]] = {"apns": 6, "fcm": 40}
#: Where a lane of their own serves transactional sends, broadcasts stand back for them.
BROADCAST_NICE: Final = 10
#: Transactional calls flow for so long before the broadcast: what is measured is what it does to a service that runs.
WARM_S: Final = 3.0
#: FCM's own default quota, requests in a minute.
QUOTA: Final = 600_000


class BenchFailed(PushqError):
    """The broadcast was not finished, or what arrived is not what was sent."""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        devices: registered ones, of ``platforms`` in the shares of :func:`pushq.demo.devices.generate`.
        workers: processes by kind; kinds that end in ``-transactional`` serve that lane only, and leave the other to their like.
        connections: opened in advance by each worker, by platform: ``min_connections`` of the app's table.
        settings: further PUSHQ_ variables for the workers.
        transactional_rate: calls per second beside the broadcast; 0 is none.
        quota: the mock of FCM refuses more than 600,000 requests a minute, and pushq is told so, without a ramp; else neither.
        plan_first: before the broadcast plan another one with nobody there to deliver it, and cancel it.
        timeout_s: for the broadcast.
    """

    devices: int
    platforms: Sequence[str] = DEFAULT_PLATFORMS
    latency_ms: float = 80.0
    dead_ratio: float = 0.03
    broker: str = "redis"
    workers: Mapping[str, int] = field(default_factory=dict)
    connections: Mapping[str, int] = field(default_factory=lambda: dict(CONNECTIONS))
    transactional_rate: float = 0.0
    guarantee: str = "at_most_once"
    quota: bool = False
    plan_first: bool = False
    timeout_s: float = 3600.0
    settings: Mapping[str, str] = field(default_factory=dict)
    notification: Mapping[str, Any] = field(
        default_factory=lambda: {
            "title": "Sale",
            "body": "20% off until midnight",
            "data": {"campaign": "bench"},
        }
    )


def crew(platforms: Sequence[str], *, transactional: bool) -> dict[str, int]:
    """One process of each kind that the platforms need."""
    kinds = ["core", *platforms]
    if transactional:
        kinds += [f"{kind}-transactional" for kind in kinds]
    return dict.fromkeys(kinds, 1)


def devices(plan: Plan) -> Iterator[Device]:
    """The audience; the same for the same plan."""
    return generate(plan.devices, plan.dead_ratio, platforms=plan.platforms)


def run(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Start everything, send, wait, count, and remove everything.

    Raises:
        BenchFailed: see there. EmbeddedError, MockFailed, FleetFailed: a part did not start, or ended.
    """
    with ExitStack() as opening:
        stack = opening.enter_context(
            Stack(
                latency_ms=plan.latency_ms,
                say=say,
                workers=(),
                rabbitmq=plan.broker == "rabbitmq",
                settings={"PUSHQ_LOG_LEVEL": "WARNING", **plan.settings},
            )
        )
        _configure(stack.mock, plan)
        os.environ.update(stack.environment)
        database = Database(ServiceUrl(stack.environment["PUSHQ_DATABASE_URL"]), pool_size=3)
        opening.callback(database.close)
        users = _load(stack, plan, say)
        planner = _plan_alone(stack, database, plan, say) if plan.plan_first else None
        _start_workers(stack, plan, say)
        return _Measurement(plan, stack, database, users, say).report() | {"planner_alone": planner}


def _configure(mock: MockProcess, plan: Plan) -> None:
    """The mock's pushq.toml opens few connections in advance and limits nothing; with quotas both sides know of them."""
    file = mock.config_file
    for platform, number in plan.connections.items():
        if platform in plan.platforms:
            _set(file, platform, "", f"min_connections = {number}\n")
    if plan.quota:
        mock.set_faults(
            [
                {
                    "platform": "fcm",
                    "over_per_minute": QUOTA,
                    "answer": {"status": 429, "reason": "QUOTA_EXCEEDED"},
                }
            ]
        )
        _set(file, "fcm", 'rate_per_minute = "unlimited"\n', f"rate_per_minute = {QUOTA}\nramp_up_s = 0\n")


def _set(file: Path, platform: str, before: str, after: str) -> None:
    """Replace lines of the provider's table, or put them at its head."""
    head, table, tail = file.read_text(encoding="utf-8").partition(f"[apps.{APP}.{platform}]\n")
    if not table or before not in tail:
        raise BenchFailed(f"{file.name} has no table for {platform} to be changed")
    file.write_text(head + table + tail.replace(before, after, 1), encoding="utf-8")


def _load(stack: Stack, plan: Plan, say: Callable[[str], None]) -> int:
    """Returns the highest user; they are numbered from 1."""
    say(f"generating {plan.devices:,} devices")
    path = stack.folder / "devices.csv"
    with path.open("w", encoding="utf-8") as file:
        write_csv(file, devices(plan), app=APP, now=datetime.now(UTC))
    # Else autovacuum goes through the new rows while the broadcast is measured, or the planner through pages that it never saw.
    say("importing them: pushq tokens import devices.csv --vacuum")
    pushq_command("tokens", "import", str(path), "--vacuum", "--json", timeout_s=plan.timeout_s)
    path.unlink()
    say("warming the token cache: pushq cache warm")
    pushq_command("cache", "warm", "--json", timeout_s=plan.timeout_s)
    return user_of(plan.devices - 1)


def _call(plan: Plan) -> uuid.UUID:
    from pushq.tasks.entry import send_broadcast  # noqa: PLC0415 - Celery asks for its broker when it is imported

    result = send_broadcast.delay(
        notification=dict(plan.notification),
        audience={"segments": ["all"], "platforms": list(plan.platforms)},
        app=APP,
        guarantee=plan.guarantee,
    )
    return uuid.UUID(result.id)


def _plan_alone(stack: Stack, database: Database, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """A broadcast of which only the planning is done. The worker ends afterwards: the broadcast proper begins with new ones."""
    say("planning alone: one core worker, nobody to deliver")
    stack.fleet.spawn("core", name="planner")
    stack.fleet.await_ready()
    watch = Watch(stack.pids())
    send_id = _call(plan)
    deadline = time.monotonic() + plan.timeout_s
    while True:
        time.sleep(LOOK_S)
        watch.look(memory=False)
        stack.fleet.check_alive()
        state = _progress(database, send_id)
        if state is not None and state.planned_at is not None:
            break
        if time.monotonic() > deadline:
            raise BenchFailed(f"not planned after {plan.timeout_s:g} s: {state}")
    watch.look()
    usage = watch.usage()
    pushq_command("cancel", str(send_id), "--json", timeout_s=SETTLE_TIMEOUT_S)
    stack.fleet.end("planner")
    devices = state.total("devices")
    cpu = {name: one.cpu_s for name, one in usage.items()}
    seconds = (state.planned_at - state.called_at).total_seconds()
    return {
        "devices": devices,
        "seconds": round(seconds, 3),
        "per_second": round(devices / seconds),
        "cpu_s": cpu,
        "cpu_per_recipient_us": _per_recipient(cpu, devices),
        "largest_mb": {name: one.largest_mb for name, one in usage.items()},
    }


def _progress(database: Database, send_id: uuid.UUID) -> Progress | None:
    try:
        return progress(database, send_id)
    except UnknownSend:
        return None


def _start_workers(stack: Stack, plan: Plan, say: Callable[[str], None]) -> None:
    transactional = plan.transactional_rate > 0
    workers = plan.workers or crew(plan.platforms, transactional=transactional)
    say("starting workers: " + ", ".join(f"{count} {kind}" for kind, count in workers.items()))
    split = {kind.partition("-")[0] for kind in workers if kind.endswith("-transactional")}
    for kind, count in workers.items():
        role, _, lane = kind.partition("-")
        options = ["--lane", lane or "broadcast"] if role in split else []
        if role in split and lane != "transactional":
            options += ["--nice", str(BROADCAST_NICE)]
        for number in range(1, count + 1):
            stack.fleet.spawn(role, *options, name=f"{kind}-{number}")
    stack.fleet.await_ready()
    _await_connections(stack, plan, workers)


def _await_connections(stack: Stack, plan: Plan, workers: Mapping[str, int]) -> None:
    """Until those are open that workers open in advance: they do so one after the other, and are ready before."""
    expected = Counter[str]()
    for kind, count in workers.items():
        platform = kind.partition("-")[0]
        expected[platform] += count * plan.connections.get(platform, 0)
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while True:
        stack.fleet.check_alive()
        counted = stack.mock.stats()["platforms"]
        missing = {
            platform: number - counted[platform]["connections"]["open"]
            for platform, number in expected.items()
            if platform in plan.platforms and counted[platform]["connections"]["open"] < number
        }
        if not missing:
            return
        if time.monotonic() > deadline:
            raise BenchFailed(f"connections not open after {CONNECT_TIMEOUT_S:g} s: {missing}")
        time.sleep(0.1)


class _Measurement:
    """The broadcast itself, and what is looked at while it runs."""

    def __init__(
        self,
        plan: Plan,
        stack: Stack,
        database: Database,
        users: int,
        say: Callable[[str], None],
    ) -> None:
        self._plan, self._stack, self._database = plan, stack, database
        self._users, self._say = users, say
        self._over_time: list[tuple[float, int]] = []
        server, url = stack.rabbitmq, stack.environment["PUSHQ_BROKER_URL"]
        self._broker = BrokerWatch(
            (lambda: redis_megabytes(url)) if server is None else (lambda: rabbitmq_megabytes(server))
        )
        # This process calls and counts; the others are its children.
        self._watch = Watch({**stack.pids(), "caller": os.getpid()}, alone=("caller",))

    def report(self) -> dict[str, Any]:
        plan = self._plan
        size_before = database_bytes(self._database)
        with PacedCalls(plan.transactional_rate, self._users, APP) as paced:
            if plan.transactional_rate:
                self._say(f"transactional calls: {WARM_S:g} s before the broadcast")
                time.sleep(WARM_S)
            began = datetime.now(UTC)
            self._say("send_broadcast.delay(...)")
            send_id = _call(plan)
            state = self._follow(send_id)
        usage = self._watch.usage()
        failed, without_end = self._await_transactional(paced)
        latencies, _ = transactional_ends(self._database, since=began)
        self._await_dead_letters(send_id)
        counted = self._counted(paced)
        cpu = {name: one.cpu_s for name, one in usage.items()}
        return {
            "plan": asdict(plan) | {"notification": dict(plan.notification)},
            "devices": state.total("devices"),
            "seconds": round(state.seconds, 3),
            "per_second": round(state.total("devices") / state.seconds),
            "outcomes": {
                name: state.total(name)
                for name in (
                    "accepted",
                    "dead",
                    "rejected",
                    "exhausted",
                    "expired",
                    "suppressed",
                    "unknown",
                    "pending",
                )
            },
            "stages": {name: round(at, 3) for name, at in stages(self._database, send_id).items()},
            "over_time": self._over_time,
            "transactional": {
                "calls": len(paced.calls),
                "measured": len(latencies),
                "refused": dict(paced.failed),
                "failed": dict(failed),
                "open": without_end,
                "late_s": round(paced.late, 3),
                "ms": {name: round(value * 1000, 1) for name, value in summary(latencies).items()},
                "ms_histogram": [(round(end * 1000, 3), count) for end, count in histogram(latencies)],
            },
            "cpu_s": cpu,
            "cpu_per_recipient_us": _per_recipient(cpu, state.total("devices")),
            "peak_mb": {name: one.peak_mb for name, one in usage.items()},
            "largest_mb": {name: one.largest_mb for name, one in usage.items()},
            "growth_mb": {name: one.growth_mb for name, one in usage.items()},
            "broker_peak_mb": None if self._broker.peak_mb is None else round(self._broker.peak_mb, 3),
            "broker_looks": {"answered": self._broker.looks, "failed": dict(self._broker.failed)},
            "database_growth_mb": round((database_bytes(self._database) - size_before) / 2**20, 1),
            **counted,
        }

    def _follow(self, send_id: uuid.UUID) -> Progress:
        begin = time.monotonic()
        look = 0
        with self._broker:
            while True:
                time.sleep(LOOK_S)
                look += 1
                if look % CPU_EVERY == 0:
                    self._watch.look(memory=look % MEMORY_EVERY == 0)
                self._over_time.append((round(time.monotonic() - begin, 2), self._answered()))
                self._stack.fleet.check_alive()
                state = _progress(self._database, send_id) if look % LEDGER_EVERY == 0 else None
                if state is not None and state.finished:
                    self._watch.look()
                    return state
                if time.monotonic() - begin > self._plan.timeout_s:
                    raise BenchFailed(f"not finished after {self._plan.timeout_s:g} s: {state}")

    def _answered(self) -> int:
        """Recipients that the providers have answered about so far; they know it without summing, unlike the ledger."""
        platforms = self._stack.mock.stats()["platforms"]
        # A request to HMS names many, and its counts by device are of those that it took.
        return sum(
            platforms[name]["accepted" if name == "hms" else "requests"] for name in self._plan.platforms
        )

    def _await_transactional(self, paced: PacedCalls) -> tuple[Counter[str], int]:
        """Why transactional sends failed, and how many have no end.

        Who has no device left but a dead one, which the broadcast found out, cannot be called.
        """
        if not paced.calls:
            return Counter(), 0
        self._say("waiting for the last transactional sends")
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while True:
            seconds, failed = transactional_ends(self._database)
            ended = len(seconds) + failed.total()
            # What was measured is told all the same when some are late.
            if ended >= len(paced.calls) or time.monotonic() > deadline:
                return failed, max(len(paced.calls) - ended, 0)
            time.sleep(LOOK_S)

    def _await_dead_letters(self, send_id: uuid.UUID) -> None:
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while waiting_dead_letters(self._database, send_id):
            if time.monotonic() > deadline:
                raise BenchFailed(f"dead letters were not processed within {SETTLE_TIMEOUT_S:g} s")
            time.sleep(LOOK_S)

    def _counted(self, paced: PacedCalls) -> dict[str, Any]:
        """What the providers accepted, against what they should have."""
        called = Counter(paced.calls.values())
        duplicated = missing = 0
        accepted = {platform: self._stack.mock.accepted(platform) for platform in self._plan.platforms}
        for device in devices(self._plan):
            if not device.dead:
                # A transactional call may come before or after a token's end; only living ones are compared.
                difference = accepted[device.platform].pop(device.token, 0) - 1 - called[device.user_id]
                duplicated += max(difference, 0)
                missing += max(-difference, 0)
        answers = self._stack.mock.stats()["platforms"]
        return {
            "duplicated": duplicated,
            "missing": missing,
            "answers": {name: answers[name]["answers"] for name in self._plan.platforms},
        }


def _per_recipient(cpu: Mapping[str, float | None], recipients: int) -> float | None:
    known = [value for value in cpu.values() if value is not None]
    return round(sum(known) / recipients * 1e6, 2) if known else None


def problems(report: Mapping[str, Any]) -> list[str]:
    """What of a report must not be, in words."""
    found = [f"{name}: {report[name]}, not 0" for name in ("duplicated", "missing") if report[name]]
    looks, outcomes = report["broker_looks"], report["outcomes"]
    if looks["failed"] and not looks["answered"]:
        found.append(f"nobody knows what the broker held: {looks['failed']}")
    if outcomes["pending"]:
        found.append(f"{outcomes['pending']} recipients pending")
    if without_end := report["transactional"]["open"]:
        found.append(
            f"{without_end} transactional sends without an end {SETTLE_TIMEOUT_S:g} s after the broadcast's"
        )
    return found
