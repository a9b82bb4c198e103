"""A peer that does anything, legal or not, against one core; and everything that must hold meanwhile.

Frames are made by hyperframe and hpack. Our own output is read back by them, and checked against the rules that a client must keep
whatever comes: whole frames, ids that rise, nothing after the end of a stream, windows respected.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import strategies as st

from pushq.http2.burst import Burst, Code
from pushq.http2.core import Core
from pushq.http2.errors import PeerViolation
from pushq.http2.frames import MAX_MAX_FRAME_SIZE, PREFACE
from pushq.http2.queue import BurstQueue
from pushq.http2.reasons import Reason
from pushq.http2.templates import HeaderTemplate

FINAL = {Code.OK, Code.ANSWERED, Code.NOT_SENT, Code.REFUSED, Code.UNKNOWN}
STATUSES = (
    "200",
    "200",
    "200",
    "200",
    "410",
    "400",
    "503",
    "429",
    "100",
    "103",
    "204",
    "2",
    "abc",
    "099",
    "",
)
DEBUGS = (b"", b'{"reason":"Shutdown"}', b'{"reason":"ExpiredProviderToken"}', b"too_many_pings", b"{" * 50)
SETTINGS_VALUES = (0, 1, 5, 100, 4096, 16_383, 16_384, 65_535, 70_000, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1)

LEGAL = (
    "write", "write", "write", "answer", "answer", "answer_all", "answer_all", "answer_all", "headers", "data", "trailers", "reset",
    "settings", "limit", "window", "stream_window", "ping", "goaway", "unknown", "priority", "time", "cancel",
)  # fmt: skip
WILD = (*LEGAL, "garbage", "push", "empty_continuation", "any_settings", "loose_data", "retire")
#: How the octets of a step are damaged on their way. None leaves them whole.
DAMAGES = ("flip", "cut", "double", "hold", "swap")

Step = tuple[str, int, int, str | None]


def steps(*, wild: bool) -> st.SearchStrategy[list[Step]]:
    damage: st.SearchStrategy[str | None] = st.none()
    if wild:
        damage = st.one_of(st.none(), st.none(), st.none(), st.none(), st.sampled_from(DAMAGES))
    number = st.integers(0, 2**16)
    return st.lists(
        st.tuples(st.sampled_from(WILD if wild else LEGAL), number, number, damage), min_size=4, max_size=60
    )


@dataclass(frozen=True)
class Setup:
    """How the core is made, and how the peer cuts its octets.

    ``first`` is the burst at the head of the queue. With ``lead`` the connection begins in good order: requests, and an answer,
    which is how the deeper states are reached.
    """

    table_size: int
    peer_keeps_table: bool
    alone: bool
    limit: int
    window: int
    retire_at: int
    piece: int
    first: int
    lead: bool


SETUPS = st.builds(
    Setup,
    table_size=st.sampled_from([0, 0, 4096]),
    peer_keeps_table=st.sampled_from([False, False, True]),
    alone=st.sampled_from([False, False, True]),
    limit=st.sampled_from([100, 1000, 3, 1]),
    window=st.sampled_from([65_535, 1 << 20, 9, 0]),
    retire_at=st.sampled_from([2**30, 2**30, 21]),
    piece=st.sampled_from([0, 0, 0, 1, 7, 100]),
    first=st.integers(0, 2),
    lead=st.sampled_from([True, True, False]),
)

_TEMPLATES = (
    HeaderTemplate(
        b"/3/device/", ((b"authorization", b"bearer " + b"x" * 180), (b"apns-topic", b"com.example.shop"))
    ),
    HeaderTemplate(b"/send", ((b"authorization", b"a"),), varying=(b"apns-id",)),
)


def bursts() -> list[Burst]:
    targets = [b"%064x" % number for number in range(300)]
    return [
        Burst(_TEMPLATES[0], 300, targets=targets, bodies=b'{"aps":{}}'),
        Burst(
            _TEMPLATES[1],
            20,
            bodies=[b"y" * (n * 9) for n in range(20)],
            values=[(b"%d" % n,) for n in range(20)],
        ),
        Burst(_TEMPLATES[0], 5, targets=targets[:5], bodies=b"z" * 20_000),
    ]


class Flag:
    """What a burst sets when it is done: once."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        assert not self.is_set, "a burst is done once"
        self.is_set = True

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set


