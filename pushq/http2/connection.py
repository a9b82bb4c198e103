"""One connection at work: two greenlets around a :class:`Core`, one that reads and one that writes.

They are two because a peer may stop reading until we read. Only the writer writes; the reader and the clock leave what they
have to say in the core's output and wake it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from pushq.http2.burst import Answer
from pushq.http2.core import Core
from pushq.http2.errors import ConnectionLost, PeerViolation
from pushq.http2.events import Event, GoAwayReceived, SettingsReceived
from pushq.http2.frames import MAX_STREAM_ID, first_unread_stream
from pushq.http2.greenlets import Signal, Task, pause
from pushq.http2.reasons import Reason
from pushq.http2.settings import PoolSettings

_log = logging.getLogger("pushq.http2")

#: Reads in a row before the others get a turn: data that is there never makes a read wait.
_READS_PER_TURN = 16
#: A peer that answers as fast as we read wakes us for a handful of answers each time, and every wake-up costs as much as a
#: hundred of them. With many more still due, the next read is worth waiting a moment for: the peer has enough to do meanwhile.
_SMALL_READ = 8 * 1024
_MANY_IN_FLIGHT = 200
_GATHER_S = 0.001


#: Answers are timed no more often than this: it costs a look at every chunk in flight.
_TIME_EVERY_S = 0.01
#: How long a connection that cannot be written may still be read. The end of the stream is next to come.
_READ_OUT_S = 1.0


class Transport(Protocol):
    """What a connection needs from :class:`pushq.http2.network.Channel`."""

    @property
    def peer(self) -> str: ...
    @property
    def has_output(self) -> bool: ...
    @property
    def delivered(self) -> int: ...
    def receive(self) -> bytes: ...
    def send(self, data: bytes) -> None: ...
    def close(self, last_words: bytes = b"") -> None: ...


class Owner(Protocol):
    """The pool, as its connections see it."""

    def feed(self, connection: Connection) -> int:
        """Let the connection take what it can write from the queue; how many requests that were."""

    @property
    def work_waits(self) -> bool: ...
    def others_could_write(self, connection: Connection) -> bool: ...
    def answered(self, connection: Connection, answer: Answer) -> None: ...
    def timed(self, waits: Sequence[tuple[float, int]]) -> None:
        """Seconds from writing to the answer, and of how many requests."""

    def went_away(self, connection: Connection, event: GoAwayReceived) -> None: ...
    def changed(self, connection: Connection) -> None:
        """It became ready, full, free again, or began to drain."""

    def violated(self, connection: Connection, violation: PeerViolation) -> None: ...
    def ended(self, connection: Connection, reason: Reason, detail: str) -> None: ...


class Connection:
    """Owner of one channel.

    Attributes:
        opened_at: the pool's clock.
        blocked: the queue had work, and streams or windows did not let it out.
        end_reason: why it ended; None while it lives.
        drain_reason: why it takes no new requests; None while it does.
        unanswered: requests that were in flight when it ended; 0 before.
    """

    def __init__(
        self,
        channel: Transport,
        core: Core,
        owner: Owner,
        settings: PoolSettings,
        clock: Callable[[], float],
    ) -> None:
        self.core = core
        self.opened_at = clock()
        self.blocked = False
        self.end_reason: Reason | None = None
        self.drain_reason: Reason | None = None
        self.unanswered = 0
        self._channel = channel
        self._owner = owner
        self._settings = settings
        self._clock = clock
        self._ready = Signal()
        self._wake = Signal()
        self._ended = Signal()
        self._received_at = self.opened_at
        self._answered_at = self.opened_at
        self._timed_at = self.opened_at
        self._sending_since: float | None = None
        self._writing = b""  # what the channel is taking
        self._ping_sent_at: float | None = None
        self._pings = 0

    def __repr__(self) -> str:
        state = self.end_reason or self.drain_reason or ("open" if self.core.peer.received else "opening")
        return f"<Connection {state}: {self.core.in_flight} of {self.core.stream_limit} streams, window {self.core.window}>"

    @property
    def alive(self) -> bool:
        return self.end_reason is None

    @property
    def answered_at(self) -> float:
        """When the last answer came; when the connection was opened if none did."""
        return self._answered_at

    @property
    def peer(self) -> str:
        """The address that it is connected to."""
        return self._channel.peer

    @property
    def takes_requests(self) -> bool:
        """It is open and ready for more, or will be when some of its requests are answered."""
        return self.end_reason is None and self.core.peer.received and not self.core.draining

    @property
    def full(self) -> bool:
        """It can write nothing now: no stream is free, or the windows did not let the next request out."""
        return self.core.capacity == 0 or self.blocked

    @property
    def could_write(self) -> bool:
        """It takes requests, and is not full."""
        # Without the peer's SETTINGS, and while it drains, there is no capacity. Asked of every connection for every write.
        return not self.blocked and self.core.capacity > 0 and self.end_reason is None

    def start(self) -> None:
        Task(self._guarded(self._read))
        Task(self._guarded(self._write))
        self._wake.set()  # the preface

    def wait_ready(self, timeout: float) -> bool:
        """True when the peer's SETTINGS came within ``timeout`` seconds and the connection still lives."""
        self._ready.wait(timeout)
        return self.core.peer.received and self.end_reason is None

    def wait_ended(self, timeout: float) -> bool:
        return self._ended.wait(timeout)

    def kick(self) -> None:
        """Look at the queue."""
        self._wake.set()

    def retire(self, reason: Reason) -> None:
        """Take no new requests, finish those in flight, then close."""
        if self.end_reason is not None:
            return
        self.core.retire()
        self._note_draining(reason)
        self._wake.set()  # the writer closes what has nothing in flight

    def abort(self, reason: Reason, detail: str, *, last_words: bytes = b"") -> None:
        """Close now. What is in flight is UNKNOWN for this reason, and NOT_SENT where the peer cannot have read it."""
        if self.end_reason is not None:
            return
        unsent_from = MAX_STREAM_ID + 1
        if self._writing:
            unsent_from = first_unread_stream(self._writing, self._channel.delivered)
        # An end that was announced has the announced reason.
        self.end_reason = self.drain_reason if self.drain_reason is not None else reason
        self._time_answers()
        self.unanswered = self.core.in_flight
        self.core.abandon(reason, unsent_from=unsent_from)
        self._channel.close(last_words)
        self._ready.set()
        self._wake.set()
        self._ended.set()
        self._owner.ended(self, self.end_reason, detail)

    def leave(self, reason: Reason) -> None:
        """Close now, with a GOAWAY."""
        self.core.say_goodbye()
        self.abort(reason, "closed by us", last_words=self.core.output())

    def tick(self, now: float) -> None:
        """Look at every time-out of this connection."""
        if self.end_reason is not None:
            return
        if self._timed_at < self._answered_at:
            self._time_answers()
        settings = self._settings
        late = self.core.expire(now)
        if late:
            self._wake.set()  # the resets have to be written
            if self._answered_at < late[-1].written_at:
                # Not one answer since those were written, for a whole request time-out: more of the same would follow.
                self.retire(Reason.WEDGED)
        if self.blocked and self._window_stays_shut(now):
            self.retire(Reason.WEDGED)
        if self._sending_since is not None and now - self._sending_since > settings.write_timeout_s:
            self.abort(Reason.WRITE_STALLED, f"the peer read nothing for {settings.write_timeout_s:g} s")
        elif self._ping_sent_at is not None:
            if self._received_at > self._ping_sent_at:
                self._ping_sent_at = None  # any frame is as good a sign of life as the echo
            elif now - self._ping_sent_at > settings.ping_timeout_s:
                self.abort(Reason.PING_TIMEOUT, f"no answer to PING for {settings.ping_timeout_s:g} s")
        elif self._sending_since is None and now - self._quiet_since() > self._ping_after():
            # While a write waits the PING would wait behind it, unanswered: that silence is the write time-out's business.
            self._pings += 1
            self.core.ping(self._pings.to_bytes(8, "big"))
            self._ping_sent_at = now
            self._wake.set()

    def _window_stays_shut(self, now: float) -> bool:
        """Nothing is in flight whose end could open the connection's window, and no word has come for a while."""
        core = self.core
        if core.in_flight or core.window > 0:
            return False
        return now - max(self._received_at, self._answered_at) > self._settings.ping_after_s

    def _ping_after(self) -> float:
        return self._settings.ping_after_s if self.core.in_flight else self._settings.idle_ping_s

    def _quiet_since(self) -> float:
        oldest = self.core.oldest_written_at
        return self._received_at if oldest is None else max(self._received_at, oldest)

    def _guarded(self, run: Callable[[], None]) -> Callable[[], None]:
        """Whatever happens in a greenlet ends the connection with a reason, and no request is left hanging."""

        def guarded() -> None:
            try:
                run()
            except ConnectionLost as lost:
                self.abort(lost.reason, lost.detail)
            except Exception as error:  # noqa: BLE001 - a fault of ours must not leave requests without an outcome
                _log.exception("http2_connection_fault")
                self.abort(Reason.INTERNAL_ERROR, repr(error))

        return guarded

    def _read(self) -> None:
        core = self.core
        turns = 0
        while self.alive:
            data = self._channel.receive()
            if not data:
                self.abort(Reason.CONNECTION_LOST, "the peer closed the connection")
                return
            self._received_at = now = self._clock()
            answered = core.answered
            try:
                events = core.receive(data)
            except PeerViolation as violation:
                self._hear(core.events)
                self._owner.violated(self, violation)
                self.abort(Reason.PROTOCOL_VIOLATION, str(violation), last_words=core.output())
                return
            if core.answered != answered:
                self._answered_at = now
                if now - self._timed_at >= _TIME_EVERY_S:
                    self._time_answers()
            self.blocked = False
            self._hear(events)
            if core.has_output or core.draining or self._channel.has_output or self._owner.work_waits:
                self._wake.set()
            turns += 1
            if len(data) < _SMALL_READ and core.in_flight >= _MANY_IN_FLIGHT:
                pause(_GATHER_S)
            elif turns % _READS_PER_TURN == 0:
                pause(0)

    def _time_answers(self) -> None:
        self._timed_at = at = self._answered_at
        if waits := [(at - written_at, answers) for written_at, answers in self.core.waited()]:
            self._owner.timed(waits)

    def _hear(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Answer):
                self._owner.answered(self, event)
            elif isinstance(event, SettingsReceived):
                self._ready.set()
                self._owner.changed(self)
            else:
                self._note_draining(Reason.GOAWAY)
                self._owner.went_away(self, event)

    def _write(self) -> None:
        core, channel, owner = self.core, self._channel, self._owner
        while self.alive:
            self._wake.wait()
            self._wake.clear()
            while self.alive:
                taken = owner.feed(self)
                if core.draining and self.drain_reason is None:
                    self._note_draining(Reason.STREAMS_EXHAUSTED)
                if core.draining and not core.in_flight:
                    self.leave(self.drain_reason or Reason.POOL_CLOSED)
                    return
                if not core.has_output and not channel.has_output:
                    break
                self._sending_since = self._clock()
                self._writing = core.output()
                try:
                    channel.send(self._writing)
                except ConnectionLost as lost:
                    self._read_out(lost)
                    return
                self._writing = b""
                self._sending_since = None
                if taken and owner.work_waits and owner.others_could_write(self):
                    pause(0)

    def _read_out(self, lost: ConnectionLost) -> None:
        """Writing has failed. What the peer said before is still there to be read, and the reader ends with it.

        It may be answers, or a GOAWAY that makes most of what is in flight safe to repeat.
        """
        self._sending_since = None
        if not self.alive:
            return  # which is why writing failed
        self.core.retire()
        self._owner.changed(self)
        if not self._ended.wait(_READ_OUT_S):
            self.abort(lost.reason, lost.detail)

    def _note_draining(self, reason: Reason) -> None:
        if self.drain_reason is None:
            self.drain_reason = reason
            self._owner.changed(self)
