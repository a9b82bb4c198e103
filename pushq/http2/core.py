"""One HTTP/2 connection: bytes in, results out. No socket, no clock, no greenlet.

Answers are written straight into the bursts (one octet per request); what else the owner of the connection should know
comes back from :meth:`Core.receive` as events. The time is passed in.

Why no ``h2`` in here: at GOAWAY it closes its state machine and raises on every answer that is still due, so the drain
would have to go around it; it keeps an object and two windows per stream, which is most of the cost that this package exists to
avoid; and a peer's SETTINGS would have to be kept consistent in two places. What remains of a client's connection state (SETTINGS,
PING, GOAWAY, two windows) is this page. ``h2`` sits on the other side in the tests, as the referee of what we send.

Streams are forgotten when they end. A frame for a stream that has ended is ignored, whether it ended by an answer or by our
reset: RFC 9113 section 5.1 demands that for the second case, and allows it for the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Final

from pushq.http2 import runs
from pushq.http2.burst import Answer, Burst, Code
from pushq.http2.errors import PeerViolation
from pushq.http2.events import Event, GoAwayReceived, SettingsReceived
from pushq.http2.frames import (
    ACK,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD,
    FRAME_HEAD_SIZE,
    MAX_STREAM_ID,
    MAX_WINDOW,
    MIN_MAX_FRAME_SIZE,
    PADDED,
    PREFACE,
    PRIORITY_FIELDS,
    UINT32,
    ErrorCode,
    FrameType,
    Setting,
    frame,
    goaway,
    rst_stream,
    settings_frame,
    window_update,
)
from pushq.http2.outgoing import Outgoing
from pushq.http2.peer import PeerSettings
from pushq.http2.reasons import Reason
from pushq.http2.responses import (
    MAX_HEADER_LIST_SIZE,
    STATUS_200,
    STATUS_200_FIELDS,
    Fields,
    ResponseDecoder,
    headers_of,
    stands_alone,
    status_of,
)

#: How much of an answer's body is kept, and how much is read before the stream is cancelled.
BODY_KEPT = 16 * 1024
BODY_READ = 256 * 1024
#: Our windows. Answers are small and are consumed as they come, so no peer ever has to wait for these.
STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 1 << 30
#: Frames without an answer completed among them. A thousand answers in pieces of a few octets stay below; a flood does not.
_IDLE_FRAMES = 50_000
#: GOAWAYs with something new in them that the owner hears of.
_GOAWAYS_TOLD = 8
#: A new connection is due long before the ids end: 2**30 as an id is days at full speed.
RETIRE_AT_STREAM_ID = 2**30

# Plain integers for the loop that runs once per frame: a member of an enum costs three times as much to compare.
_DATA, _HEADERS, _OK = int(FrameType.DATA), int(FrameType.HEADERS), int(Code.OK)
_STATUS_200 = bytes((STATUS_200,))
_ONE_OK = bytes((_OK,))
_MAX_FRAME_WORD = MIN_MAX_FRAME_SIZE << 8 | 0xFF
_PLAIN_HEADERS_MASK = END_HEADERS | PADDED | PRIORITY_FIELDS
_RST_WORD = 4 << 8 | int(FrameType.RST_STREAM)
_ID_MASK = MAX_STREAM_ID
#: Rows of the first look for a run, and octets until the next look after one that found none: more each time, for the answers of
#: some peers are never alike.
_FIRST_ROWS = 64
_NEXT_LOOK = 512
_FARTHEST_LOOK = 16_384


class Chunk:
    """Requests of one burst that were written together: indices ``first`` to ``stop`` on consecutive streams."""

    __slots__ = ("burst", "codes", "deadline", "first_id", "last_id", "left", "noted", "shift", "written_at")

    def __init__(
        self, burst: Burst, first: int, count: int, first_id: int, *, now: float, deadline: float
    ) -> None:
        self.burst = burst
        self.codes = burst.codes
        #: index of a request = (stream id >> 1) + shift
        self.shift = first - (first_id >> 1)
        self.first_id = first_id
        self.last_id = first_id + 2 * (count - 1)
        self.left = count
        self.noted = (
            count  # `left` when its answers were timed last, less those that ended without an answer since
        )
        self.written_at = now
        self.deadline = deadline


@dataclass(slots=True)
class _Answering:
    """An answer whose headers have come and whose end has not."""

    status: int
    fields: Fields
    body: bytearray
    received: int = 0


@dataclass(slots=True)
class _OpenBlock:
    """A header block that CONTINUATION frames must complete before anything else may come."""

    stream_id: int
    end_stream: bool
    parts: list[bytes]
    size: int


class Core:
    """The state of one client connection.

    Attributes:
        peer: the peer's settings.
        answered: requests that ended with an answer so far.
        events: from the last call of ``receive``, also if it raised.
        draining: no new requests: GOAWAY, ids used up, or ``retire()``.
    """

    def __init__(
        self,
        authority: bytes,
        *,
        max_streams: int = 1000,
        stream_ceiling: float = 0.9,
        header_table_size: int = 0,
        first_request_alone: bool = True,
        retire_at_stream_id: int = RETIRE_AT_STREAM_ID,
    ) -> None:
        self.peer = PeerSettings()
        self._out = Outgoing(authority, self.peer)
        self.answered = 0
        self.draining = False
        self._max_streams = max_streams
        self._stream_ceiling = stream_ceiling
        self._alone = first_request_alone
        self._retire_at = retire_at_stream_id
        self._decoder = ResponseDecoder(header_table_size)
        self._next_id = 1
        self._streams: dict[int, Chunk] = {}
        self._chunks: dict[Chunk, None] = {}  # in the order of writing; an insertion-ordered set
        self._untimed: list[
            tuple[float, int]
        ] = []  # of chunks that have ended: written at, answers not timed
        #: Streams with headers received. None stands for a 200, of which nothing is kept.
        self._answering: dict[int, _Answering | None] = {}
        self._open_block: _OpenBlock | None = None
        self._rest = b""
        self._consumed = 0
        self._failed = 0  # requests that ended without an answer, added up
        self._goaway_last_id = MAX_STREAM_ID
        self._goaway: tuple[int, bytes] | None = None
        self._goaways_told = 0
        self._idle_frames = 0
        self._out.put(PREFACE)
        self._out.put(
            settings_frame(
                (
                    (Setting.HEADER_TABLE_SIZE, header_table_size),
                    (Setting.ENABLE_PUSH, 0),
                    (Setting.INITIAL_WINDOW_SIZE, STREAM_WINDOW),
                    (Setting.MAX_HEADER_LIST_SIZE, MAX_HEADER_LIST_SIZE),
                )
            )
        )
        self._out.put(window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW))
        self.events: list[Event] = []

    # What the owner asks

    @property
    def in_flight(self) -> int:
        return len(self._streams)

    @property
    def stream_limit(self) -> int:
        """Streams that may be open together now: 0 before the peer's SETTINGS, then below the peer's and our own limit."""
        if not self.peer.received or self.draining:
            return 0
        advertised = self.peer.max_concurrent_streams
        if advertised is None:
            limit = self._max_streams
        else:
            # Below the advertised number, because a lowered limit and our HEADERS can cross on the wire.
            limit = min(self._max_streams, max(int(advertised * self._stream_ceiling), min(advertised, 1)))
        return min(limit, 1) if self._alone else limit

    @property
    def warming(self) -> bool:
        """The first answer is still awaited, and until then one request at a time is written."""
        return self._alone and not self.draining

    @property
    def capacity(self) -> int:
        """Streams that may be opened now, 0 or more."""
        return max(0, self.stream_limit - len(self._streams))

    @property
    def oldest_written_at(self) -> float | None:
        """When the oldest request in flight was written."""
        for chunk in self._chunks:
            return chunk.written_at
        return None

    @property
    def next_stream_id(self) -> int:
        """The stream of the next request."""
        return self._next_id

    @property
    def window(self) -> int:
        """Octets of DATA that the peer will take on this connection."""
        return self._out.window

    @property
    def has_output(self) -> bool:
        return bool(self._out)

    def output(self) -> bytes:
        """Everything to write, in order. The caller owns it now."""
        return self._out.take()

    # What the owner does

    def write(self, burst: Burst, limit: int, now: float, deadline: float) -> int:
        """Put at most ``limit`` of the burst's next requests into the output.

        Returns:
            how many; 0 when streams or windows do not allow one now.
        """
        first_id = self._next_id
        room = min(limit, self.capacity, burst.count - burst.cursor, (MAX_STREAM_ID - first_id) // 2 + 1)
        if room <= 0:
            return 0
        count = self._out.put_requests(burst, room, first_id, alone=not self._streams)
        if not count:
            return 0
        start = burst.cursor
        burst.cursor = start + count
        burst.codes[start : start + count] = bytes((Code.IN_FLIGHT,)) * count
        if burst.first_written_at is None:
            burst.first_written_at = now
        chunk = Chunk(burst, start, count, first_id, now=now, deadline=deadline)
        self._chunks[chunk] = None
        self._next_id = first_id + 2 * count
        self._streams.update(dict.fromkeys(range(first_id, self._next_id, 2), chunk))
        if self._next_id >= self._retire_at:
            self.draining = True
        return count

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the peer; results go to the bursts.

        Raises:
            PeerViolation: the connection is over. Everything before the offending frame has been taken; the output ends
                with the GOAWAY that says why. Requests in flight wait for :meth:`abandon`.
        """
        self.events = []
        before = len(self._streams) + self._failed
        try:
            self._rest = self._frames(self._rest + data if self._rest else data)
        except PeerViolation as violation:
            self._rest = b""
            # The answers before it count: a connection that has answered is judged more kindly.
            self.answered += before - len(self._streams) - self._failed
            self._out.put(goaway(violation.code, violation.detail.encode("ascii", "replace")[:100]))
            self.draining = True
            raise
        answered = before - len(self._streams) - self._failed
        if answered:
            self._after_answers(answered)
        if self._consumed >= CONNECTION_WINDOW // 2:
            self._out.put(window_update(0, self._consumed))
            self._consumed = 0
        return self.events

    def waited(self) -> list[tuple[float, int]]:
        """When requests that have been answered since the last call were written, and how many at each time."""
        found, self._untimed = self._untimed, []
        for chunk in self._chunks:
            answers = chunk.noted - chunk.left
            if answers:
                found.append((chunk.written_at, answers))
                chunk.noted = chunk.left
        return found

    def ping(self, payload: bytes) -> None:
        """Provoke a frame from a peer that is alive. ``payload`` is 8 octets."""
        self._out.put(frame(FrameType.PING, 0, 0, payload))

    def retire(self) -> None:
        """Take no new requests; those in flight go on."""
        self.draining = True

    def say_goodbye(self) -> None:
        """Announce an orderly end."""
        self.draining = True
        self._out.put(goaway(ErrorCode.NO_ERROR))

    def expire(self, now: float) -> list[Chunk]:
        """End the requests whose deadline has passed: RST_STREAM CANCEL, and UNKNOWN, for they were written.

        Returns:
            the chunks that had such requests.
        """
        late: list[Chunk] = []
        for chunk in self._chunks:
            if chunk.deadline > now:
                break  # those behind it were written later, and with the same time-out
            late.append(chunk)
        for chunk in late:
            for stream_id in range(chunk.first_id, chunk.last_id + 1, 2):
                if self._streams.get(stream_id) is chunk:
                    self._out.put(rst_stream(stream_id, ErrorCode.CANCEL))
                    self._end(stream_id, Code.UNKNOWN, Reason.TIMEOUT)
        return late

    def abandon(self, reason: str, *, unsent_from: int = MAX_STREAM_ID + 1) -> None:
        """The connection is gone: everything in flight is UNKNOWN.

        Streams from ``unsent_from`` on are NOT_SENT instead: the peer cannot have read them.
        """
        self.draining = True
        self._out.clear()
        self._out.partial.clear()
        for stream_id in list(self._streams):
            self._end(stream_id, Code.NOT_SENT if stream_id >= unsent_from else Code.UNKNOWN, reason)

    # Reading

    def _frames(self, data: bytes) -> bytes:
        """Handle all complete frames; the incomplete rest is returned.

        Answers that look alike are taken by the thousand. The loop's body is what an ordinary answer costs that is not among
        those: it takes only the two ordinary shapes (a block that is a 200 by its first octet, and DATA of a 200); everything else
        goes through the table of handlers.
        """
        streams, answering, partial = self._streams, self._answering, self._out.partial
        unpack = FRAME_HEAD.unpack_from
        fast = self._decoder.stateless and self._open_block is None
        offset, size = 0, len(data)
        last = size - FRAME_HEAD_SIZE
        rows, next_look, gap = _FIRST_ROWS, 0, _NEXT_LOOK
        while offset <= last:
            if fast and offset >= next_look:
                run = runs.answers(data, offset, rows)
                if run is not None and self._take_run(run):
                    offset = run.stop
                    # A look too far costs something, so they grow with success.
                    rows, gap = min(4 * rows, runs.MOST_ROWS), _NEXT_LOOK
                    continue
                rows, next_look, gap = _FIRST_ROWS, offset + gap, min(2 * gap, _FARTHEST_LOOK)
            word, flags, stream_id = unpack(data, offset)
            if word > _MAX_FRAME_WORD:
                if not self.peer.received and data.startswith(b"HTTP/"):
                    raise PeerViolation(
                        ErrorCode.HTTP_1_1_REQUIRED, "the peer agreed on h2 and speaks HTTP/1"
                    )
                raise PeerViolation(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {word >> 8} octets")
            start = offset + FRAME_HEAD_SIZE
            offset = start + (word >> 8)
            if offset > size:
                return data[start - FRAME_HEAD_SIZE :]
            kind = word & 0xFF
            if fast and stream_id in streams:
                if kind == _HEADERS:
                    if (
                        flags & _PLAIN_HEADERS_MASK == END_HEADERS
                        and offset > start
                        and data[start] == STATUS_200
                        and stream_id not in answering
                    ):
                        if flags & END_STREAM:
                            chunk = streams.pop(stream_id)
                            chunk.codes[(stream_id >> 1) + chunk.shift] = _OK
                            chunk.left -= 1
                            if not chunk.left:
                                self._finish_chunk(chunk)
                        else:
                            answering[stream_id] = None
                        continue
                elif kind == _DATA and flags == END_STREAM and answering.get(stream_id, False) is None:
                    self._consumed += word >> 8
                    del answering[stream_id]
                    chunk = streams.pop(stream_id)
                    chunk.codes[(stream_id >> 1) + chunk.shift] = _OK
                    chunk.left -= 1
                    if not chunk.left:
                        self._finish_chunk(chunk)
                    continue
            elif word == _RST_WORD and fast and stream_id & 1 and stream_id < self._next_id and not partial:
                # For a stream that has ended: nothing to do. Servers that answer before they have read the body send one each.
                next_look, gap = 0, _NEXT_LOOK
                continue
            self._frame(kind, flags, stream_id & _ID_MASK, data[start:offset])
            fast = self._decoder.stateless and self._open_block is None
        return data[offset:]

    def _take_run(self, run: runs.Run) -> bool:
        """End the streams of a run with OK; False, and nothing done, if one of them does not wait for a whole answer."""
        streams, ids = self._streams, run.stream_ids
        if not all(map(streams.__contains__, ids)) or not self._answering.keys().isdisjoint(ids):
            return False
        self._consumed += run.data_size
        chunks = list(map(streams.pop, ids, repeat(None)))
        count = len(ids)
        if ids != tuple(range(ids[0], ids[0] + 2 * count, 2)):
            for stream_id, chunk in zip(ids, chunks, strict=True):
                if (
                    chunk is not None
                ):  # answered twice in the run: the second answer is for a stream that has ended
                    chunk.codes[(stream_id >> 1) + chunk.shift] = _OK
                    chunk.left -= 1
                    if not chunk.left:
                        self._finish_chunk(chunk)
            return True
        at = 0
        while at < count:
            chunk = chunks[at]
            assert chunk is not None
            length = min((chunk.last_id - ids[at]) // 2 + 1, count - at)
            index = (ids[at] >> 1) + chunk.shift
            chunk.codes[index : index + length] = _ONE_OK * length
            chunk.left -= length
            if not chunk.left:
                self._finish_chunk(chunk)
            at += length
        return True

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._open_block
        if block is not None and (kind != FrameType.CONTINUATION or stream_id != block.stream_id):
            raise PeerViolation(ErrorCode.PROTOCOL_ERROR, f"frame of type {kind} inside a header block")
        if not self.peer.received and (kind != FrameType.SETTINGS or flags & ACK):
            raise PeerViolation(ErrorCode.PROTOCOL_ERROR, f"the first frame is of type {kind}, not SETTINGS")
        self._idle_frames += 1
        if self._idle_frames > _IDLE_FRAMES:
            raise PeerViolation(
                ErrorCode.ENHANCE_YOUR_CALM, f"{_IDLE_FRAMES} frames in a row that ended no request"
            )
        handler = _HANDLERS.get(kind)
        if handler is not None:  # unknown types are ignored (section 4.1)
            handler(self, flags, stream_id, payload)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._check_opened(stream_id, "DATA")
        self._consumed += len(payload)  # padding counts, and so does what comes for a stream that has ended
        data = _unpadded(payload, flags, "DATA")
        if stream_id not in self._streams:
            return
        if stream_id not in self._answering:
            self._reset(stream_id, Reason.MALFORMED_ANSWER)
            return
        state = self._answering[stream_id]
        if not flags & END_STREAM:
            if state is None:
                # A 200 that comes in pieces: from now on its size is watched.
                state = self._answering[stream_id] = _Answering(200, (), bytearray())
            state.received += len(payload)
        if state is not None and state.status != 200:
            state.body += data[: BODY_KEPT - len(state.body)]
        if flags & END_STREAM:
            self._complete(stream_id)
        elif state is not None and state.received > BODY_READ:
            # The answer is known; its end would only cost time.
            self._out.forget_body(stream_id)
            self._out.put(rst_stream(stream_id, ErrorCode.CANCEL))
            self._complete(stream_id)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._check_opened(stream_id, "HEADERS")
        block = _unpadded(payload, flags, "HEADERS")
        if flags & PRIORITY_FIELDS:
            if len(block) < 5:
                raise PeerViolation(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority fields")
            block = block[5:]
        if flags & END_HEADERS:
            self._on_block(stream_id, bool(flags & END_STREAM), block)
        else:
            self._open_block = _OpenBlock(stream_id, bool(flags & END_STREAM), [block], len(block))

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._open_block
        if block is None:
            raise PeerViolation(
                ErrorCode.PROTOCOL_ERROR, f"CONTINUATION on stream {stream_id} without HEADERS"
            )
        block.parts.append(payload)
        # Empty frames count too, or they could go on for ever.
        block.size += len(payload) + FRAME_HEAD_SIZE
        if block.size > MAX_HEADER_LIST_SIZE:
            raise PeerViolation(ErrorCode.ENHANCE_YOUR_CALM, f"a header block of over {block.size} octets")
        if flags & END_HEADERS:
            self._open_block = None
            self._on_block(stream_id, block.end_stream, b"".join(block.parts))

    def _on_block(self, stream_id: int, end_stream: bool, block: bytes) -> None:
        if block[:1] == _STATUS_200 and stands_alone(block):
            fields: Fields = STATUS_200_FIELDS
        else:
            fields = self._decoder.decode(block)  # also for streams that have ended: it may change the table
        if stream_id not in self._streams:
            return
        status = status_of(fields)
        if stream_id in self._answering:
            if end_stream and not any(name.startswith(b":") for name, _ in fields):  # trailers
                self._complete(stream_id)
            else:
                self._reset(stream_id, Reason.MALFORMED_ANSWER)
            return
        if status is None or (status < 200 and end_stream):
            self._reset(stream_id, Reason.MALFORMED_ANSWER)
            return
        if status < 200:
            return
        self._answering[stream_id] = None if status == 200 else _Answering(status, fields, bytearray())
        if end_stream:
            self._complete(stream_id)

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise PeerViolation(ErrorCode.FRAME_SIZE_ERROR, f"RST_STREAM of {len(payload)} octets")
        self._check_opened(stream_id, "RST_STREAM")
        self._out.forget_body(stream_id)
        if stream_id not in self._streams:
            return
        (code,) = UINT32.unpack(payload)
        if code == ErrorCode.REFUSED_STREAM:
            self._end(stream_id, Code.REFUSED, Reason.REFUSED_STREAM)
        else:
            # NO_ERROR after a complete answer finds no stream any more. Before that, it is a reset like all others.
            self._end(stream_id, Code.UNKNOWN, Reason.STREAM_RESET)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise PeerViolation(ErrorCode.PROTOCOL_ERROR, f"SETTINGS on stream {stream_id}")
        if flags & ACK:
            if payload:
                raise PeerViolation(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload")
            return
        self._cancel_bodies()
        before = self.peer.initial_window_size
        for key, value in self.peer.apply(payload):
            if key == Setting.HEADER_TABLE_SIZE:
                self._out.encoder.limit_table(value)
        # The acknowledgement goes first: the bodies that follow may already use the new values.
        self._out.put_provoked(frame(FrameType.SETTINGS, ACK, 0))
        self._out.move_stream_windows(self.peer.initial_window_size - before)
        self.events.append(SettingsReceived())

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise PeerViolation(ErrorCode.PROTOCOL_ERROR, f"PING on stream {stream_id}")
        if len(payload) != 8:
            raise PeerViolation(ErrorCode.FRAME_SIZE_ERROR, f"PING of {len(payload)} octets")
        if not flags & ACK:
            self._out.put_provoked(frame(FrameType.PING, ACK, 0, payload))

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise PeerViolation(ErrorCode.PROTOCOL_ERROR, f"GOAWAY on stream {stream_id}")
        if len(payload) < 8:
            raise PeerViolation(ErrorCode.FRAME_SIZE_ERROR, f"GOAWAY of {len(payload)} octets")
        last_id = UINT32.unpack_from(payload)[0] & _ID_MASK
        (code,) = UINT32.unpack_from(payload, 4)
        # A later GOAWAY may lower the id, never raise it: what was refused stays refused.
        self._goaway_last_id = min(self._goaway_last_id, last_id)
        self.draining = True
        above = [open_id for open_id in self._streams if open_id > self._goaway_last_id]
        for open_id in above:
            self._end(open_id, Code.REFUSED, Reason.GOAWAY)
        # The first of two may only announce, and the second say why; but nobody needs to hear of a flood.
        news = (code, payload[8:]) != self._goaway and self._goaways_told < _GOAWAYS_TOLD
        if above or news:
            self.events.append(GoAwayReceived(code, last_id, payload[8:], len(above)))
            self._goaway = code, payload[8:]
            self._goaways_told += 1

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise PeerViolation(ErrorCode.FRAME_SIZE_ERROR, f"WINDOW_UPDATE of {len(payload)} octets")
        increment = UINT32.unpack(payload)[0] & MAX_WINDOW
        self._cancel_bodies()
        if stream_id == 0:
            self._out.open_window(increment)
            return
        self._check_opened(stream_id, "WINDOW_UPDATE")
        error = self._out.open_stream_window(stream_id, increment)
        if error and stream_id in self._streams:
            self._reset(stream_id, Reason.STREAM_RESET, error)

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Deprecated, and of no meaning to a client (section 5.3.2)."""

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise PeerViolation(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, although ENABLE_PUSH is 0")

    def _check_opened(self, stream_id: int, what: str) -> None:
        """Frames may come for streams that we have opened, never for others."""
        if stream_id % 2 == 0 or stream_id >= self._next_id:
            raise PeerViolation(
                ErrorCode.PROTOCOL_ERROR, f"{what} on stream {stream_id}, which was not opened"
            )

    # Endings

    def _complete(self, stream_id: int) -> None:
        """The answer is complete."""
        state = self._answering[stream_id]
        if state is None or state.status == 200:
            self._end(stream_id, Code.OK)
            return
        answer = Answer(state.status, headers_of(state.fields), bytes(state.body))
        chunk = self._streams[stream_id]
        chunk.burst.answers[(stream_id >> 1) + chunk.shift] = answer
        self._end(stream_id, Code.ANSWERED)
        self.events.append(answer)

    def _reset(self, stream_id: int, reason: str, code: ErrorCode = ErrorCode.PROTOCOL_ERROR) -> None:
        """A stream error of the peer: the rest of the connection is sound (section 5.4.2)."""
        self._out.put_provoked(rst_stream(stream_id, code))
        self._end(stream_id, Code.UNKNOWN, reason)

    def _end(self, stream_id: int, code: Code, reason: str | None = None) -> None:
        chunk = self._streams.pop(stream_id)
        index = (stream_id >> 1) + chunk.shift
        chunk.codes[index] = code
        if reason is not None:
            chunk.burst.reasons[index] = reason
            chunk.noted -= 1
            self._failed += 1
            self._out.forget_body(stream_id)
        self._answering.pop(stream_id, None)
        chunk.left -= 1
        if not chunk.left:
            self._finish_chunk(chunk)

    def _finish_chunk(self, chunk: Chunk) -> None:
        del self._chunks[chunk]
        if chunk.noted:
            self._untimed.append((chunk.written_at, chunk.noted))
        chunk.burst.settle((chunk.last_id - chunk.first_id) // 2 + 1)

    def _after_answers(self, answered: int) -> None:
        self.answered += answered
        self._idle_frames = 0
        self._alone = False
        self._cancel_bodies()

    def _cancel_bodies(self) -> None:
        """Give up the bodies of streams that were answered before all of it went out: the room is for others."""
        if self._out.partial:
            self._out.cancel_bodies(self._streams)


def _unpadded(payload: bytes, flags: int, what: str) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise PeerViolation(ErrorCode.PROTOCOL_ERROR, f"{what} with more padding than payload")
    return payload[1 : len(payload) - payload[0]]


#: Not bound to a core: one that held its own methods would be garbage that only the collector finds, with all its templates.
_HANDLERS: Final[Mapping[int, Callable[[Core, int, int, bytes], None]]] = {
    FrameType.DATA: Core._on_data,
    FrameType.HEADERS: Core._on_headers,
    FrameType.PRIORITY: Core._on_priority,
    FrameType.RST_STREAM: Core._on_rst_stream,
    FrameType.SETTINGS: Core._on_settings,
    FrameType.PUSH_PROMISE: Core._on_push_promise,
    FrameType.PING: Core._on_ping,
    FrameType.GOAWAY: Core._on_goaway,
    FrameType.WINDOW_UPDATE: Core._on_window_update,
    FrameType.CONTINUATION: Core._on_continuation,
}
