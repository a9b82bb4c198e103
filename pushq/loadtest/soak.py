"""An hour, or as long as one likes, of continuous sends to providers that fail in every way they know, and whether anything leaks.

Two cohorts of devices take turns: one has broadcasts and transactional sends with ``at_most_once`` only, the other with
``at_least_once`` only, so that the providers' counts by token show whether each guarantee held. Phones whose token a provider called
dead come back and register again, as in life; so the audience stays.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import FrameType
from typing import Any, Final

from pushq.audience import segments
from pushq.database import Database
from pushq.demo.commands import pushq_command
from pushq.demo.devices import Device, generate, write_csv
from pushq.demo.stack import Stack
from pushq.errors import PushqError
from pushq.ledger import cleanup, inventory
from pushq.ledger.timings import transactional_ends
from pushq.loadtest.agreement import Side, compare, disagreements
from pushq.loadtest.census import Census, Look
from pushq.loadtest.mishaps import mishaps
from pushq.loadtest.pacing import PacedCalls
from pushq.loadtest.quantiles import histogram, summary
from pushq.loadtest.routine import Routine
from pushq.loadtest.trend import Trend, trend
from pushq.platforms import PLATFORMS
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from pushq.tokens import TokenCache, register
from pushq.tokens.device import Device as Registered

APP: Final = "shop"
GUARANTEES: Final = ("at_most_once", "at_least_once")
SETUP_TIMEOUT_S: Final = 900.0
#: More open sends than this: the machine does not keep up, and no broadcast is added.
MOST_OPEN: Final = 40
PHONES_EVERY_S: Final = 5.0
MOST_PHONES: Final = 2_000
#: Access tokens of FCM and of HMS are refused in turn, each time this has passed.
EXPIRE_EVERY_S: Final = 150.0
#: A rise up to this is nothing, by the beginning of the series' name.
LEAST: Final[Mapping[str, float]] = {
    "memory_mb": 2.0,
    "own_mb": 2.0,
    "largest_mb": 2.0,
    "database_mb": 2.0,
    "": 1.0,
}
#: Every send writes these rows and nobody removes them before their days are over: they are judged by what one send costs.
PER_SEND: Final = ("rows.sends", "rows.send_shards", "rows.send_batches", "rows.dead_letters", "database_mb")
#: Series that begin so are sums since the beginning: they tell how the load was, and are not judged.
SUM: Final = "sum."
#: What must be zero when nothing is left to do, by the beginning of the series' name.
IDLE: Final = (
    "open.",
    "queued.",
    "streams.in_use.",
    "held_messages.",
    "redis_keys.pushq:journal",
    "broker.messages",
    "broker_entries.unacked",
    "broker_entries.pushq:calls",
    "broker_entries.push.",
    "broker_entries.pushq.",
)


class SoakFailed(PushqError):
    """A guarantee did not hold, or something was left over; the message says what."""


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        devices: of each broadcast; there are twice as many.
        every_s: seconds from one broadcast to the next.
        transactional_rate: calls a second.
        share: of the requests that meet a fault of their own.
        sample_s: seconds from one look to the next.
        drain_s: how long the last sends may take.
        rest_s: idle for so long, before a look at rest.
        settings: further PUSHQ_ variables for the workers.
    """

    minutes: float = 60.0
    devices: int = 20_000
    every_s: float = 10.0
    transactional_rate: float = 5.0
    share: float = 0.02
    latency_ms: float = 80.0
    platforms: Sequence[str] = PLATFORMS
    broker: str = "redis"
    sample_s: float = 60.0
    drain_s: float = 600.0
    rest_s: float = 15.0
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """How the soak stands, for who watches it.

    Attributes:
        phase: ``sending``, ``draining`` or ``counting``.
        done_s, whole_s: of the sending.
    """

    phase: str
    done_s: float
    whole_s: float
    accepted: int
    open_sends: int
    looks: int


def cohorts(plan: Plan) -> dict[str, list[Device]]:
    """The devices by the guarantee of what they get. Users belong to one cohort as a whole."""
    found: dict[str, list[Device]] = {guarantee: [] for guarantee in GUARANTEES}
    for device in generate(2 * plan.devices, 0.0, platforms=plan.platforms):
        found[guarantee_of(device.user_id)].append(device)
    return found


def guarantee_of(user_id: int) -> str:
    return GUARANTEES[user_id % 2]


