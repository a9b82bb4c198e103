"""A byte stream to one client: TLS over memory buffers and a gevent socket, or plain.

The raw socket is read by 256 KB at a time into a ``MemoryBIO``: one system call serves hundreds of TLS records.
"""

from __future__ import annotations

import contextlib
import socket as stdlib_socket
import ssl
import struct
from collections.abc import Mapping
from typing import Any, Protocol

import gevent
from gevent.lock import BoundedSemaphore

from pushq.mock.exchange import ClientIdentity

READ_BYTES = 262_144
RECORD_BYTES = 65_536
HANDSHAKE_TIMEOUT_S = 10.0
SEND_TIMEOUT_S = 30.0
# How long the other side may take to see that we closed; it is on the same machine.
LINGER_S = 0.25


class Channel(Protocol):
    """Several greenlets may send; what is handed over first goes out first. Only one may receive."""

    @property
    def protocol(self) -> str | None:
        """What ALPN agreed on, if anything."""

    @property
    def certificate(self) -> ClientIdentity | None:
        """What the client showed in the handshake, if it was asked and the certificate is good."""

    def receive(self) -> bytes:
        """Whatever arrived, or ``b""`` when the client is gone."""

    def send(self, data: bytes) -> None:
        """Returns when the kernel has taken it. Raises ``OSError`` when the client is gone or reads nothing for 30 s."""

    def flush(self) -> None:
        """Returns when everything handed over so far was taken by the kernel. Raises as ``send``."""

    def close(self) -> None:
        """An orderly end. Closing twice is fine."""

    def cut(self) -> None:
        """End without a farewell: no close_notify, and a TCP reset."""


class PlainChannel:
    protocol: str | None = None
    certificate: ClientIdentity | None = None

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        raw.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)

    def receive(self) -> bytes:
        try:
            data: bytes = self._raw.recv(READ_BYTES)
        except OSError:
            return b""
        return data

    def send(self, data: bytes) -> None:
        with gevent.Timeout(SEND_TIMEOUT_S, TimeoutError("the client does not read")):
            self._raw.sendall(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def end_sending(self) -> None:
        """The client hears of the end; what it still says is received."""
        with contextlib.suppress(OSError):
            self._raw.shutdown(stdlib_socket.SHUT_WR)

    def close(self) -> None:
        # Closing with unread input sends a reset, and the client could lose our last words: FIN first, then read on a little.
        with contextlib.suppress(OSError), gevent.Timeout(LINGER_S, False):
            self._raw.shutdown(stdlib_socket.SHUT_WR)
            while self._raw.recv(READ_BYTES):
                pass
        self._raw.close()

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self._raw.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._raw.close()


class TlsChannel:
    """Raises ``OSError`` (``ssl.SSLError`` and ``TimeoutError`` are such) from the constructor when the handshake fails."""

    def __init__(self, raw: Any, context: ssl.SSLContext) -> None:
        self._plain = PlainChannel(raw)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._sending = BoundedSemaphore(1)
        try:
            with gevent.Timeout(HANDSHAKE_TIMEOUT_S, TimeoutError("no TLS handshake in time")):
                self._handshake()
        except BaseException:
            self._plain.close()
            raise
        self.protocol = self._tls.selected_alpn_protocol()
        self.certificate = _identity(self._tls.getpeercert())

    def receive(self) -> bytes:
        while True:
            parts: list[bytes] = []
            try:
                while part := self._tls.read(RECORD_BYTES):
                    parts.append(part)
                return b"".join(parts)
            except ssl.SSLWantReadError:
                if parts:
                    return b"".join(parts)
            except ssl.SSLError:
                # close_notify, or bytes that are no TLS: either way nothing more will come.
                return b"".join(parts)
            if self._out.pending:
                self.flush()
            data = self._plain.receive()
            if not data:
                return b""
            self._in.write(data)

    def send(self, data: bytes) -> None:
        # Encrypting is what fixes the order; whoever holds the lock writes everything encrypted so far.
        self._tls.write(data)
        self.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            self.flush()
        self._plain.close()

    def cut(self) -> None:
        self._plain.cut()

    def flush(self) -> None:
        with self._sending:
            while self._out.pending:
                self._plain.send(self._out.read())

    def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                data = self._plain.receive()
                if not data:
                    raise ConnectionError("the client left during the TLS handshake") from None
                self._in.write(data)
            else:
                self.flush()
                return


def _identity(certificate: Mapping[str, Any] | None) -> ClientIdentity | None:
    if not certificate:
        return None
    # Python's form of a name: a tuple of (type, value) pairs for each part.
    subject = {name: value for part in certificate["subject"] for name, value in part}
    return ClientIdentity(subject.get("userId", ""), ssl.cert_time_to_seconds(certificate["notAfter"]))