@dataclass
class Output:
    """Reads what the client sends.

    Attributes:
        strict: the client has seen what the peer sent as it was, so that it has to keep the windows too.
    """

    strict: bool = True
    granted: int = 65_535
    _rest: bytes = b""
    _preface: bool = False
    _highest: int = 0
    _ended: set[int] = field(default_factory=set)
    _decoder: Decoder = field(default_factory=Decoder)
    _block: bytes | None = None

    def take(self, data: bytes) -> None:
        if data and not self._preface:
            assert data.startswith(PREFACE)
            data = data[len(PREFACE) :]
            self._preface = True
        while data:
            frame, length = Frame.parse_frame_header(memoryview(data[:9]), strict=True)
            assert len(data) >= 9 + length, "half a frame"
            assert length <= MAX_MAX_FRAME_SIZE
            frame.parse_body(memoryview(data[9 : 9 + length]))
            data = data[9 + length :]
            self._frame(frame, length)

    def _frame(self, frame: Frame, length: int) -> None:
        assert (self._block is not None) == isinstance(frame, ContinuationFrame)
        if isinstance(frame, HeadersFrame | ContinuationFrame):
            if isinstance(frame, HeadersFrame):
                assert frame.stream_id % 2 == 1
                assert frame.stream_id > self._highest
                self._highest = frame.stream_id
            self._block = (self._block or b"") + frame.data
            if "END_HEADERS" in frame.flags:
                fields = {str(name): str(value) for name, value in self._decoder.decode(self._block)}
                assert fields[":method"] == "POST"
                self._block = None
        elif frame.stream_id:
            assert frame.stream_id <= self._highest
            assert frame.stream_id not in self._ended or isinstance(frame, RstStreamFrame)
        if isinstance(frame, DataFrame):
            self.granted -= length
            assert self.granted >= 0 or not self.strict, "more than the connection's window"
        if "END_STREAM" in frame.flags or isinstance(frame, RstStreamFrame):
            self._ended.add(frame.stream_id)