def run(plan: Plan, say: Callable[[str], None], show: Callable[[Moment], None]) -> dict[str, Any]:
    """Start everything, send, wait for the end, compare, and remove everything. SIGINT ends the sending early.

    Raises:
        EmbeddedError, MockFailed, FleetFailed: a part did not start, or ended.
    """
    with ExitStack() as opening:
        ports = _free_ports(["core", *plan.platforms])
        stack = opening.enter_context(
            Stack(
                latency_ms=plan.latency_ms,
                say=say,
                platforms=plan.platforms,
                rabbitmq=plan.broker == "rabbitmq",
                settings={
                    "PUSHQ_LOG_LEVEL": "ERROR",
                    "PUSHQ_REQUEST_TIMEOUT": "5",
                    **plan.settings,
                },
                own={name: {"PUSHQ_METRICS_PORT": str(port)} for name, port in ports.items()},
            )
        )
        os.environ.update(stack.environment)
        database = Database(
            ServiceUrl(stack.environment["PUSHQ_DATABASE_URL"]), pool_size=4, application_name="pushq-soak"
        )
        opening.callback(database.close)
        audience = cohorts(plan)
        _load(stack, database, audience, say)
        return _Soak(plan, stack, database, audience, ports, say, show).run()


def _load(
    stack: Stack, database: Database, audience: Mapping[str, Sequence[Device]], say: Callable[[str], None]
) -> None:
    devices = [device for each in audience.values() for device in each]
    say(f"importing {len(devices):,} devices")
    path = stack.folder / "devices.csv"
    with path.open("w", encoding="utf-8") as file:
        write_csv(file, iter(devices), app=APP, now=datetime.now(UTC))
    pushq_command("tokens", "import", str(path), "--json", timeout_s=SETUP_TIMEOUT_S)
    path.unlink()
    pushq_command("cache", "warm", "--json", timeout_s=SETUP_TIMEOUT_S)
    for guarantee, each in audience.items():
        segments.create(database, APP, guarantee)
        segments.replace_members(database, APP, guarantee, [sorted({device.user_id for device in each})])


