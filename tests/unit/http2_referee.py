"""A Core and an ``h2`` server joined in memory. h2 checks every frame that we send, and decodes the requests."""

from __future__ import annotations

from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.settings
from h2.settings import SettingCodes

from pushq.http2.burst import Burst, Code
from pushq.http2.core import Core
from pushq.http2.events import Event
from pushq.http2.frames import SETTING, FrameType, frame
from pushq.http2.templates import HeaderTemplate

APNS = HeaderTemplate(
    b"/3/device/",
    (
        (b"authorization", b"bearer " + b"x" * 180),
        (b"apns-topic", b"com.example.shop"),
        (b"apns-push-type", b"alert"),
        (b"apns-priority", b"10"),
    ),
)

UNENDING = 1e9


def tokens(count: int, size: int = 64) -> list[bytes]:
    return [f"{number:0{size}x}".encode() for number in range(count)]


def burst_of(count: int, *, body: bytes = b'{"aps":{}}', template: HeaderTemplate = APNS) -> Burst:
    return Burst(template, count, targets=tokens(count), bodies=body)


@dataclass
class Request:
    """A request as the server saw it."""

    stream_id: int
    headers: list[tuple[bytes, bytes]]
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False

    @property
    def path(self) -> bytes:
        return dict(self.headers)[b":path"]


class Referee:
    """The server's side; ``exchange`` moves bytes both ways until nobody has anything to say."""

    def __init__(
        self, core: Core, settings: dict[SettingCodes, int] | None = None, *, greet: bool = True
    ) -> None:
        self.core = core
        # Header checks stay on: pseudo-headers, their order, lower case, no connection headers.
        self.server = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding=None)
        )
        self.server.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: 1000,
                SettingCodes.MAX_HEADER_LIST_SIZE: 1 << 20,
                **(settings or {}),
            },
        )
        self.requests: dict[int, Request] = {}
        self.resets: dict[int, int] = {}
        self.seen: list[h2.events.Event] = []
        self.events: list[Event] = []
        #: Consume request bodies, which opens the windows again.
        self.consumes = True
        if greet:
            self.server.initiate_connection()
            self.exchange()

    def exchange(self) -> None:
        while True:
            ours = self.core.output()
            if ours:
                self.take(self.server.receive_data(ours))
            theirs = self.server.data_to_send()
            if theirs:
                self.events += self.core.receive(theirs)
            if not ours and not theirs:
                return

    def take(self, events: list[h2.events.Event]) -> None:
        for event in events:
            self.seen.append(event)
            if isinstance(event, h2.events.RequestReceived):
                self.requests[event.stream_id] = Request(event.stream_id, list(event.headers))
            elif isinstance(event, h2.events.DataReceived):
                self.requests[event.stream_id].body += event.data
                if self.consumes:
                    self.server.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.requests[event.stream_id].complete = True
            elif isinstance(event, h2.events.StreamReset):
                self.resets[event.stream_id] = int(event.error_code)

    def write(self, burst: Burst, limit: int = 10_000, now: float = 0.0, deadline: float = UNENDING) -> int:
        count = self.core.write(burst, limit, now, deadline)
        self.exchange()
        return count

    def write_all(self, burst: Burst) -> None:
        """Write in as many goes as the windows demand."""
        while burst.cursor < burst.count:
            assert self.write(burst), "no progress"

    def answer(
        self,
        stream_id: int,
        status: int = 200,
        headers: tuple[tuple[str, str], ...] = (),
        body: bytes = b"",
    ) -> None:
        self.server.send_headers(stream_id, [(":status", str(status)), *headers], end_stream=not body)
        if body:
            self.server.send_data(stream_id, body, end_stream=True)
        self.exchange()

    def answer_all(self) -> None:
        for request in list(self.requests.values()):
            if request.complete and request.stream_id not in self.resets:
                self.answer(request.stream_id)
                del self.requests[request.stream_id]

    def inject(self, data: bytes) -> None:
        """Frames that h2 would not send, straight to the core."""
        self.events += self.core.receive(data)
        self.exchange()

    def settle_in(self) -> None:
        """One request and its answer, after which the core fans out."""
        burst = burst_of(1)
        assert self.write(burst) == 1
        self.answer(next(iter(self.requests)))
        assert burst.codes[0] == Code.OK
        self.requests.clear()


def settings_of(**values: int) -> bytes:
    """A SETTINGS frame by setting name."""
    from pushq.http2.frames import Setting  # noqa: PLC0415

    payload = b"".join(SETTING.pack(Setting[name], value) for name, value in values.items())
    return frame(FrameType.SETTINGS, 0, 0, payload)


def ready(settings: dict[SettingCodes, int] | None = None, **options: object) -> Referee:
    """A connection that has its first answer."""
    referee = Referee(Core(b"localhost:8443", **options), settings)  # type: ignore[arg-type]
    referee.settle_in()
    return referee