class Play:
    """One core, its bursts, and a peer that follows steps."""

    def __init__(self, setup: Setup, *, wild: bool) -> None:
        self.setup = setup
        self.wild = wild
        self.core = Core(
            b"localhost",
            max_streams=100,
            stream_ceiling=1.0,
            header_table_size=setup.table_size,
            first_request_alone=setup.alone,
            retire_at_stream_id=setup.retire_at,
        )
        self.bursts = bursts()
        self.queue = BurstQueue(1000)
        for burst in self.bursts[setup.first :] + self.bursts[: setup.first]:
            burst.attach(Flag(), self.queue.withdraw)
            self.queue.add(burst, 0.0)
        self.output = Output()
        self.now = 0.0
        self.alive = True
        self.violation: PeerViolation | None = None
        self._encoder = Encoder()
        if not setup.peer_keeps_table:
            self._encoder.header_table_size = 0
        self._held = b""
        self._seen = [bytes(burst.codes) for burst in self.bursts]
        self._deliver(SettingsFrame(0, settings={3: setup.limit, 4: setup.window}).serialize())

    def run(self, steps: list[Step]) -> None:
        lead: list[Step] = [("write", 79, 0, None), ("answer", 1, 0, None), ("write", 79, 0, None)]
        for name, first, second, damage in (lead if self.setup.lead else []) + steps:
            if not self.alive:
                break
            self.now += 0.01
            octets = self._act(name, first, second)
            if octets:
                self._deliver(self._damaged(octets, damage, first))
            self._look()
        self._end()

    def _act(self, name: str, first: int, second: int) -> bytes:
        """Do a step; the octets that the peer sends for it."""
        core = self.core
        if name in ("write", "answer_all"):
            deadline = self.now + 1.0
            for _ in range(6):  # the queue hands out one burst after the other
                self.queue.feed(
                    lambda burst, most: core.write(burst, most, self.now, deadline), first % 80 + 8
                )
            self.output.take(core.output())
        if name == "time":
            self.now += first % 200 / 100
            core.expire(self.now)
            self.output.take(core.output())
        elif name == "cancel":
            self.bursts[first % len(self.bursts)].cancel()
        elif name == "retire" and first % 8 == 0:
            core.retire()
        elif name != "write":
            frames = self._frames(name, first, second)
            return b"".join(frame if isinstance(frame, bytes) else frame.serialize() for frame in frames)
        return b""

    def _stream(self, choice: int) -> int:
        open_ids = list(self.core._streams)
        if open_ids and choice % 9:
            return open_ids[choice % len(open_ids)]
        if self.wild:
            return choice % 97 or 1
        return choice % (self.core.next_stream_id // 2) * 2 + 1 if self.core.next_stream_id > 1 else 0

    def _frames(self, name: str, first: int, second: int) -> list[Frame | bytes]:
        stream = self._stream(first)
        if not stream and name not in ("settings", "limit", "window", "ping", "goaway", "unknown"):
            return []  # no stream has been opened that this could be about
        status = STATUSES[second % len(STATUSES)]
        if name == "answer":
            return self._answer(stream, status, second)
        if name == "answer_all":
            # Alike, so that they are taken as a run; or not quite.
            chosen = list(self.core._streams)[: 1 + first]
            return [
                part for each in chosen for part in self._answer(each, "200", second if second % 3 else each)
            ]
        if name == "headers":
            return [HeadersFrame(stream, self._block(status, second), flags=["END_HEADERS"])]
        if name == "trailers":
            block = self._encoder.encode([("grpc-status", str(second))])
            return [HeadersFrame(stream, block, flags=["END_HEADERS", "END_STREAM"])]
        if name in ("data", "loose_data"):
            flags = ["END_STREAM"] if second % 2 else []
            return [DataFrame(stream if name == "data" else first or 1, b"d" * (second % 3000), flags=flags)]
        if name == "reset":
            return [RstStreamFrame(stream, error_code=second % 15)]
        if name == "settings":
            return [SettingsFrame(0, settings={1: second % 5000, 4: first, 5: 16_384 + second})]
        if name == "any_settings":
            return [SettingsFrame(0, settings={first % 8: SETTINGS_VALUES[second % len(SETTINGS_VALUES)]})]
        if name == "limit":
            return [SettingsFrame(0, settings={3: second % 120})]
        if name == "window":
            self.output.granted += second + 1
            return [WindowUpdateFrame(0, window_increment=second + 1)]
        if name == "stream_window":
            return [WindowUpdateFrame(stream, window_increment=second % 5000 + 1)]
        if name == "ping":
            return [PingFrame(0, second.to_bytes(8, "big"), flags=["ACK"] if first % 2 else [])]
        if name == "goaway":
            last = stream if first % 3 else 2**31 - 1
            debug = DEBUGS[second % len(DEBUGS)]
            return [GoAwayFrame(0, last_stream_id=last, error_code=second % 15, additional_data=debug)]
        if name == "unknown":
            return [b"\0\0\2" + bytes((10 + first % 200, second % 256)) + first.to_bytes(4, "big") + b"??"]
        if name == "priority":
            return [PriorityFrame(stream, depends_on=stream + 2, stream_weight=3)]
        if name == "push":
            return [PushPromiseFrame(stream, promised_stream_id=2, data=b"\x88", flags=["END_HEADERS"])]
        if name == "empty_continuation":
            return [ContinuationFrame(stream, b"", flags=["END_HEADERS"] if second % 2 else [])]
        if name == "garbage":
            return [(first * 65_537 + second).to_bytes(5, "big") * (1 + second % 20)]
        return []

    def _block(self, status: str, number: int) -> bytes:
        fields = [(":status", status)] if status else []
        if number % 4:
            fields.append(("apns-id", str(number % 50)))
        return self._encoder.encode(fields)

    def _answer(self, stream: int, status: str, shape: int) -> list[Frame | bytes]:
        block = self._block(status, shape)
        kind = shape % 7
        if kind == 0:
            return [HeadersFrame(stream, block, flags=["END_HEADERS", "END_STREAM"])]
        if kind == 1:
            return [
                HeadersFrame(stream, block, flags=["END_HEADERS", "END_STREAM"]),
                RstStreamFrame(stream, error_code=0),
            ]
        if kind == 2:
            cut = len(block) // 2
            return [
                HeadersFrame(stream, block[:cut], flags=["END_STREAM"]),
                ContinuationFrame(stream, block[cut:], flags=["END_HEADERS"]),
            ]
        if kind == 3:
            return [
                HeadersFrame(
                    stream, block, pad_length=shape % 200, flags=["PADDED", "PRIORITY", "END_HEADERS"]
                ),
                DataFrame(stream, b"body", pad_length=shape % 100, flags=["PADDED", "END_STREAM"]),
            ]
        return [
            HeadersFrame(stream, block, flags=["END_HEADERS"]),
            *([DataFrame(stream, b"part")] if kind == 4 else []),
            DataFrame(stream, b"x" * (shape % 40), flags=["END_STREAM"]),
        ]

    def _damaged(self, octets: bytes, damage: str | None, number: int) -> bytes:
        if damage is not None:
            self.output.strict = False
        held, self._held = self._held, b""
        at = number % len(octets)
        if damage == "flip":
            octets = octets[:at] + bytes((octets[at] ^ (1 << number % 8),)) + octets[at + 1 :]
        elif damage == "cut":
            octets = octets[:at]
        elif damage == "double":
            octets += octets
        elif damage == "swap":
            octets = octets[at:] + octets[:at]
        elif damage == "hold":
            octets, self._held = b"", octets
        return octets + held

    def _deliver(self, octets: bytes) -> None:
        piece = self.setup.piece or len(octets) or 1
        try:
            for start in range(0, len(octets), piece):
                self.core.receive(octets[start : start + piece])
        except PeerViolation as violation:
            self.alive = False
            self.violation = violation
        self.output.take(self.core.output())

    def _look(self) -> None:
        """A final code never changes, and the core's books agree with each other."""
        core = self.core
        for number, burst in enumerate(self.bursts):
            now = bytes(burst.codes)
            for before, after in zip(self._seen[number], now, strict=True):
                assert before == after or Code(before) not in FINAL, (before, after)
                assert before <= after
            self._seen[number] = now
        assert sum(chunk.left for chunk in core._chunks) == core.in_flight
        assert all(chunk.left > 0 for chunk in core._chunks)
        assert core.in_flight == sum(burst.codes.count(Code.IN_FLIGHT) for burst in self.bursts)
        assert core._answering.keys() <= core._streams.keys()
        assert core._out.partial.keys() <= core._streams.keys() or not self.alive
        assert 0 <= core.capacity <= 100
        assert len(core._rest) <= 16_384 + 9

    def _end(self) -> None:
        core = self.core
        if self.violation is not None:
            assert self.wild, self.violation
            assert 0 < self.violation.code <= 13
            assert str(self.violation)
            assert core.draining
        core.abandon(Reason.CONNECTION_LOST)
        assert not core._streams
        assert not core._chunks
        assert not core._answering
        assert not core._out.partial
        assert not core.has_output
        self.queue.clear(Reason.POOL_CLOSED)
        assert self.queue.waiting == 0
        for burst in self.bursts:
            codes = [Code(code) for code in burst.codes]
            assert set(codes) <= FINAL
            assert burst.done
            assert burst._remaining == 0
            assert set(burst.reasons) == {index for index, code in enumerate(codes) if code > Code.ANSWERED}
            assert set(burst.answers) == {index for index, code in enumerate(codes) if code is Code.ANSWERED}
            assert set(burst.reasons.values()) <= set(Reason)
