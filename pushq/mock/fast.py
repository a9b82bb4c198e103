"""The engine for load: an own frame loop that answers what it knows to be good from memory.

A request is known to be good when one with the same headers and the same body, but for the device token and the ``apns-id``,
was accepted by the rules on this connection. Everything else is decided by ``Endpoint.decide`` as in the strict engine, so
that both say the same. It takes liberties that the strict engine does not: a large connection window, no check of header
names against RFC 9113, PRIORITY ignored, and the client's stream window must hold a whole answer.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat

from h2.errors import ErrorCodes

from pushq.mock import frames
from pushq.mock.apns import CANONICAL_UUID
from pushq.mock.connection_faults import IdleClock, WindowDebt
from pushq.mock.due_answers import Bucket, DueAnswers
from pushq.mock.endpoint import Endpoint
from pushq.mock.engine import End
from pushq.mock.exchange import MAX_BODY_BYTES, Cut, GoAway, Limit, Request, Reset, Session, Verdict
from pushq.mock.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    HAS_PRIORITY,
    HEADERS,
    MAX_FRAME_SIZE,
    PADDED,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)
from pushq.mock.header_blocks import CompressionError, HeaderBlocks, HeaderGroup, Layout
from pushq.mock.lanes import Lane
from pushq.mock.request_runs import BEFORE_A_RUN, MOST_SHAPES, RequestShape, shape_of

CONNECTION_WINDOW = 1 << 30
MAX_HEADER_BLOCK_BYTES = 65_536
MAX_GOOD_BODIES = 256
_valid_apns_id = re.compile(CANONICAL_UUID.pattern.encode()).fullmatch


class ProtocolViolation(Exception):
    """The client broke RFC 9113 or the stream limit: GOAWAY with this code and text, then close."""

    def __init__(self, code: int, debug: bytes) -> None:
        super().__init__(code, debug)
        self.code = code
        self.debug = debug


@dataclass(slots=True, eq=False)
class _Arriving:
    """A request whose body is not complete."""

    group: HeaderGroup
    token: bytes
    apns_id: bytes
    body: bytearray = field(default_factory=bytearray)
    size: int = 0


class FastEngine:
    """One connection. ``chance`` draws uniformly from [0, 1), for the spread of the latency."""

    def __init__(self, endpoint: Endpoint, lane: Lane, chance: Callable[[], float]) -> None:
        self.ended: End | None = None
        self._endpoint = endpoint
        self._lane = lane
        self._chance = chance
        self._session = endpoint.rules.open_session()
        self._blocks = HeaderBlocks(lane.path_prefix)
        # Times of the bytes being read.
        self._tick = self._now = 0.0
        self._rest = b""
        self._prefaced = False
        self._last_stream = 0
        self._goaway_last: int | None = None
        self._close_when_drained = False
        self._limit = endpoint.rules.streams.initial
        self._unacknowledged: deque[int] = deque()
        # Streams that are open, whether arriving, waiting for their answer or never to be answered.
        self._active = 0
        self._arriving: dict[int, _Arriving] = {}
        #: Streams that are never answered, and the token that was counted as accepted all the same.
        self._stalled: dict[int, bytes | None] = {}
        self._unfinished_block: tuple[int, int, bytearray] | None = None
        self._answers = DueAnswers()
        self._grant_due: float | None = None
        self._receive_window = CONNECTION_WINDOW
        wrong = endpoint.faults.connection(endpoint.rules.platform)
        self._debt = None if wrong.late_window is None else WindowDebt(wrong.late_window)
        self._idle = None if wrong.idle_close is None else IdleClock(wrong.idle_close)
        self._stream_window = frames.DEFAULT_WINDOW
        self._header_table_size = frames.DEFAULT_HEADER_TABLE_SIZE
        self._known_generation = (-1, -1, -1)
        self._slow_prefixes: tuple[bytes, ...] = ()
        self._out: list[bytes] = []

    @property
    def session(self) -> Session:
        """What the provider remembers about the connection."""
        session: Session = self._session
        return session

    @property
    def pending(self) -> bool:
        return bool(
            self._answers.waiting or self._grant_due is not None or self._debt or self._idle is not None
        )

    def opening(self) -> bytes:
        self._unacknowledged.append(self._limit)
        settings = frames.settings(
            (frames.MAX_CONCURRENT_STREAMS, self._limit), (frames.INITIAL_WINDOW_SIZE, frames.DEFAULT_WINDOW)
        )
        if self._debt is not None:
            return settings
        return settings + frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)

    def receive(self, data: bytes, tick: float, now: float) -> bytes:
        self._tick, self._now = tick, now
        buffer = self._rest + data if self._rest else data
        try:
            at = 0
            if not self._prefaced:
                if len(buffer) < len(PREFACE) and PREFACE.startswith(buffer):
                    self._rest = buffer
                    return b""
                if not buffer.startswith(PREFACE):
                    raise ProtocolViolation(ErrorCodes.PROTOCOL_ERROR, b"no HTTP/2 connection preface")
                at, self._prefaced = len(PREFACE), True
            at = self._read_frames(buffer, at)
            self._rest = buffer[at:]
        except ProtocolViolation as violation:
            self._endpoint.tally.violations[violation.debug.decode("latin-1")] += 1
            self._out.append(frames.goaway(self._last_stream, violation.code, violation.debug))
            self.ended = "close"
        out, self._out = self._out, []
        return b"".join(out)

    def release(self, tick: float) -> bytes:
        out: list[bytes] = []
        if self._grant_due is not None and self._grant_due <= tick:
            self._grant_due = None
            out.append(self._advertise(self._endpoint.rules.streams.granted))
        if self._debt:
            out += [frames.window_update(0, increment) for increment in self._debt.due(tick)]
        answers = self._answers.release(tick)
        self._active -= len(answers)
        out += answers
        self._end_if_drained()
        if self._idle is not None:
            out.append(self._end_if_idle(self._idle, tick, busy=bool(answers or self._active)))
        return b"".join(out)

    def _read_frames(self, buffer: bytes, at: int) -> int:
        """Everything complete in the buffer; returns where the incomplete rest starts.

        The requests that this engine is made for stay within the two first branches. Their bookkeeping is kept in locals and
        settled before anything else may look at it.
        """
        self._refresh()
        endpoint, lane, layouts = self._endpoint, self._lane, self._blocks.layouts
        times, fresh = endpoint.tally.times, endpoint.tally.fresh
        well_formed, success, split = lane.well_formed, lane.success, lane.split
        body_has_token = lane.path_prefix is None
        data_per_answer = lane.answer_data_bytes
        unpack, word = FRAME_HEADER.unpack_from, frames.WORD.pack
        latency, tick, now = endpoint.latency, self._tick, self._now
        bucket = None if latency.spread else self._answers.bucket(tick + latency.seconds)
        end_of_buffer = len(buffer)
        # The request whose HEADERS came last and whose DATA is expected next.
        stream, group, token, apns_id = 0, None, b"", b""
        layout: Layout | None = None
        block_bytes = remembered = received = 0
        try:
            while end_of_buffer - at >= 9:
                high, low, kind, flags, number = unpack(buffer, at)
                length = high << 16 | low
                if length > MAX_FRAME_SIZE:
                    raise ProtocolViolation(ErrorCodes.FRAME_SIZE_ERROR, b"frame too large")
                start = at + 9
                end = start + length
                if end > end_of_buffer:
                    break
                at = end
                if self._unfinished_block is not None and kind != CONTINUATION:
                    raise ProtocolViolation(ErrorCodes.PROTOCOL_ERROR, b"CONTINUATION expected")
                if kind == DATA and flags == END_STREAM and number == stream and group is not None:
                    received += length
                    body = buffer[start:end]
                    shape = body
                    if body_has_token:
                        token, shape = split(token, body)
                    if (
                        shape in group.good
                        and now < group.good_until
                        and not token.startswith(self._slow_prefixes)
                        and well_formed(token)
                        and (not apns_id or _valid_apns_id(apns_id))
                    ):
                        mark = hash(token)
                        before = times.get(mark)
                        if before is None:
                            fresh.append(token)
                            times[mark] = 1
                        else:
                            times[mark] = before + 1
                        remembered += 1
                        into = bucket or self._answers.bucket(tick + latency.draw(self._chance()))
                        into.answers.append(success(word(number), apns_id))
                        into.tokens.append(token)
                        into.data += data_per_answer
                        if bucket is not None and layout is not None and end_of_buffer - at > length:
                            run = self._run(layout, block_bytes, body, shape, token)
                            if run is not None:
                                count = self._take_run(run, buffer, at, bucket)
                                remembered += count
                                received += count * run.data_bytes
                                at += count * run.period
                    else:
                        arrived = _Arriving(
                            group, b"" if body_has_token else token, apns_id, bytearray(body), length
                        )
                        self._count_remembered(remembered)
                        remembered = 0
                        self._decide(number, arrived)
                        if self.ended is not None:
                            return at
                    stream, group = 0, None
                elif (
                    kind == HEADERS
                    and flags == END_HEADERS
                    and number > self._last_stream
                    and number & 1
                    and self._goaway_last is None
                ):
                    if group is not None:
                        self._arriving[stream] = _Arriving(group, token, apns_id)
                        group = None
                    self._open(number)
                    block = buffer[start:end]
                    block_bytes = length
                    layout = layouts.get(length)
                    if (
                        layout is not None
                        and block[: layout.a] == layout.before
                        and block[layout.b : layout.c] == layout.between
                        and block[layout.d :] == layout.after
                    ):
                        group = layout.group
                        token, apns_id = block[layout.a : layout.b], block[layout.c : layout.d]
                    else:
                        group, token, apns_id = self._read_block(block)
                        layout = None
                    stream = number
                else:
                    if group is not None:
                        self._arriving[stream] = _Arriving(group, token, apns_id)
                        stream, group = 0, None
                    self._count_remembered(remembered)
                    remembered = 0
                    if kind == DATA:
                        received += length
                    self._other_frame(kind, flags, number, buffer[start:end])
                    if self.ended is not None:
                        return at
        finally:
            if group is not None:
                self._arriving[stream] = _Arriving(group, token, apns_id)
            self._count_remembered(remembered)
        self._account(received)
        return at

    def _run(
        self, layout: Layout, block_bytes: int, body: bytes, shape: bytes, token: bytes
    ) -> RequestShape | None:
        """How requests like this one are read, once several were alike."""
        known, times = layout.repeated
        if known != shape:
            layout.repeated = shape, 1
            return None
        shapes, key = layout.group.shapes, (block_bytes, len(body), shape)
        if key not in shapes:
            layout.repeated = shape, times + 1
            if times < BEFORE_A_RUN or len(shapes) >= MOST_SHAPES:
                return None
            shapes[key] = shape_of(
                layout, block_bytes, body, token, self._lane.token_pattern(len(token)), self._slow_prefixes
            )
        found: RequestShape | None = shapes[key]
        return found

    def _take_run(self, run: RequestShape, buffer: bytes, at: int, bucket: Bucket) -> int:
        """Accept the requests of a run from memory, and return how many; the caller settles what it keeps itself."""
        rows = run.read(buffer, at, self._limit - self._active)
        if not rows or self._goaway_last is not None:
            return 0
        streams, tokens, *ids = zip(*rows, strict=True)
        numbers = frames.numbers(streams)
        first, count = numbers[0], len(numbers)
        if (
            first <= self._last_stream
            or not first & 1
            or numbers != tuple(range(first, first + 2 * count, 2))
        ):
            return 0  # one by one, so that what is wrong with them is told
        self._active += count
        self._last_stream = numbers[-1]
        self._endpoint.tally.accept(tokens)
        bucket.answers.extend(map(self._lane.success, streams, ids[0] if ids else repeat(b"")))
        bucket.tokens.extend(tokens)
        bucket.data += count * self._lane.answer_data_bytes
        return count

    def _refresh(self) -> None:
        """Forget what was good when faults, credentials or the session changed."""
        endpoint = self._endpoint
        generation = (self._session.generation, endpoint.generation, endpoint.faults.generation)
        if generation != self._known_generation:
            self._known_generation = generation
            self._blocks.forget()
            self._slow_prefixes = self._lane.own_prefixes + endpoint.faults.prefixes(endpoint.rules.platform)

    def _count_remembered(self, accepted: int) -> None:
        """Requests answered 200 from memory; their tokens are counted already."""
        if accepted:
            tally = self._endpoint.tally
            self._session.requests += accepted
            tally.requests += accepted
            tally.rung += accepted
            tally.answers["200"] += accepted
            tally.spill()

    def _open(self, stream: int) -> None:
        if self._active >= self._limit:
            rule = self._endpoint.rules.streams
            raise ProtocolViolation(rule.violation_code, rule.violation_debug)
        self._active += 1
        self._last_stream = stream

    def _read_block(self, block: bytes) -> tuple[HeaderGroup, bytes, bytes]:
        try:
            return self._blocks.read(block)
        except CompressionError as error:
            raise ProtocolViolation(ErrorCodes.COMPRESSION_ERROR, str(error).encode()) from error

    def _account(self, received: int) -> None:
        """Give the window back in large pieces, long before the client could run dry."""
        if self._debt is not None:
            self._debt.used(received, self._tick)
            return
        self._receive_window -= received
        if self._receive_window < CONNECTION_WINDOW // 2:
            self._out.append(frames.window_update(0, CONNECTION_WINDOW - self._receive_window))
            self._receive_window = CONNECTION_WINDOW

    def _other_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        stream &= 0x7FFF_FFFF
        if kind == SETTINGS:
            self._settings(flags, payload)
        elif kind == WINDOW_UPDATE:
            if len(payload) != 4:
                raise ProtocolViolation(ErrorCodes.FRAME_SIZE_ERROR, b"WINDOW_UPDATE of a wrong size")
            if not stream:
                self._answers.window += frames.WORD.unpack(payload)[0] & 0x7FFF_FFFF
                if self._answers.window > frames.MAX_WINDOW:
                    raise ProtocolViolation(ErrorCodes.FLOW_CONTROL_ERROR, b"connection window overflows")
        elif kind == PING:
            if len(payload) != 8:
                raise ProtocolViolation(ErrorCodes.FRAME_SIZE_ERROR, b"PING of a wrong size")
            if not flags & ACK:
                self._out.append(frames.frame(PING, ACK, 0, payload))
        elif kind == DATA:
            self._data(flags, stream, payload)
        elif kind == HEADERS:
            self._headers(flags, stream, payload)
        elif kind == CONTINUATION:
            self._continuation(flags, stream, payload)
        elif kind == RST_STREAM:
            self._cancelled(stream)
        elif kind == frames.GOAWAY:
            # The client leaves; it gets its answers first.
            self._goaway_last, self._close_when_drained = self._last_stream, True
            self._end_if_drained()
        elif kind == frames.PUSH_PROMISE:
            raise ProtocolViolation(ErrorCodes.PROTOCOL_ERROR, b"clients cannot push")
        # PRIORITY and unknown kinds mean nothing to us.

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            if self._unacknowledged:
                # A lower limit binds the client from its acknowledgement on; a higher one is open to it at once.
                self._limit = max(self._unacknowledged.popleft(), *self._unacknowledged, 0)
            return
        if len(payload) % 6:
            raise ProtocolViolation(ErrorCodes.FRAME_SIZE_ERROR, b"SETTINGS of a wrong size")
        for name, value in frames.SETTING.iter_unpack(payload):
            if name == frames.HEADER_TABLE_SIZE:
                self._answers.owes_size_update |= value < self._header_table_size
                self._header_table_size = value
            elif name == frames.INITIAL_WINDOW_SIZE:
                self._stream_window = value
        self._out.append(frames.frame(SETTINGS, ACK, 0))

    def _headers(self, flags: int, stream: int, payload: bytes) -> None:
        block = _unpadded(flags, payload)
        if flags & HAS_PRIORITY:
            block = block[5:]
        if not flags & END_HEADERS:
            self._unfinished_block = (stream, flags, bytearray(block))
            return
        self._block(flags, stream, block)

    def _continuation(self, flags: int, stream: int, payload: bytes) -> None:
        unfinished = self._unfinished_block
        if unfinished is None or unfinished[0] != stream:
            raise ProtocolViolation(ErrorCodes.PROTOCOL_ERROR, b"unexpected CONTINUATION")
        unfinished[2].extend(payload)
        if len(unfinished[2]) > MAX_HEADER_BLOCK_BYTES:
            raise ProtocolViolation(ErrorCodes.ENHANCE_YOUR_CALM, b"header block too large")
        if flags & END_HEADERS:
            self._unfinished_block = None
            self._block(unfinished[1], stream, bytes(unfinished[2]))

    def _block(self, flags: int, stream: int, block: bytes) -> None:
        arriving = self._arriving.get(stream)
        if arriving is not None:
            # Trailers: they say nothing to us, but they may end the stream.
            self._read_block(block)
            if flags & END_STREAM:
                self._decide(stream, self._arriving.pop(stream))
            return
        if not stream & 1:
            raise ProtocolViolation(
                ErrorCodes.PROTOCOL_ERROR, b"HEADERS on a stream that is not the client's"
            )
        if self._goaway_last is not None and stream > self._goaway_last:
            self._read_block(block)
            return
        if stream <= self._last_stream:
            raise ProtocolViolation(ErrorCodes.STREAM_CLOSED, b"HEADERS on a closed stream")
        self._open(stream)
        group, token, apns_id = self._read_block(block)
        arriving = _Arriving(group, token, apns_id)
        if flags & END_STREAM:
            self._decide(stream, arriving)
        else:
            self._arriving[stream] = arriving

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        arriving = self._arriving.get(stream)
        if arriving is None:
            if not stream or (stream > self._last_stream and self._goaway_last is None):
                raise ProtocolViolation(ErrorCodes.PROTOCOL_ERROR, b"DATA on an idle stream")
            return
        piece = _unpadded(flags, payload)
        arriving.size += len(piece)
        arriving.body += piece[: MAX_BODY_BYTES - len(arriving.body)]
        if flags & END_STREAM:
            self._decide(stream, self._arriving.pop(stream))
        elif payload:
            self._out.append(frames.window_update(stream, len(payload)))

    def _decide(self, stream: int, arrived: _Arriving) -> None:
        group, endpoint, session = arrived.group, self._endpoint, self._session
        path = group.path + arrived.token.decode("latin-1")
        headers = group.headers
        if arrived.apns_id:
            headers = (*headers, ("apns-id", arrived.apns_id.decode("latin-1")))
        body = bytes(arrived.body)
        request = Request(group.method, path, headers, body, arrived.size)
        before = session.generation, session.credential_accepted
        verdict = endpoint.decide(request, session, self._now)
        if session.generation != before[0]:
            group.good.clear()
            self._refresh()
        due = self._tick + endpoint.latency.draw(self._chance()) + verdict.delay_s
        streams = endpoint.rules.streams
        if session.credential_accepted and not before[1] and streams.granted != streams.initial:
            self._grant_due = due
        if verdict.rang is not None and verdict.answer is not None:
            token, shape = self._lane.split(arrived.token, body)
            # Only what the rules took for the token may be cut out of the body and vary.
            if token == verdict.rang and shape.count(b'"token"') <= 1:
                if len(group.good) >= MAX_GOOD_BODIES:
                    group.good.clear()
                group.good.add(shape)
                group.good_until = session.good_until
        self._execute(stream, verdict, due)

    def _execute(self, stream: int, verdict: Verdict, due: float) -> None:
        effect = verdict.effect
        if isinstance(effect, Limit):
            self._out.append(self._advertise(effect.streams))
        if verdict.answer is not None:
            if len(verdict.answer.body) > self._stream_window:
                text = b"the mock's fast engine needs a stream window that holds an answer"
                raise ProtocolViolation(ErrorCodes.FLOW_CONTROL_ERROR, text)
            self._answers.add(due, frames.answer_frames(stream, verdict.answer), verdict.rang)
        elif effect is None:
            self._stalled[stream] = verdict.rang
        if isinstance(effect, Reset):
            reset = frames.frame(RST_STREAM, 0, stream, frames.WORD.pack(effect.code))
            self._answers.add(due, reset, verdict.rang)
        elif isinstance(effect, Cut):
            if effect.mid_frame:
                self._out.append(frames.frame(HEADERS, END_HEADERS, stream, b"\x88" * 100)[:20])
            self.ended = "cut"
        elif isinstance(effect, GoAway):
            self._say_goodbye(stream, effect)

    def _advertise(self, streams: int) -> bytes:
        self._limit = max(self._limit, streams)
        self._unacknowledged.append(streams)
        return frames.settings((frames.MAX_CONCURRENT_STREAMS, streams))

    def _say_goodbye(self, stream: int, effect: GoAway) -> None:
        last = min(max(stream + 2 * effect.last_stream_offset, 0), frames.MAX_WINDOW)
        self._out.append(frames.goaway(last, effect.code, effect.debug))
        self._goaway_last = last if self._goaway_last is None else min(last, self._goaway_last)
        # What is above the last stream was not processed: no answer, and no count.
        for token in self._answers.retract(last):
            self._endpoint.tally.retract(token)
        for unprocessed in [number for number in self._arriving if number > last]:
            del self._arriving[unprocessed]
        for number in [number for number in self._stalled if number > last]:
            rang = self._stalled.pop(number)
            if rang is not None:
                self._endpoint.tally.retract(rang, answered=False)
        self._active = len(self._arriving) + len(self._stalled) + len(self._answers)
        if effect.close == "now":
            self.ended = "close"
        elif effect.close == "drained":
            self._close_when_drained = True
            self._end_if_drained()

    def _end_if_drained(self) -> None:
        if self._close_when_drained and not self._active and self.ended is None:
            self.ended = "close"

    def _end_if_idle(self, idle: IdleClock, tick: float, *, busy: bool) -> bytes:
        if busy:
            idle.busy(tick)
        if self.ended is not None or not idle.expired(tick):
            return b""
        self.ended = "close"
        close = idle.close
        return b"" if close.silent else frames.goaway(self._last_stream, close.code, close.debug)

    def _cancelled(self, stream: int) -> None:
        """The client reset a stream: no answer, but what was counted stays counted."""
        known = (
            self._arriving.pop(stream, None) is not None
            or stream in self._stalled
            or self._answers.cancel(stream)
        )
        self._stalled.pop(stream, None)
        if known:
            self._active -= 1


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolViolation(ErrorCodes.PROTOCOL_ERROR, b"padding longer than the frame")
    return payload[1 : len(payload) - payload[0]]
