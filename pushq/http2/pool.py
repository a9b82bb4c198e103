"""The connections to one origin, and the queue in front of them.

The mutable state is the queue and the members. One greenlet opens connections, another looks at every time-out and closes what is not
needed any more. All of it runs in one thread, and only ``submit``, ``close`` and those greenlets ever wait.
"""

from __future__ import annotations

import logging
import random as _random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict

from pushq.http2.burst import Answer, Burst
from pushq.http2.connection import Connection, Transport
from pushq.http2.core import Core
from pushq.http2.dialer import Dialer
from pushq.http2.errors import PeerViolation, PoolClosed, PoolSaturated
from pushq.http2.events import GoAwayReceived
from pushq.http2.figures import ConnectionStats, NullObserver, PoolObserver, PoolStats
from pushq.http2.frames import DEFAULT_HEADER_TABLE_SIZE, ErrorCode
from pushq.http2.gate import admission
from pushq.http2.greenlets import Signal, Task, pause
from pushq.http2.members import Member, row
from pushq.http2.opening import Connector, Opener
from pushq.http2.proxy import Proxy
from pushq.http2.queue import BurstQueue
from pushq.http2.reasons import Reason
from pushq.http2.settings import Origin, PoolSettings
from pushq.http2.sizing import Idle, Latency, Load, Need, need, surplus

_log = logging.getLogger("pushq.http2")

#: A connection that answers and is this old works. One that ends earlier makes the next attempt wait.
_PROVEN_S = 1.0
#: One that this old has answered nothing was at least not thrown out at once.
_YOUNG_S = 10.0
#: How long a connection that awaits its first answer keeps the pool from opening another.
_WARMING_S = 2.0
#: While work waits, its writers ask for more connections no more often than this.
_ASK_EVERY_S = 0.005
#: How often the state of each connection is logged, at level DEBUG.
_REPORT_EVERY_S = 30.0

