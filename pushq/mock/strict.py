"""The engine for tests: ``h2`` is the referee of the protocol, and every request goes through the rules.

h2 closes its state machine when it sends GOAWAY and would drop answers that are still due, so GOAWAY frames that leave the
connection open are written beside it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from h2.errors import ErrorCodes
from hpack.exceptions import HPACKError

from pushq.mock import frames
from pushq.mock.connection_faults import IdleClock, WindowDebt
from pushq.mock.endpoint import Endpoint
from pushq.mock.engine import End
from pushq.mock.exchange import Answer, Cut, GoAway, Limit, Request, Reset, Session, Verdict

_CONFIG = h2.config.H2Configuration(client_side=False, header_encoding=None)


@dataclass(slots=True, eq=False)
class _Arriving:
    headers: list[tuple[str, str]]
    body: bytearray = field(default_factory=bytearray)
    size: int = 0


@dataclass(slots=True, eq=False)
class _Due:
    """What one stream gets: an answer or a reset code."""

    stream: int
    answer: Answer | None
    reset: int | None
    rang: bytes | None


class StrictEngine:
    """One connection. ``chance`` draws uniformly from [0, 1), for the spread of the latency."""

    def __init__(self, endpoint: Endpoint, chance: Callable[[], float]) -> None:
        self.ended: End | None = None
        self._endpoint = endpoint
        self._chance = chance
        self._session = endpoint.rules.open_session()
        self._h2 = h2.connection.H2Connection(_CONFIG)
        self._h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: endpoint.rules.streams.initial,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 8000,
            },
        )
        self._rest = b""
        self._prefaced = False
        self._arriving: dict[int, _Arriving] = {}
        self._due: list[tuple[float, int, _Due]] = []
        self._order = count()
        self._grant_due: float | None = None
        # Bodies that the client's windows do not let out yet.
        self._bodies: dict[int, bytes] = {}
        #: Streams that are never answered, and the token that was counted as accepted all the same.
        self._stalled: dict[int, bytes | None] = {}
        self._last_stream = 0
        self._goaway_last: int | None = None
        self._close_when_drained = False
        wrong = endpoint.faults.connection(endpoint.rules.platform)
        self._debt = None if wrong.late_window is None else WindowDebt(wrong.late_window)
        self._idle = None if wrong.idle_close is None else IdleClock(wrong.idle_close)

    @property
    def session(self) -> Session:
        """What the provider remembers about the connection."""
        session: Session = self._session
        return session

    @property
    def pending(self) -> bool:
        return bool(self._due or self._grant_due is not None or self._debt or self._idle is not None)

    def opening(self) -> bytes:
        self._h2.initiate_connection()
        return self._h2.data_to_send()

    def rest(self, tick: float) -> float:
        return 0.0

    def receive(self, data: bytes, tick: float, now: float) -> bytes:
        out: list[bytes] = []
        # Frame by frame: when h2 objects to one, it drops the events of everything it was given with it.
        for piece in self._pieces(data):
            out.append(self._receive_piece(piece, tick, now))
            if self.ended is not None:
                break
        return b"".join(out)

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        self._rest += data
        while self._rest:
            size = len(frames.PREFACE)
            if self._prefaced:
                if len(self._rest) < frames.FRAME_HEADER_BYTES:
                    return
                high, low, _, _, _ = frames.FRAME_HEADER.unpack_from(self._rest)
                # A frame that is too large is h2's to refuse, and nothing to wait for.
                size = min(frames.FRAME_HEADER_BYTES + (high << 16 | low), frames.MAX_FRAME_SIZE * 2)
            if len(self._rest) < size and (self._prefaced or frames.PREFACE.startswith(self._rest)):
                return
            self._prefaced = True
            piece, self._rest = self._rest[:size], self._rest[size:]
            yield piece

    def _receive_piece(self, piece: bytes, tick: float, now: float) -> bytes:
        try:
            events = self._h2.receive_data(piece)
        except h2.exceptions.TooManyStreamsError:
            self._h2.clear_outbound_data_buffer()
            rule = self._endpoint.rules.streams
            return self._violation(rule.violation_code, rule.violation_debug)
        except h2.exceptions.ProtocolError as error:
            self._h2.clear_outbound_data_buffer()
            # h2 reports a header block it cannot decode as PROTOCOL_ERROR; RFC 9113 (4.3) has its own code for it.
            undecodable = isinstance(error.__cause__, HPACKError)
            code = ErrorCodes.COMPRESSION_ERROR if undecodable else error.error_code
            return self._violation(int(code), str(error).encode())
        out: list[bytes] = []
        for event in events:
            out.append(self._take(event, tick, now))
            if self.ended is not None:
                break
        self._write_bodies()
        return self._h2.data_to_send() + b"".join(out)

    def release(self, tick: float) -> bytes:
        if self._grant_due is not None and self._grant_due <= tick:
            self._grant_due = None
            self._advertise(self._endpoint.rules.streams.granted)
        if self._debt:
            for increment in self._debt.due(tick):
                self._h2.increment_flow_control_window(increment)
        busy = self._open_streams
        while self._due and self._due[0][0] <= tick:
            self._send(heapq.heappop(self._due)[2])
        self._write_bodies()
        self._end_if_drained()
        out = self._h2.data_to_send()
        return out if self._idle is None else out + self._end_if_idle(self._idle, tick, busy=busy)

    def _take(self, event: h2.events.Event, tick: float, now: float) -> bytes:
        """Acts on one event; returns bytes that h2 does not know of."""
        match event:
            case h2.events.RequestReceived(stream_id=int(stream), headers=headers):
                if self._goaway_last is None or stream <= self._goaway_last:
                    self._last_stream = max(self._last_stream, stream)
                    self._arriving[stream] = _Arriving(
                        [
                            (bytes(name).decode("latin-1"), bytes(value).decode("latin-1"))
                            for name, value in headers or ()
                        ]
                    )
            case h2.events.DataReceived(stream_id=int(stream), data=data, flow_controlled_length=int(length)):
                arriving = self._arriving.get(stream)
                if arriving is not None and data is not None:
                    arriving.size += len(data)
                    arriving.body += data[: self._endpoint.max_body - len(arriving.body)]
                if length and self._debt is None:
                    self._h2.acknowledge_received_data(length, stream)
                elif length and self._debt is not None:
                    self._debt.used(length, tick)
                    with suppress(h2.exceptions.StreamClosedError):  # it was the last of its stream
                        self._h2.increment_flow_control_window(length, stream)
            case h2.events.StreamEnded(stream_id=int(stream)):
                arriving = self._arriving.pop(stream, None)
                if arriving is not None:
                    return self._decide(stream, arriving, tick, now)
            case h2.events.StreamReset(stream_id=int(stream)):
                self._forget(stream)
            case h2.events.ConnectionTerminated():
                # h2 is closed now and can send nothing more; the client wanted it so.
                self.ended = "close"
            case _:
                pass
        return b""

    def _decide(self, stream: int, arrived: _Arriving, tick: float, now: float) -> bytes:
        pseudo = {name: value for name, value in arrived.headers if name.startswith(":")}
        headers = tuple((name, value) for name, value in arrived.headers if not name.startswith(":"))
        request = Request(
            pseudo.get(":method", ""), pseudo.get(":path", ""), headers, bytes(arrived.body), arrived.size
        )
        accepted_before = self._session.credential_accepted
        verdict = self._endpoint.decide(request, self._session, now)
        due = tick + self._endpoint.latency.draw(self._chance()) + verdict.delay_s
        streams = self._endpoint.rules.streams
        if self._session.credential_accepted and not accepted_before and streams.granted != streams.initial:
            self._grant_due = due
        return self._execute(stream, verdict, due)

    def _execute(self, stream: int, verdict: Verdict, due: float) -> bytes:
        effect = verdict.effect
        if isinstance(effect, Limit):
            self._advertise(effect.streams)
        if verdict.answer is not None or isinstance(effect, Reset):
            reset = effect.code if isinstance(effect, Reset) else None
            heapq.heappush(
                self._due, (due, next(self._order), _Due(stream, verdict.answer, reset, verdict.rang))
            )
        elif effect is None:
            self._stalled[stream] = verdict.rang
        if isinstance(effect, Cut):
            self.ended = "cut"
            return (
                frames.frame(frames.HEADERS, frames.END_HEADERS, stream, b"\x88" * 100)[:20]
                if effect.mid_frame
                else b""
            )
        return self._say_goodbye(stream, effect) if isinstance(effect, GoAway) else b""

    def _send(self, due: _Due) -> None:
        try:
            if due.reset is not None:
                self._h2.reset_stream(due.stream, due.reset)
            elif due.answer is not None:
                answer = due.answer
                headers = [(":status", str(answer.status)), *answer.headers]
                self._h2.send_headers(due.stream, headers, end_stream=not answer.body)
                if answer.body:
                    self._bodies[due.stream] = answer.body
        except h2.exceptions.StreamClosedError:
            # The client reset it in the meantime.
            self._bodies.pop(due.stream, None)

    def _write_bodies(self) -> None:
        for stream, body in list(self._bodies.items()):
            rest = body
            while rest:
                room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
                if room <= 0:
                    break
                piece, rest = rest[:room], rest[room:]
                self._h2.send_data(stream, piece, end_stream=not rest)
            if rest:
                self._bodies[stream] = rest
            else:
                del self._bodies[stream]

    def _advertise(self, streams: int) -> None:
        self._h2.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: streams})

    def _violation(self, code: int, debug: bytes) -> bytes:
        self._endpoint.tally.violations[debug.decode("latin-1")] += 1
        self.ended = "close"
        return frames.goaway(self._last_stream, code, debug)

    def _say_goodbye(self, stream: int, effect: GoAway) -> bytes:
        last = min(max(stream + 2 * effect.last_stream_offset, 0), frames.MAX_WINDOW)
        self._goaway_last = last if self._goaway_last is None else min(last, self._goaway_last)
        for number in [number for number in self._arriving if number > last]:
            del self._arriving[number]
        # What is above the last stream was not processed: no answer, and no count.
        for _, _, due in self._due:
            if due.stream > last and due.rang is not None:
                self._endpoint.tally.retract(due.rang)
        self._due = [item for item in self._due if item[2].stream <= last]
        heapq.heapify(self._due)
        for number in [number for number in self._stalled if number > last]:
            rang = self._stalled.pop(number)
            if rang is not None:
                self._endpoint.tally.retract(rang, answered=False)
        if effect.close == "now":
            self.ended = "close"
        self._close_when_drained = effect.close == "drained"
        self._end_if_drained()
        return frames.goaway(last, effect.code, effect.debug)

    @property
    def _open_streams(self) -> bool:
        return bool(self._arriving or self._due or self._bodies or self._stalled)

    def _end_if_drained(self) -> None:
        if self._close_when_drained and not self._open_streams and self.ended is None:
            self.ended = "close"

    def _end_if_idle(self, idle: IdleClock, tick: float, *, busy: bool) -> bytes:
        if busy:
            idle.busy(tick)
        if self.ended is not None or not idle.expired(tick):
            return b""
        self.ended = "close"
        close = idle.close
        return b"" if close.silent else frames.goaway(self._last_stream, close.code, close.debug)

    def _forget(self, stream: int) -> None:
        """The client reset a stream: no answer, but what was counted stays counted."""
        self._arriving.pop(stream, None)
        self._bodies.pop(stream, None)
        self._stalled.pop(stream, None)
        self._due = [item for item in self._due if item[2].stream != stream]
        heapq.heapify(self._due)
