"""The connections to one origin, and the queue in front of them.

The mutable state is the queue, the list of connections, and the count of failed attempts in a row. Connections are opened by
one greenlet, so there is never more than one attempt at a time; another one looks at every time-out. All of it runs in
one thread, and only ``submit``, ``close`` and those greenlets ever wait.
"""

from __future__ import annotations

import logging
import random as _random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pushq.http2.burst import Answer, Burst
from pushq.http2.connection import Connection, Transport
from pushq.http2.core import Core
from pushq.http2.dialer import Dialer
from pushq.http2.errors import ConnectFailed, PeerViolation, PoolClosed, PoolSaturated
from pushq.http2.events import GoAwayReceived
from pushq.http2.frames import DEFAULT_HEADER_TABLE_SIZE, ErrorCode
from pushq.http2.greenlets import Signal, Task, pause
from pushq.http2.queue import BurstQueue
from pushq.http2.reasons import Reason
from pushq.http2.settings import Origin, PoolSettings

_log = logging.getLogger("pushq.http2")

#: A connection that ends this soon without one answer is a failed attempt: the peer lets us in and throws us out again.
_YOUNG_S = 10.0
#: How long a connection that awaits its first answer keeps the pool from opening another.
_WARMING_S = 2.0


class PoolObserver(Protocol):
    """Hears what a pool counts. Labels are closed sets; requests are counted by who reads the bursts."""

    def connection_opened(self, pool: str) -> None: ...
    def connection_ended(self, pool: str, reason: Reason) -> None: ...
    def connect_failed(self, pool: str, reason: Reason) -> None: ...
    def goaway_received(self, pool: str, code: int) -> None: ...
    def exhausted(self, pool: str) -> None:
        """Work waits, all connections are full, and their number is at its maximum."""


class NullObserver:
    """Nobody listens."""

    def connection_opened(self, pool: str) -> None: ...
    def connection_ended(self, pool: str, reason: Reason) -> None: ...
    def connect_failed(self, pool: str, reason: Reason) -> None: ...
    def goaway_received(self, pool: str, code: int) -> None: ...
    def exhausted(self, pool: str) -> None: ...


