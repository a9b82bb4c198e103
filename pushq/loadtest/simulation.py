"""A broadcast as a network of queues, in discrete events: what a set-up that nobody has at hand would do, from what one that we have did.

What takes part: the planner's pages, the release window, the queue, workers with so many batches in hand, each process's CPU (one core at
most, and a machine's cores are shared fairly), streams that a request occupies for the provider's latency, a quota's bucket with its ramp,
and the settlement in the database. What does not: disks, networks, retries, and the variance of anything; every recipient is accepted.

Pure: no clock and no random. Seconds, and CPU seconds of one core of the machine on which the costs were measured.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final

#: Statements at a time that use the database's CPU; more wait.
DATABASE_PROCESSES: Final = 16
#: Of the database's CPU for a batch, what its lease costs; the rest is the settlement. (Assumed: it decides nothing.)
LEASE_SHARE: Final = 0.3
#: From a commit to the worker that takes the message up, through the broker. (Assumed: it is hidden by the batches in hand.)
PUBLISH_S: Final = 0.005
#: What a bucket issues of its limit, see :mod:`pushq.limits.bucket`.
QUOTA_SHARE: Final = 0.985
#: With which share of the limit a ramp begins.
RAMP_FROM: Final = 0.1

Then = Callable[[], None]


@dataclass(frozen=True)
class Costs:
    """CPU seconds by role: ``core``, ``postgresql``, ``redis``, ``mock`` and one for each platform.

    Attributes:
        recipient: of each recipient; a platform's are those of its own recipients.
        planning: of these, what planning alone costs (``core`` and ``postgresql``).
        fixed: of a whole broadcast, however small.
    """

    recipient: Mapping[str, float]
    planning: Mapping[str, float]
    fixed: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup:
    """What to send, and with what.

    Attributes:
        devices: by platform.
        workers: processes by platform.
        connections, streams: of one process, by platform.
        quotas: requests a minute, by platform; absent is without limit.
        cores: of each machine, by its name.
        machine: where a role runs; a platform's workers are spread over the names in a tuple. A role without one costs nothing here.
        background: cores that something else uses, by machine.
        chunk: recipients that travel together in the simulation.
    """

    devices: Mapping[str, int]
    workers: Mapping[str, int]
    connections: Mapping[str, int]
    streams: Mapping[str, int]
    latency_s: float
    cores: Mapping[str, float]
    machine: Mapping[str, tuple[str, ...]]
    quotas: Mapping[str, float] = field(default_factory=dict)
    ramp_s: float = 0.0
    window: int = 64
    batch: int = 2500
    concurrency: int = 16
    shards: int = 16
    page: int = 20_000
    background: Mapping[str, float] = field(default_factory=dict)
    chunk: int = 250


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        seconds: from the call to the last settlement.
        planned_s: to the last page.
        per_second: answers in each second.
        busy: share of a process's core, or of a machine's cores (``machine NAME``), that was used over all seconds.
        published: batches in the queue at most, by platform.
    """

    seconds: float
    planned_s: float
    per_second: Sequence[int]
    busy: Mapping[str, float]
    published: Mapping[str, int]

    @property
    def rate(self) -> float:
        """Answers a second in the middle half, where nothing begins or ends."""
        middle = self.per_second[len(self.per_second) // 4 : max(1, 3 * len(self.per_second) // 4)]
        return sum(middle) / len(middle) if middle else 0.0


class Clock:
    """Events in the order of their times."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Then]] = []
        self._order = count()

    def at(self, when: float, then: Then) -> None:
        heapq.heappush(self._events, (when, next(self._order), then))

    def after(self, seconds: float, then: Then) -> None:
        self.at(self.now + seconds, then)

    def run(self) -> None:
        while self._events:
            self.now, _, then = heapq.heappop(self._events)
            then()


class Machine:
    """Cores that all runnable jobs share fairly, one core each at most.

    Jobs are kept by the work that each would have got if it had been there from the beginning: who shares equally need not be updated one by
    one.
    """

    def __init__(self, clock: Clock, cores: float) -> None:
        self.used = 0.0
        self._clock, self._cores = clock, cores
        self._jobs: list[tuple[float, int, Then]] = []
        self._order = count()
        self._work = 0.0
        self._since = 0.0
        self._version = 0

    def run(self, cpu_s: float, then: Then) -> None:
        self._advance()
        heapq.heappush(self._jobs, (self._work + cpu_s, next(self._order), then))
        self._plan()

    def _speed(self) -> float:
        return min(1.0, self._cores / len(self._jobs)) if self._jobs else 0.0

    def _advance(self) -> None:
        done = (self._clock.now - self._since) * self._speed()
        self._work += done
        self.used += done * len(self._jobs)
        self._since = self._clock.now

    def _plan(self) -> None:
        self._version += 1
        if self._jobs:
            version = self._version
            left = max(0.0, self._jobs[0][0] - self._work) / self._speed()
            self._clock.after(left, lambda: self._finish(version))

    def _finish(self, version: int) -> None:
        if version != self._version:
            return  # somebody came or went since, and another time holds
        self._advance()
        _, _, then = heapq.heappop(self._jobs)
        self._plan()
        then()


class Process:
    """Jobs one after the other, or ``threads`` at a time, on a machine (None: somewhere else, at no cost)."""

    def __init__(self, machine: Machine | None, threads: int = 1) -> None:
        self.used = 0.0
        self._machine, self._free = machine, threads
        self._waiting: deque[tuple[float, Then]] = deque()

    def run(self, cpu_s: float, then: Then) -> None:
        if self._machine is None or cpu_s <= 0:
            then()
        elif self._free:
            self._start(self._machine, cpu_s, then)
        else:
            self._waiting.append((cpu_s, then))

    def _start(self, machine: Machine, cpu_s: float, then: Then) -> None:
        self._free -= 1
        self.used += cpu_s

        def done() -> None:
            self._free += 1
            if self._waiting:
                self._start(machine, *self._waiting.popleft())
            then()

        machine.run(cpu_s, done)


class Streams:
    """Requests that a process may have in flight."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: deque[tuple[int, Then]] = deque()

    def take(self, wanted: int, then: Then) -> None:
        self._waiting.append((wanted, then))
        self._serve()

    def give(self, back: int) -> None:
        self._free += back
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, then = self._waiting.popleft()
            self._free -= wanted
            then()


class Quota:
    """A bucket that all processes of a platform draw on, in the order in which they ask."""

    def __init__(self, clock: Clock, per_minute: float | None, ramp_s: float) -> None:
        self._clock, self._ramp_s = clock, ramp_s
        self._rate = None if per_minute is None else QUOTA_SHARE * per_minute / 60
        self._issued_until: float | None = None
        self._began = 0.0

    def take(self, wanted: int, then: Then) -> None:
        if self._rate is None:
            then()
            return
        if self._issued_until is None:
            self._began = self._issued_until = self._clock.now
        at = max(self._issued_until, self._clock.now)
        age = at - self._began
        share = 1.0 if age >= self._ramp_s else RAMP_FROM + (1 - RAMP_FROM) * age / self._ramp_s
        self._issued_until = at + wanted / (self._rate * share)
        self._clock.at(self._issued_until, then)


class _Broadcast:
    def __init__(self, setup: Setup, costs: Costs) -> None:
        self._setup, self._costs = setup, costs
        self.clock = clock = Clock()
        self.machines = {
            name: Machine(clock, cores - setup.background.get(name, 0.0))
            for name, cores in setup.cores.items()
        }
        self.processes = {role: self._process(role) for role in ("core", "redis", "mock")}
        self.processes["postgresql"] = self._process("postgresql", threads=DATABASE_PROCESSES)
        self._free: dict[str, deque[int]] = {}
        self._streams: dict[str, list[Streams]] = {}
        for platform, workers in setup.workers.items():
            for number in range(workers):
                self.processes[f"{platform}-{number + 1}"] = self._process(platform, number)
            limit = setup.connections[platform] * setup.streams[platform]
            self._streams[platform] = [Streams(limit) for _ in range(workers)]
            # A place for each batch in hand, in turns, so that batches spread over the workers.
            self._free[platform] = deque(list(range(workers)) * setup.concurrency)
        self._quotas = {
            platform: Quota(clock, setup.quotas.get(platform), setup.ramp_s) for platform in setup.devices
        }
        self._planned: dict[str, deque[int]] = {platform: deque() for platform in setup.devices}
        self._queue: dict[str, deque[int]] = {platform: deque() for platform in setup.devices}
        self._open: Counter[str] = Counter()
        self.published: Counter[str] = Counter()
        self._pages = 0
        self.planned_s = 0.0
        self.settled_s = 0.0
        self.answers: Counter[int] = Counter()
        self._shares = {
            platform: each / sum(setup.devices.values()) for platform, each in setup.devices.items()
        }
        self._carry = dict.fromkeys(setup.devices, 0.0)

    def _process(self, role: str, number: int = 0, *, threads: int = 1) -> Process:
        places = self._setup.machine.get(role, ())
        return Process(self.machines[places[number % len(places)]] if places else None, threads)

    def _cost(self, role: str, recipients: int, *, planning: bool = False) -> float:
        planned = self._costs.planning.get(role, 0.0)
        each = planned if planning else self._costs.recipient.get(role, 0.0) - planned
        return max(0.0, each) * recipients

    def begin(self) -> None:
        for role, cpu_s in self._costs.fixed.items():
            # A platform's is of all its processes; the first has it here.
            name = role if role in self.processes else f"{role}-1"
            if name in self.processes and name != "core":
                self.processes[name].run(cpu_s, _nothing)
        total = sum(self._setup.devices.values())
        self._pages = self._setup.shards
        shard = total / self._setup.shards

        def start() -> None:
            for _ in range(self._setup.shards):
                self._plan(shard)

        self.processes["core"].run(self._costs.fixed.get("core", 0.0), start)

    def _plan(self, left: float) -> None:
        """The next page of a shard with so many recipients left."""
        recipients = min(left, float(self._setup.page))

        def written() -> None:
            self._cut(recipients)
            if left - recipients >= 0.5:
                self._plan(left - recipients)
                return
            self._pages -= 1
            if not self._pages:
                self.planned_s = self.clock.now
                self._cut(0.0, last=True)

        def stored() -> None:
            self.processes["core"].run(self._cost("core", round(recipients), planning=True), written)

        self.processes["postgresql"].run(self._cost("postgresql", round(recipients), planning=True), stored)

    def _cut(self, recipients: float, *, last: bool = False) -> None:
        """Make batches of a page; what does not fill one waits for the next page, which is near enough to what happens."""
        for platform, share in self._shares.items():
            self._carry[platform] += recipients * share
            size = self._setup.batch
            while self._carry[platform] >= size:
                self._carry[platform] -= size
                self._planned[platform].append(size)
            if last and round(self._carry[platform]):
                self._planned[platform].append(round(self._carry[platform]))
                self._carry[platform] = 0.0
            self._release(platform)

    def _release(self, platform: str) -> None:
        while self._planned[platform] and self._open[platform] < self._setup.window:
            recipients = self._planned[platform].popleft()
            self._open[platform] += 1
            self.clock.after(PUBLISH_S, lambda n=recipients: self._arrive(platform, n))  # type: ignore[misc]

    def _arrive(self, platform: str, recipients: int) -> None:
        queue = self._queue[platform]
        queue.append(recipients)
        self.published[platform] = max(self.published[platform], len(queue))
        self._take_up(platform)

    def _take_up(self, platform: str) -> None:
        while self._queue[platform] and self._free[platform]:
            self._deliver(platform, self._free[platform].popleft(), self._queue[platform].popleft())

    def _deliver(self, platform: str, worker: int, recipients: int) -> None:
        database, redis = self.processes["postgresql"], self.processes["redis"]
        lease = LEASE_SHARE * self._cost("postgresql", recipients)
        settle = (1 - LEASE_SHARE) * self._cost("postgresql", recipients)
        left, unanswered = recipients, recipients

        def leased() -> None:
            redis.run(self._cost("redis", recipients), send)

        def send() -> None:
            nonlocal left
            if not left:
                return
            chunk = min(left, self._setup.chunk, self._most(platform))
            left -= chunk
            self._quotas[platform].take(
                chunk, lambda: self._streams[platform][worker].take(chunk, lambda: write(chunk))
            )

        def write(chunk: int) -> None:
            self.processes[f"{platform}-{worker + 1}"].run(
                self._cost(platform, chunk), lambda: written(chunk)
            )

        def written(chunk: int) -> None:
            self.processes["mock"].run(
                self._cost("mock", chunk),
                lambda: self.clock.after(self._setup.latency_s, lambda: answered(chunk)),
            )
            send()

        def answered(chunk: int) -> None:
            nonlocal unanswered
            self._streams[platform][worker].give(chunk)
            self.answers[int(self.clock.now)] += chunk
            unanswered -= chunk
            if not unanswered:
                database.run(settle, settled)

        def settled() -> None:
            self.settled_s = self.clock.now
            self._open[platform] -= 1
            self._free[platform].append(worker)
            self.processes["core"].run(self._cost("core", recipients), _nothing)
            self._release(platform)
            self._take_up(platform)

        database.run(lease, leased)

    def _most(self, platform: str) -> int:
        return self._setup.connections[platform] * self._setup.streams[platform]


def simulate(setup: Setup, costs: Costs) -> Outcome:
    """One broadcast from its call to its last settlement.

    Raises:
        ValueError: a platform has no worker, or a role is on a machine that there is not.
    """
    for platform in setup.devices:
        if not setup.workers.get(platform):
            raise ValueError(f"workers: found none for {platform}; expected one at least")
    strange = {place for places in setup.machine.values() for place in places} - setup.cores.keys()
    if strange:
        raise ValueError(
            f"machine: found {', '.join(sorted(strange))}; expected some of {', '.join(setup.cores)}"
        )
    broadcast = _Broadcast(setup, costs)
    broadcast.begin()
    broadcast.clock.run()
    seconds = broadcast.settled_s
    busy = {name: process.used / seconds for name, process in broadcast.processes.items()}
    busy |= {
        f"machine {name}": machine.used / seconds / setup.cores[name]
        for name, machine in broadcast.machines.items()
    }
    per_second = [broadcast.answers[second] for second in range(math.ceil(seconds))]
    return Outcome(seconds, broadcast.planned_s, per_second, busy, dict(broadcast.published))


def fit(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(fixed, of each) by least squares through (how many, CPU seconds) pairs; neither below 0.

    Errors count in proportion to the value: a small run must not be off by half for the sake of a large one's percent.
    """
    weights = [1 / max(value, 1e-9) ** 2 for _, value in points]
    total = sum(weights)
    middle = sum(w * x for w, (x, _) in zip(weights, points, strict=True)) / total
    level = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
    spread = sum(w * (x - middle) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    slope = (
        sum(w * (x - middle) * (y - level) for w, (x, y) in zip(weights, points, strict=True)) / spread
        if spread
        else 0.0
    )
    fixed = level - slope * middle
    if fixed < 0 or not spread:
        each = sum(w * x * y for w, (x, y) in zip(weights, points, strict=True))
        return 0.0, each / sum(w * x * x for w, (x, _) in zip(weights, points, strict=True))
    return fixed, max(0.0, slope)


def _nothing() -> None: ...