class _Soak:
    """The sends, the looks and the sums."""

    def __init__(
        self,
        plan: Plan,
        stack: Stack,
        database: Database,
        audience: Mapping[str, Sequence[Device]],
        ports: Mapping[str, int],
        say: Callable[[str], None],
        show: Callable[[Moment], None],
    ) -> None:
        self._plan, self._stack, self._database, self._say, self._show = plan, stack, database, say, show
        self._users = max(device.user_id for each in audience.values() for device in each)
        self._owners = {device.token: device.user_id for each in audience.values() for device in each}
        self._cache = open_redis(ServiceUrl(stack.environment["PUSHQ_REDIS_URL"]), max_connections=4)
        pids = {**stack.pids(), "caller": os.getpid()}
        self._census = Census(stack, database, ports, pids, alone="caller")
        self._looks: list[tuple[float, Look]] = []
        self._per_minute: list[dict[str, float]] = []
        self._broadcasts: list[uuid.UUID] = []
        self._held_back = 0
        self._registered = 0
        self._expiring = deque(each for each in ("fcm", "hms_oauth") if each[:3] in plan.platforms)
        self._over = threading.Event()
        self._late: list[str] = []

    def run(self) -> dict[str, Any]:
        try:
            return self._run()
        finally:
            self._cache.close()

    def _run(self) -> dict[str, Any]:
        plan, stack = self._plan, self._stack
        self._say("a broadcast to each cohort without faults, and a look at rest")
        for _ in GUARANTEES:
            self._broadcast()
        self._drain(len(self._broadcasts))
        time.sleep(plan.rest_s)
        before = self._census.look()
        faults = mishaps(plan.share, plan.platforms)
        stack.mock.set_faults(faults, seed=1)
        self._say(f"sending for {plan.minutes:g} minutes; Ctrl-C ends it early and tells what was measured")
        started = datetime.now(UTC)
        cpu = self._census.cpu_s()
        with _interruptible(self._over):
            paced, seconds = self._send()
            cpu_s = {name: round(used - cpu[name], 2) for name, used in self._census.cpu_s().items()}
            self._say("waiting for the last sends")
            drained_s = self._drain(len(self._broadcasts) + len(paced.calls))
            self._say("counting")
        provider = stack.mock.stats()["platforms"]
        stack.mock.set_faults([])
        time.sleep(plan.rest_s)
        after = self._census.look()
        sides = self._compare()
        latencies, failed = transactional_ends(self._database)
        recipients = sum(side.recipients for side in sides.values())
        report: dict[str, Any] = {
            "plan": asdict(plan),
            "started_at": started.isoformat(timespec="seconds"),
            "interrupted": seconds < 60 * plan.minutes,
            "seconds": round(seconds, 1),
            "drained_s": round(drained_s, 1),
            "calls": {
                "broadcasts": len(self._broadcasts),
                "held_back": self._held_back,
                "transactional": len(paced.calls),
                "refused": dict(paced.failed),
                "late_s": round(paced.late, 3),
            },
            "recipients": recipients,
            "per_second": round(recipients / seconds),
            "registered_again": self._registered,
            "cpu_s": cpu_s,
            "cpu_share": round(sum(cpu_s.values()) / seconds / (os.cpu_count() or 1), 3),
            "transactional": {
                "ended": len(latencies),
                "failed": dict(failed),
                "ms": {name: round(value * 1000, 1) for name, value in summary(latencies).items()},
                "ms_histogram": [(round(end * 1000, 3), count) for end, count in histogram(latencies)],
            },
            "faults": faults,
            "providers": provider,
            "agreement": {guarantee: side.as_json() for guarantee, side in sides.items()},
            "at_rest": {"before": before, "after": after},
            "series": verdicts(self._looks),
            "looks": [{"seconds": round(at, 1), **look} for at, look in self._looks],
            "looks_failed": dict(self._census.failed),
            "held": [f"{state}: {error}" for state, error in inventory.held_sends(self._database)],
        }
        report["rows_after_cleanup"] = self._clean()
        report["problems"] = [*self._late, *problems(report, sides)]
        return report

    def _send(self) -> tuple[PacedCalls, float]:
        plan = self._plan
        whole = 60 * plan.minutes
        begin = time.monotonic()
        next_look = plan.sample_s
        expire_at = EXPIRE_EVERY_S
        with ExitStack() as beside:
            paced = beside.enter_context(
                PacedCalls(plan.transactional_rate, self._users, APP, guarantee=guarantee_of)
            )
            routines = [
                beside.enter_context(Routine("broadcasts", plan.every_s, self._broadcast_unless_late)),
                beside.enter_context(Routine("phones", PHONES_EVERY_S, self._phones_come_back)),
            ]
            while (done := time.monotonic() - begin) < whole and not self._over.wait(0.5):
                self._stack.fleet.check_alive()
                for routine in routines:
                    routine.check()
                if done >= expire_at and self._expiring:
                    expire_at += EXPIRE_EVERY_S
                    self._stack.mock.expire_credentials(self._expiring[0])
                    self._expiring.rotate()
                if done >= next_look:
                    next_look += plan.sample_s
                    self._looks.append((done, self._census.look()))
                self._tell("sending", done)
            seconds = time.monotonic() - begin
        return paced, seconds

    def _broadcast_unless_late(self) -> None:
        if inventory.open_work(self._database).sends > MOST_OPEN:
            self._held_back += 1
            return
        self._broadcast()

    def _broadcast(self) -> None:
        from pushq.tasks.entry import send_broadcast  # noqa: PLC0415 - Celery asks for its broker when it is imported

        number = len(self._broadcasts)
        guarantee = GUARANTEES[number % len(GUARANTEES)]
        result = send_broadcast.delay(
            notification={"title": "Sale", "body": f"20% off, the {number}th time"},
            audience={"segments": [guarantee], "platforms": list(self._plan.platforms)},
            app=APP,
            guarantee=guarantee,
        )
        self._broadcasts.append(uuid.UUID(result.id))

    def _phones_come_back(self) -> None:
        """Devices whose token was called dead register again with it: to the mock it is as good as before."""
        cache = TokenCache(self._cache, self._database, timedelta(days=30))
        for platform, token in inventory.inactive_tokens(self._database, MOST_PHONES):
            register(self._database, Registered(self._owners[token], APP, platform, token), cache=cache)
            self._registered += 1
            if self._over.is_set():
                return

    def _drain(self, calls: int) -> float:
        """Wait until every call is in the ledger, nothing is open and no message is left; returns the seconds."""
        begin = time.monotonic()
        while True:
            work = inventory.open_work(self._database)
            waited = time.monotonic() - begin
            over = work.sends == work.batches == work.letters == 0
            if (
                over
                and inventory.rows(self._database)["sends"] >= calls
                and not leftovers(self._census.look())
            ):
                return waited
            if waited > self._plan.drain_s:
                # What was measured is told all the same, and this with it.
                self._late.append(f"not over {waited:.0f} s after the last call: {work}")
                return waited
            self._stack.fleet.check_alive()
            self._tell("draining", waited)
            time.sleep(0.5)

    def _tell(self, phase: str, done_s: float) -> None:
        platforms = self._stack.mock.stats()["platforms"]
        self._show(
            Moment(
                phase,
                done_s,
                60 * self._plan.minutes,
                sum(platforms[name]["accepted"] for name in self._plan.platforms),
                inventory.open_work(self._database).sends,
                len(self._looks),
            )
        )

    def _compare(self) -> dict[str, Side]:
        devices = {
            number: (platform, token) for number, platform, token in inventory.device_tokens(self._database)
        }
        accepted = {platform: self._stack.mock.accepted(platform) for platform in self._plan.platforms}
        return compare(inventory.batches(self._database), devices, accepted)

    def _clean(self) -> dict[str, int]:
        """The nightly clean-up, as if everything were old: what it leaves nobody would ever remove."""
        later = date.today() + timedelta(days=1)  # noqa: DTZ011 - a day more or less does not matter
        cleanup.clean(self._database, today=later, ledger_days=0, dead_letter_days=0)
        return inventory.rows(self._database)


