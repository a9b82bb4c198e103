"""A TLS server that speaks frames: a test says, connection by connection, exactly which bytes come when.

Frames are made and read by hyperframe and hpack, so that nothing of ours checks itself.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self

from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from pushq.http2.settings import Origin
from tests.integration.h2_server import Authority

PREFACE_SIZE = 24
#: No read or write of a script takes longer; the test fails instead of hanging.
PATIENT = 20.0

STREAMS, WINDOW, FRAME_SIZE = (
    SettingsFrame.MAX_CONCURRENT_STREAMS,
    SettingsFrame.INITIAL_WINDOW_SIZE,
    SettingsFrame.MAX_FRAME_SIZE,
)


class ClientGone(Exception):
    """The client has closed, or broken, the connection."""


@dataclass
class Asked:
    """A request as far as it has come.

    Attributes:
        pieces: sizes of its DATA frames.
    """

    stream_id: int
    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)
    pieces: list[int] = field(default_factory=list)
    complete: bool = False

    @property
    def token(self) -> str:
        return self.headers[":path"].rpartition("/")[2]


class Wire:
    """One connection.

    Attributes:
        asked: by stream, in the order of arrival.
        resets: error codes of the client's RST_STREAM frames, by stream.
        goaway: the client's, if it came.
        tcp: the socket beneath TLS, for what TLS would not do.
    """

    def __init__(self, sock: ssl.SSLSocket, tcp: socket.socket) -> None:
        self.asked: dict[int, Asked] = {}
        self.resets: dict[int, int] = {}
        self.goaway: GoAwayFrame | None = None
        self.sock = sock
        self.tcp = tcp
        self.encoder = Encoder()
        self.encoder.header_table_size = (
            0  # which opens the first block with the update that the client waits for
        )
        self._decoder = Decoder()
        self._buffer = b""
        self._told: set[int] = set()
        self._take(PREFACE_SIZE)

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            try:
                data = self.sock.recv(65_536)
            except TimeoutError:
                raise AssertionError("the client sends nothing") from None
            except OSError as error:
                raise ClientGone from error
            if not data:
                raise ClientGone
            self._buffer += data
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def frame(self) -> Frame:
        """The client's next frame; its meaning has been noted.

        Raises:
            ClientGone: there is none.
        """
        frame, length = Frame.parse_frame_header(memoryview(self._take(9)))
        frame.parse_body(memoryview(self._take(length)))
        if isinstance(frame, HeadersFrame):
            block = frame.data
            while "END_HEADERS" not in frame.flags:
                more = self.frame()
                assert isinstance(more, ContinuationFrame)
                block += more.data
                for flag in more.flags:
                    frame.flags.add(flag)
            headers = {str(name): str(value) for name, value in self._decoder.decode(block)}
            self.asked[frame.stream_id] = Asked(
                frame.stream_id, headers, complete="END_STREAM" in frame.flags
            )
        elif isinstance(frame, DataFrame):
            asked = self.asked[frame.stream_id]
            asked.body += frame.data
            asked.pieces.append(len(frame.data))
            asked.complete = "END_STREAM" in frame.flags
        elif isinstance(frame, RstStreamFrame):
            self.resets[frame.stream_id] = frame.error_code
        elif isinstance(frame, GoAwayFrame):
            self.goaway = frame
        elif isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.send(SettingsFrame(0, flags=["ACK"]))
        return frame

    def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.frame()

    def take(self, count: int = 1) -> list[int]:
        """Wait for so many complete requests more; their streams."""
        self.until(lambda: len(self._fresh()) >= count)
        fresh = self._fresh()[:count]
        self._told.update(fresh)
        return fresh

    def _fresh(self) -> list[int]:
        return [
            each.stream_id
            for each in self.asked.values()
            if each.complete and each.stream_id not in self._told
        ]

    def echo(self) -> None:
        """Wait until the client has taken everything that was sent so far."""
        self.send(PingFrame(0, b"in order"))
        while True:
            frame = self.frame()
            if isinstance(frame, PingFrame) and "ACK" in frame.flags:
                return

    def drain(self) -> None:
        """Read until the client hangs up."""
        with contextlib.suppress(ClientGone):
            while True:
                self.frame()

    # Sending

    def send(self, *frames: Frame | bytes, piece: int = 0) -> None:
        """``piece``: so many octets per write, each in a TLS record of its own."""
        data = b"".join(frame if isinstance(frame, bytes) else frame.serialize() for frame in frames)
        try:
            for start in range(0, len(data), piece or len(data) or 1):
                self.sock.sendall(data[start : start + (piece or len(data))])
        except OSError as error:
            raise ClientGone from error

    def greet(self, settings: dict[int, int] | None = None, *, credit: int = 0) -> None:
        self.send(SettingsFrame(0, settings={STREAMS: 1000, **(settings or {})}))
        if credit:
            self.send(WindowUpdateFrame(0, window_increment=credit))

    def block(self, status: int, **headers: str) -> bytes:
        return self.encoder.encode([(":status", str(status)), *headers.items()])

    def headers(self, stream_id: int, status: int = 200, *, end: bool = True, **headers: str) -> HeadersFrame:
        flags = ["END_HEADERS", "END_STREAM"] if end else ["END_HEADERS"]
        return HeadersFrame(stream_id, self.block(status, **headers), flags=flags)

    def answer(self, stream_ids: Iterable[int], status: int = 200) -> None:
        self.send(*(self.headers(stream_id, status) for stream_id in stream_ids))

    # Ends

    def reset(self) -> None:
        """A TCP reset."""
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        self.tcp.close()

    def cut(self) -> None:
        """FIN, without TLS's own good-bye."""
        self.tcp.shutdown(socket.SHUT_RDWR)

    def bow(self) -> None:
        """TLS's good-bye, then FIN."""
        self.sock.settimeout(0.2)
        with contextlib.suppress(OSError):
            self.sock.unwrap()
        self.cut()

    def alarm(self) -> None:
        """A record that does not decrypt: for the client that is a fatal alert of its TLS engine."""
        self.tcp.sendall(b"\x15\x03\x03\x00\x12" + bytes(18))