class Connector(Protocol):
    """Makes channels; :class:`pushq.http2.dialer.Dialer` is the real one."""

    def connect(self, timeout_s: float) -> Transport: ...


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A moment of a pool.

    Attributes:
        connections, draining: that take requests; that only finish theirs.
        streams, stream_limit: in use; allowed now, over the connections that take requests.
        queued: requests that wait.
        opened, failed, lost, goaways: counts since the start. ``lost`` are ends that we did not decide.
        last_error: the latest failure in words; "" if there was none.
    """

    connections: int
    draining: int
    streams: int
    stream_limit: int
    queued: int
    opened: int
    failed: int
    lost: int
    goaways: int
    last_error: str


def never(answer: Answer) -> bool:
    """No answer retires a connection."""
    return False


class Pool:
    """Sends bursts to one origin over as many connections as they need."""

    def __init__(
        self,
        name: str,
        origin: Origin,
        settings: PoolSettings | None = None,
        *,
        retire_on: Callable[[Answer], bool] = never,
        on_goaway: Callable[[GoAwayReceived], None] | None = None,
        observer: PoolObserver | None = None,
        connector: Connector | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        """``retire_on`` sees every answer with a status other than 200; True means that its connection must be replaced.
        ``on_goaway`` hears every GOAWAY, whose reason may concern the credential. Neither may wait.

        Raises:
            SettingsError: a certificate file of the origin cannot be used.
        """
        self.name = name
        self._origin = origin
        self._settings = settings if settings is not None else PoolSettings()
        self._retire_on = retire_on
        self._on_goaway = on_goaway
        self._observer = observer if observer is not None else NullObserver()
        self._connector = connector if connector is not None else Dialer(origin)
        self._clock = clock
        self._random = random
        self._queue = BurstQueue(self._settings.queue_limit)
        self._submitters: deque[Signal] = deque()
        self._connections: list[Connection] = []
        self._header_table_size = self._settings.header_table_size
        self._failures = 0
        self._open_after = clock()
        self._no_connection: Reason | None = None
        self._exhausted = False
        self._started = False
        self._closed = False
        self._opener_wake = Signal()
        self._tasks: list[Task] = []
        self._opened = self._failed = self._lost = self._goaways = 0
        self._last_error = ""

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"<Pool {self.name} {self._origin.host}:{self._origin.port}: {stats.connections} connections, "
            f"{stats.streams} of {stats.stream_limit} streams, {stats.queued} queued>"
        )

    # For the caller

    def start(self) -> None:
        """Open ``min_connections``, one after the other, in the background. Returns at once; a second call does nothing.

        Raises:
            PoolClosed
        """
        if self._closed:
            raise PoolClosed(self.name)
        if not self._started:
            self._started = True
            self._tasks = [Task(self._keep_open), Task(self._keep_time)]

    def submit(self, burst: Burst, timeout: float) -> None:
        """Take the burst into the queue. Blocks while the queue is full, first come first served.

        Raises:
            PoolSaturated: no room within ``timeout`` seconds.
            PoolClosed: closed, also while waiting.
            BurstMisused: the burst was submitted before.
        """
        self.start()
        if self._submitters or not self._queue.has_room(burst.count):
            self._wait_for_room(burst.count, timeout)
        burst.attach(Signal(), self._queue.withdraw)
        self._queue.add(burst, self._clock())
        self._let_submitters_in()
        self._wake_connections()

    def close(self, grace: float) -> None:
        """Make what waits NOT_SENT, give what is in flight ``grace`` seconds to finish, and close the connections."""
        if self._closed:
            return
        self._closed = True
        self._queue.clear(Reason.POOL_CLOSED)
        for submitter in self._submitters:
            submitter.set()
        self._opener_wake.set()
        deadline = self._clock() + grace
        for connection in list(self._connections):
            connection.retire(Reason.POOL_CLOSED)
        for connection in list(self._connections):
            connection.wait_ended(max(0.0, deadline - self._clock()))
        for task in self._tasks:
            task.kill()
        for connection in list(self._connections):
            connection.leave(Reason.POOL_CLOSED)

    def stats(self) -> PoolStats:
        taking = [each for each in self._connections if each.takes_requests]
        return PoolStats(
            connections=len(taking),
            draining=sum(each.core.draining for each in self._connections),
            streams=sum(each.core.in_flight for each in self._connections),
            stream_limit=sum(each.core.stream_limit for each in taking),
            queued=self._queue.waiting,
            opened=self._opened,
            failed=self._failed,
            lost=self._lost,
            goaways=self._goaways,
            last_error=self._last_error,
        )

    def _wait_for_room(self, count: int, timeout: float) -> None:
        turn = Signal()
        self._submitters.append(turn)
        deadline = self._clock() + timeout
        try:
            while True:
                if self._closed:
                    raise PoolClosed(self.name)
                if self._submitters[0] is turn and self._queue.has_room(count):
                    return
                left = deadline - self._clock()
                turn.clear()
                if left <= 0 or not turn.wait(left):
                    raise PoolSaturated(self.name, timeout, self._queue.waiting)
        finally:
            self._submitters.remove(turn)
            self._let_submitters_in()

    def _let_submitters_in(self) -> None:
        """Whoever is first looks whether there is room; when it gets in or gives up, the next one does."""
        if self._submitters:
            self._submitters[0].set()

    # For its connections

    @property
    def work_waits(self) -> bool:
        return self._queue.waiting > 0

    def feed(self, connection: Connection) -> int:
        """Let the connection write from the queue: a fair share if others could write too."""
        queue = self._queue
        if not queue.waiting or connection.core.capacity == 0:
            return 0
        core = connection.core
        limit = min(
            core.capacity,
            self._settings.grab if self.others_could_write(connection) else self._settings.chunk,
        )
        now = self._clock()
        deadline = now + self._settings.request_timeout_s
        taken = queue.feed(lambda burst, at_most: core.write(burst, at_most, now, deadline), limit)
        connection.blocked = taken < limit and queue.waiting > 0
        if taken:
            self._let_submitters_in()
        if queue.waiting:
            self._consider_opening()
        return taken

    def others_could_write(self, connection: Connection) -> bool:
        return any(
            other is not connection and other.takes_requests and not other.full for other in self._connections
        )

    def answered(self, connection: Connection, answer: Answer) -> None:
        if self._retire_on(answer):
            connection.retire(Reason.RETIRED_BY_ANSWER)

    def went_away(self, connection: Connection, event: GoAwayReceived) -> None:
        self._goaways += 1
        debug = event.debug[:200].decode("utf-8", "replace")
        self._last_error = f"GOAWAY {event.code} {debug}".rstrip()
        self._observer.goaway_received(self.name, event.code)
        _log.info(
            "http2_goaway",
            extra={
                "pool": self.name,
                "code": event.code,
                "debug": debug,
                "refused": event.refused,
                "in_flight": connection.core.in_flight,
            },
        )
        if self._on_goaway is not None:
            self._on_goaway(event)
        if event.code == ErrorCode.COMPRESSION_ERROR:
            self._give_up_stateless_answers()

    def violated(self, connection: Connection, violation: PeerViolation) -> None:
        if violation.code == ErrorCode.COMPRESSION_ERROR:
            self._give_up_stateless_answers()

    def changed(self, connection: Connection) -> None:
        self._opener_wake.set()

    def ended(self, connection: Connection, reason: Reason, detail: str) -> None:
        self._connections.remove(connection)
        ours = reason in (Reason.POOL_CLOSED, Reason.RETIRED_BY_ANSWER, Reason.STREAMS_EXHAUSTED)
        if not ours:
            self._lost += 1
            self._last_error = f"{reason}: {detail}"
        if connection.core.answered:
            self._failures = 0
        elif not ours and self._clock() - connection.opened_at < _YOUNG_S:
            self._back_off(reason)
        self._observer.connection_ended(self.name, reason)
        _log.info("http2_connection_ended", extra={"pool": self.name, "reason": reason, "detail": detail})
        self._opener_wake.set()
        if self._queue.waiting:
            self._wake_connections()

    def _give_up_stateless_answers(self) -> None:
        """A peer that stumbles over HEADER_TABLE_SIZE = 0 gets HTTP/2's default from now on."""
        self._header_table_size = DEFAULT_HEADER_TABLE_SIZE

    # Work to connections

    def _wake_connections(self) -> None:
        """Wake as many connections as the waiting work needs, the emptiest first."""
        wanted = self._queue.waiting
        free = [each for each in self._connections if each.takes_requests and not each.full]
        free.sort(key=lambda each: each.core.in_flight)
        for connection in free:
            if wanted <= 0:
                return
            connection.kick()
            wanted -= min(connection.core.capacity, self._settings.grab)
        if wanted > 0:
            self._consider_opening()

    def _consider_opening(self) -> None:
        if self._wants_connection():
            self._opener_wake.set()

    def _wants_connection(self) -> bool:
        """Whether one more connection is needed now."""
        taking = [each for each in self._connections if each.takes_requests]
        settings = self._settings
        if (
            self._closed
            or sum(each.core.draining for each in self._connections) >= 2 * settings.max_connections
        ):
            return (
                False  # so many that still drain: something is wrong with the peer, and more would not help
            )
        if len(taking) < settings.min_connections:
            return True
        if not self._queue.waiting:
            self._exhausted = False
            return False
        now = self._clock()
        if any(not each.full or (each.core.warming and now - each.opened_at < _WARMING_S) for each in taking):
            return False
        if len(taking) < settings.max_connections:
            return True
        if not self._exhausted:
            self._exhausted = True
            self._observer.exhausted(self.name)
            _log.info(
                "http2_pool_exhausted",
                extra={"pool": self.name, "connections": len(taking), "queued": self._queue.waiting},
            )
        return False

    # Opening connections

    def _keep_open(self) -> None:
        """The opener: one attempt at a time, spaced, and with back-off after failures."""
        while not self._closed:
            self._opener_wake.wait()
            self._opener_wake.clear()
            while self._wants_connection():
                wait = self._open_after - self._clock()
                if wait > 0:
                    pause(wait)
                    continue  # by now it may not be wanted any more
                try:
                    self._open_one()
                except ConnectFailed as failure:
                    self._connect_failed(failure.reason, failure.detail)
                except Exception as error:  # noqa: BLE001 - a fault of ours must not end the opener
                    _log.exception("http2_connect_fault", extra={"pool": self.name})
                    self._connect_failed(Reason.INTERNAL_ERROR, repr(error))

    def _open_one(self) -> None:
        settings = self._settings
        started = self._clock()
        channel = self._connector.connect(settings.connect_timeout_s)
        core = Core(
            self._origin.authority,
            max_streams=settings.max_streams,
            stream_ceiling=settings.stream_ceiling,
            header_table_size=self._header_table_size,
            first_request_alone=settings.first_request_alone,
        )
        connection = Connection(channel, core, self, settings, self._clock)
        self._connections.append(connection)
        connection.start()
        left = settings.connect_timeout_s - (self._clock() - started)
        if not connection.wait_ready(max(0.1, left)):
            if connection.end_reason is None:
                connection.abort(Reason.NO_SETTINGS, f"no SETTINGS in {settings.connect_timeout_s:g} s")
            return  # its end has been counted
        self._opened += 1
        self._no_connection = None
        self._open_after = self._clock() + settings.open_spacing_s
        self._observer.connection_opened(self.name)
        _log.info("http2_connection_opened", extra={"pool": self.name, "seconds": self._clock() - started})
        self._wake_connections()

    def _connect_failed(self, reason: Reason, detail: str) -> None:
        self._last_error = f"{reason}: {detail}"
        self._back_off(reason)
        _log.warning("http2_connect_failed", extra={"pool": self.name, "reason": reason, "detail": detail})

    def _back_off(self, reason: Reason) -> None:
        """Count a failed attempt. Full jitter: a fleet that lost its peer must not come back as one."""
        settings = self._settings
        self._failed += 1
        self._no_connection = reason
        ceiling = min(settings.backoff_max_s, settings.backoff_min_s * 2 ** min(self._failures, 16))
        self._failures += 1
        self._open_after = self._clock() + ceiling * self._random()
        self._observer.connect_failed(self.name, reason)

    # Time

    def _keep_time(self) -> None:
        while not self._closed or self._connections:
            pause(self._settings.tick_s)
            try:
                self._tick(self._clock())
            except Exception:  # noqa: BLE001 - time-outs must go on
                _log.exception("http2_tick_fault", extra={"pool": self.name})

    def _tick(self, now: float) -> None:
        for connection in list(self._connections):
            connection.tick(now)
        live = any(each.takes_requests for each in self._connections)
        reason = Reason.QUEUE_TIMEOUT if live or self._no_connection is None else self._no_connection
        if self._queue.expire(now - self._settings.queue_timeout_s, reason):
            self._let_submitters_in()
        self._consider_opening()