def verdicts(looks: Sequence[tuple[float, Look]]) -> dict[str, dict[str, Any]]:
    """Flat or growing, for every series; a key that was absent in a look was 0. Those of :data:`PER_SEND` are divided by the sends."""
    found = {}
    for name in sorted({name for _, look in looks for name in look if not name.startswith(SUM)}):
        points = [(at, look.get(name, 0.0)) for at, look in looks]
        title = name
        if name in PER_SEND[1:]:
            title = f"{name} per send"
            points = [
                (at, value / max(look.get("rows.sends", 1.0), 1.0))
                for (at, value), (_, look) in zip(points, looks, strict=True)
            ]
        elif name in PER_SEND:
            continue
        line = trend(points, least=0.0 if title != name else _least(name))
        found[title] = _plain(line) | {"first": round(points[0][1], 4), "last": round(points[-1][1], 4)}
    return found


def _plain(line: Trend) -> dict[str, Any]:
    return {
        name: value if isinstance(value, str) else round(value, 4) for name, value in asdict(line).items()
    }


def _least(name: str) -> float:
    return next(value for prefix, value in LEAST.items() if name.startswith(prefix))


def problems(report: Mapping[str, Any], sides: Mapping[str, Side]) -> list[str]:
    """What must not be, in words; growth is told by the series' verdicts."""
    found = disagreements(sides)
    calls = report["calls"]
    sent = calls["broadcasts"] + calls["transactional"]
    rows = report["at_rest"]["after"]["rows.sends"]
    if rows != sent:
        found.append(f"{sent} calls were taken, and the ledger has {rows:g} sends")
    found += [f"{each} with nothing left to do" for each in leftovers(report["at_rest"]["after"])]
    for platform, counts in report["providers"].items():
        if counts["violations"]:
            found.append(f"{platform}: the protocol was broken: {counts['violations']}")
    left = {
        table: count
        for table, count in report["rows_after_cleanup"].items()
        if table.startswith(("send", "dead"))
    }
    found += [
        f"{count} rows of {table} are left after the clean-up" for table, count in left.items() if count
    ]
    return [*found, *(f"a send was held: {each}" for each in report["held"])]


def leftovers(look: Look) -> list[str]:
    """What a look has that an idle pushq has not."""
    return [f"{name} is {value:g}" for name, value in look.items() if value and name.startswith(IDLE)]


def growing(report: Mapping[str, Any]) -> list[str]:
    """Names of the series that grow."""
    return [name for name, line in report["series"].items() if line["verdict"] == "growing"]


@contextmanager
def _interruptible(over: threading.Event) -> Iterator[None]:
    """The first SIGINT ends the sending; the next is Ctrl-C as always."""

    def stop(number: int, frame: FrameType | None) -> None:
        over.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)


def _free_ports(names: Sequence[str]) -> dict[str, int]:
    with ExitStack() as held:
        found = {}
        for name in names:
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            found[name] = int(probe.getsockname()[1])
        return found