def polite(wire: Wire) -> None:
    """Answer everything with 200 until the client leaves."""
    wire.greet()
    with contextlib.suppress(ClientGone):
        while True:
            wire.answer(wire.take())


class WireServer:
    """Runs one script per connection, and the last one for all that follow. Use it as a context manager.

    Attributes:
        wires: connections that finished their handshake.
        accepted: TCP connections.
        faults: what scripts have raised.
    """

    def __init__(
        self,
        authority: Authority,
        *scripts: Callable[[Wire], None],
        before_tls: Callable[[socket.socket], bool] = lambda sock: True,
        receive_buffer: int = 0,
    ) -> None:
        """``before_tls`` sees every TCP connection first; False ends it there."""
        self._scripts = scripts or (polite,)
        self._before_tls = before_tls
        self._authority = authority
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(authority.issue("localhost"))
        self._context.set_alpn_protocols(["h2"])
        self._listener = socket.socket()
        if receive_buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self._listener.settimeout(0.05)
        self.port: int = self._listener.getsockname()[1]
        self.wires: list[Wire] = []
        self.accepted = 0
        self.faults: list[BaseException] = []
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def origin(self) -> Origin:
        return Origin("localhost", self.port, self._authority.ca_file)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        """Hangs up first: whoever still listens in a script has heard all there is."""
        self._stopping.set()
        for wire in self.wires:
            with contextlib.suppress(OSError):
                wire.tcp.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENT + 10)
            assert not thread.is_alive(), "a script hangs"
        self._listener.close()
        assert not self.faults, self.faults

    def _start(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.accepted += 1
            self._start(lambda sock=sock: self._serve(sock))  # type: ignore[misc]

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with socket.socket(fileno=os.dup(sock.fileno())) as tcp, sock:
            if not self._before_tls(sock):
                return
            try:
                tls = self._context.wrap_socket(sock, server_side=True)
            except OSError:
                return  # the client hung up
            with tls:
                self._run(tls, tcp)

    def _run(self, tls: ssl.SSLSocket, tcp: socket.socket) -> None:
        try:
            wire = Wire(tls, tcp)
            number = len(self.wires)
            self.wires.append(wire)
            self._scripts[min(number, len(self._scripts) - 1)](wire)
        except ClientGone:
            pass
        except BaseException as error:  # noqa: BLE001 - shown by the test, at the end
            self.faults.append(error)