#: Ends that were our decision.
_OURS = frozenset({Reason.POOL_CLOSED, Reason.RETIRED_BY_ANSWER, Reason.STREAMS_EXHAUSTED, Reason.SURPLUS})
#: Of those, the ones that say nothing about the peer.
_HARMLESS = frozenset({Reason.POOL_CLOSED, Reason.STREAMS_EXHAUSTED, Reason.SURPLUS, Reason.IDLE_CLOSED})


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
        proxy: Proxy | None = None,
        observer: PoolObserver | None = None,
        connector: Connector | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        """``retire_on`` sees every answer with a status other than 200; True means that its connection must be replaced.
        ``on_goaway`` hears every GOAWAY, whose reason may concern the credential. Neither may wait.
        ``proxy`` is gone through if it covers the origin.

        Raises:
            SettingsError: a certificate file of the origin cannot be used.
        """
        self.name = name
        self._origin = origin
        self._settings = settings if settings is not None else PoolSettings()
        self._retire_on = retire_on
        self._on_goaway = on_goaway
        self._observer = observer if observer is not None else NullObserver()
        self._clock = clock
        self._opener = Opener(
            name,
            connector if connector is not None else Dialer(origin, proxy, random=random),
            admission(origin.host, origin.port, (origin, proxy)),
            self._settings,
            self._observer,
            clock,
            random,
            wanted=self._wants_connection,
            adopt=self._adopt,
            complain=self._complain,
        )
        self._queue = BurstQueue(self._settings.queue_limit)
        self._submitters: deque[Signal] = deque()
        self._connections: list[Connection] = []
        self._members: dict[Connection, Member] = {}
        self._header_table_size = self._settings.header_table_size
        self._latency = Latency()
        self._owed = 0  # connections that were in use when they left, and have no successor yet
        self._dormant = False  # nobody sends, and the peer closes what we keep open
        self._at_limit = False
        self._ask_after = self._shrunk_at = self._reported_at = float("-inf")
        self._started = False
        self._closed = False
        self._tasks: list[Task] = []
        self._numbered = self._answered_before = 0
        self._lost = self._goaways = self._idle_closed = self._exhausted = 0
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
            self._tasks = [self._opener.start(), Task(self._keep_time)]
            self._opener.look()

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
        burst.attach(Signal(), self._withdrawn)
        self._queue.add(burst, self._clock())
        self._dormant = False
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
        deadline = self._clock() + grace
        for connection in list(self._connections):
            connection.retire(Reason.POOL_CLOSED)
        for connection in list(self._connections):
            connection.wait_ended(max(0.0, deadline - self._clock()))
        for task in self._tasks:
            task.kill()
        for connection in list(self._connections):
            connection.leave(Reason.POOL_CLOSED)

    @property
    def queued(self) -> int:
        """Requests that no connection has taken yet."""
        return self._queue.waiting

    def stats(self) -> PoolStats:
        taking = [each for each in self._connections if each.takes_requests]
        return PoolStats(
            connections=len(taking),
            draining=sum(each.core.draining for each in self._connections),
            streams=sum(each.core.in_flight for each in self._connections),
            stream_limit=sum(each.core.stream_limit for each in taking),
            queued=self._queue.waiting,
            opened=self._opener.opened,
            failed=self._opener.failed,
            lost=self._lost,
            goaways=self._goaways,
            idle_closed=self._idle_closed,
            exhausted=self._exhausted,
            latency_s=self._latency.seconds,
            last_error=self._last_error,
        )

    def connections(self) -> list[ConnectionStats]:
        """A row for each connection, the oldest first."""
        now = self._clock()
        return [row(member, now) for member in self._members.values()]

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

    def _withdrawn(self, count: int) -> None:
        self._queue.withdraw(count)
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
        limit = min(core.capacity, self._settings.chunk)
        if limit > self._settings.grab and self.others_could_write(connection):
            limit = self._settings.grab
        now = self._clock()
        deadline = now + self._settings.request_timeout_s
        taken = queue.feed(lambda burst, at_most: core.write(burst, at_most, now, deadline), limit)
        connection.blocked = taken < limit and queue.waiting > 0
        if taken:
            self._members[connection].used_at = now
            self._let_submitters_in()
        if queue.waiting and now >= self._ask_after:
            self._ask_after = now + _ASK_EVERY_S
            self._consider_opening()
        return taken

    def others_could_write(self, connection: Connection) -> bool:
        return any(other.could_write and other is not connection for other in self._connections)

    def answered(self, connection: Connection, answer: Answer) -> None:
        if self._retire_on(answer):
            connection.retire(Reason.RETIRED_BY_ANSWER)

    def timed(self, waits: Sequence[tuple[float, int]]) -> None:
        self._observer.answered(self.name, waits)

    def went_away(self, connection: Connection, event: GoAwayReceived) -> None:
        if self._on_goaway is not None:
            self._on_goaway(event)
        member = self._members[connection]
        member.orderly = event.code == ErrorCode.NO_ERROR
        if member.orderly and not event.refused and not connection.core.in_flight and self._was_idle(member):
            member.said_goodbye = True
            self._note_idle_close(connection)
            _log.debug("http2_idle_goaway", extra={"pool": self.name})
            return
        self._goaways += 1
        debug = event.debug[:200].decode("utf-8", "replace")
        self._complain(f"GOAWAY {event.code} {debug}".rstrip())
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
        if event.code == ErrorCode.COMPRESSION_ERROR:
            self._give_up_stateless_answers()

    def violated(self, connection: Connection, violation: PeerViolation) -> None:
        if violation.code == ErrorCode.COMPRESSION_ERROR:
            self._give_up_stateless_answers()

    def changed(self, connection: Connection) -> None:
        member = self._members.get(connection)  # None: its writer speaks up when it has ended already
        if member is not None and connection.core.draining:
            self._note_leaving(member, connection.core.in_flight)
        self._opener.look()

    def ended(self, connection: Connection, reason: Reason, detail: str) -> None:
        self._connections.remove(connection)
        member = self._members.pop(connection)
        self._note_leaving(member, connection.unanswered)
        self._answered_before += connection.core.answered
        if member.said_goodbye or (
            reason == Reason.CONNECTION_LOST and not connection.unanswered and self._was_idle(member)
        ):
            reason = Reason.IDLE_CLOSED
            self._idle_closed += 1
            self._note_idle_close(connection)
        elif reason not in _OURS and not (member.orderly and not connection.unanswered):
            self._lost += 1
            self._complain(f"{reason}: {detail}")
        self._judge(connection, member, reason, detail)
        self._observer.connection_ended(self.name, reason)
        level = logging.DEBUG if reason == Reason.IDLE_CLOSED else logging.INFO
        _log.log(
            level, "http2_connection_ended", extra={"pool": self.name, "reason": reason, "detail": detail}
        )
        self._opener.look()
        if self._queue.waiting:
            self._wake_connections()

    def _complain(self, error: str) -> None:
        self._last_error = error

    def _was_idle(self, member: Member) -> bool:
        """Nothing went over it for a while, and not because it lets nothing through."""
        if self._queue.waiting and member.connection.core.next_stream_id == 1:
            return False
        return self._clock() - member.idle_since >= self._settings.idle_after_s

    def _note_idle_close(self, connection: Connection) -> None:
        """Opened for nothing and closed for nothing: another one would fare no better before there is work for it.

        Known from the GOAWAY on, for a successor is looked for then, and not only once the connection has ended.
        """
        if connection.core.next_stream_id == 1 and not self._queue.waiting:
            self._dormant = True

    def _note_leaving(self, member: Member, in_flight: int) -> None:
        """It takes no requests any more. If it was needed, so is another one, before this one has finished its own."""
        if not member.left:
            member.left = True
            if in_flight or self._queue.waiting:
                self._owed = min(self._owed + 1, self._settings.max_connections)

    def _judge(self, connection: Connection, member: Member, reason: Reason, detail: str) -> None:
        """What a connection's end says about the next attempt."""
        age = self._clock() - connection.opened_at
        answered = connection.core.answered
        # Age alone proves nothing: the wait for SETTINGS lasts longer than that when the loop is late.
        if connection.core.peer.received and (age >= _YOUNG_S or (answered and age >= _PROVEN_S)):
            self._opener.proven()
        elif reason in _HARMLESS or (answered and member.orderly):
            pass
        elif answered:
            self._opener.short_lived(reason, connection.opened_at)
        else:
            self._opener.attempt_failed(reason, detail, connection.opened_at)

    def _give_up_stateless_answers(self) -> None:
        """A peer that stumbles over HEADER_TABLE_SIZE = 0 gets HTTP/2's default from now on."""
        self._header_table_size = DEFAULT_HEADER_TABLE_SIZE

    # Work to connections

    def _wake_connections(self) -> None:
        """Wake as many connections as the waiting work needs, the emptiest first."""
        wanted = self._queue.waiting
        free = [each for each in self._connections if each.could_write]
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
            self._opener.look()

    def _wants_connection(self) -> bool:
        """Whether one more connection is needed now."""
        if self._closed:
            return False
        now = self._clock()
        taking = [each for each in self._connections if each.takes_requests]
        streams = sum(each.core.in_flight for each in taking)
        waiting = self._queue.waiting
        if not waiting and not any(each.core.in_flight for each in self._connections):
            self._owed = 0  # what was needed then is not needed now
        oldest = min(
            (each.core.oldest_written_at for each in taking if each.core.oldest_written_at is not None),
            default=now,
        )
        verdict = need(
            Load(
                taking=len(taking),
                draining=sum(each.core.draining for each in self._connections),
                owed=self._owed,
                dormant=self._dormant,
                queued=waiting,
                all_full=not any(
                    not each.full or (each.core.warming and now - each.opened_at < _WARMING_S)
                    for each in taking
                ),
                streams=streams,
                latency_s=self._latency.at_least(now - oldest),
            ),
            self._settings,
        )
        if verdict is Need.MORE_THAN_ALLOWED and not self._at_limit:
            self._at_limit = True
            self._exhausted += 1
            self._observer.exhausted(self.name)
            _log.info(
                "http2_pool_exhausted",
                extra={"pool": self.name, "connections": len(taking), "queued": waiting},
            )
        elif not waiting:
            self._at_limit = False
        return verdict is Need.CONNECTION

    def _adopt(self, channel: Transport, timeout_s: float) -> bool:
        """For the opener: make a connection of the channel. False if it ended, or had to be ended, before its SETTINGS came."""
        core = Core(
            self._origin.authority,
            max_streams=self._settings.max_streams,
            stream_ceiling=self._settings.stream_ceiling,
            header_table_size=self._header_table_size,
            first_request_alone=self._settings.first_request_alone,
        )
        connection = Connection(channel, core, self, self._settings, self._clock)
        self._numbered += 1
        self._connections.append(connection)
        self._members[connection] = Member(connection, self._numbered, connection.opened_at)
        connection.start()
        if not connection.wait_ready(timeout_s):
            if connection.end_reason is None:
                connection.abort(Reason.NO_SETTINGS, f"no SETTINGS in {self._settings.connect_timeout_s:g} s")
            return False
        self._owed = max(0, self._owed - 1)
        self._wake_connections()
        return True

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
            try:
                connection.tick(now)
            except Exception:  # noqa: BLE001 - the time-outs of the others must go on
                _log.exception("http2_tick_fault", extra={"pool": self.name})
        answered = in_flight = 0
        live = False
        for connection in self._connections:
            core = connection.core
            answered += core.answered
            in_flight += core.in_flight
            live = live or connection.takes_requests
            if core.answered and now - connection.opened_at >= _PROVEN_S:
                self._opener.proven()
        self._latency.sample(now, self._answered_before + answered, in_flight)
        reason = self._opener.reason
        if self._queue.expire(
            now - self._settings.queue_timeout_s,
            Reason.QUEUE_TIMEOUT if live or reason is None else reason,
        ):
            self._let_submitters_in()
        self._consider_opening()
        self._shrink(now)
        if now - self._reported_at >= _REPORT_EVERY_S and _log.isEnabledFor(logging.DEBUG):
            self._reported_at = now
            for each in self.connections():
                _log.debug("http2_connection", extra={"pool": self.name, **asdict(each)})

    def _shrink(self, now: float) -> None:
        if self._queue.waiting or self._closed:
            return
        taking = [each for each in self._members.values() if each.connection.takes_requests]
        idle = (Idle(each.number, each.idle_since) for each in taking if not each.connection.core.in_flight)
        number = surplus(len(taking), idle, self._settings, now, self._shrunk_at)
        for member in taking:
            if member.number == number:
                self._shrunk_at = now
                member.connection.retire(Reason.SURPLUS)
