"""A TLS stream over a gevent socket.

The TLS engine is an ``SSLObject`` between two memory buffers, and the socket beneath it is read 256 KB at a time: one
system call then serves hundreds of answers, where an ``SSLSocket`` makes one or two per TLS record of 16 KB. Writing is the same
the other way round.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from weakref import WeakKeyDictionary

from gevent import get_hub, socket
from gevent.hub import Hub

from pushq.http2.errors import ConnectionLost
from pushq.http2.reasons import Reason

READ_SIZE = 256 * 1024
#: Plaintext of a TLS record, at most (RFC 8446 section 5.1).
_RECORD_SIZE = 16 * 1024
#: Encrypted at a time: what a stalled peer makes us hold beside the plaintext.
_WRITE_SIZE = 256 * 1024


_NO_RECORDS = memoryview(b"")

#: What one thread's channels read into. They share it, for what was read is taken out before any other greenlet runs: 64 connections with
#: one each were nine megabytes more.
_buffers: WeakKeyDictionary[Hub, memoryview] = WeakKeyDictionary()


def _own_buffer() -> memoryview:
    hub = get_hub()
    if hub not in _buffers:
        _buffers[hub] = memoryview(bytearray(READ_SIZE))
    return _buffers[hub]


class Channel:
    """A connected, verified TLS stream. One greenlet may read while another writes.

    Attributes:
        peer: the address that it is connected to (the proxy's, if there is one); "" if that is gone already.
    """

    def __init__(
        self,
        sock: socket.socket,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        keep_session: Callable[[ssl.SSLSession | None], None],
    ) -> None:
        self._sock = sock
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._keep_session: Callable[[ssl.SSLSession | None], None] | None = keep_session
        self._buffer = _own_buffer()
        self._ended = False
        self._failure: ssl.SSLError | None = None
        self._sending = False
        self._written = 0  # plaintext of the current send whose records the system has taken
        self._records = _NO_RECORDS  # those that it is taking
        self._taken = 0
        self.peer = _peer(sock)

    def receive(self) -> bytes:
        """Block until data comes; ``b""`` at the peer's end of the stream.

        Raises:
            ConnectionLost: the connection broke, or was closed by :meth:`close` meanwhile.
        """
        while True:
            parts = self._decrypt()
            if parts:
                self._save_session()
                return b"".join(parts)
            if self._failure is not None:
                raise ConnectionLost(Reason.TLS_FAILED, describe(self._failure)) from self._failure
            if self._ended:
                return b""
            try:
                size = self._sock.recv_into(self._buffer)
            except OSError as error:
                raise ConnectionLost(Reason.CONNECTION_LOST, describe(error)) from error
            if size == 0:
                self._ended = True
            else:
                self._incoming.write(self._buffer[:size])

    def _decrypt(self) -> list[bytes]:
        parts: list[bytes] = []
        tls, incoming = self._tls, self._incoming
        # Asking only while something is there saves an exception per call.
        while self._failure is None and (incoming.pending or tls.pending()):
            try:
                part = tls.read(_RECORD_SIZE)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                self._ended = True
                break
            except ssl.SSLError as error:
                # Told when what came before it has been taken: answers may stand in front of an alert.
                self._failure = error
                break
            if not part:
                self._ended = True
                break
            parts.append(part)
        return parts

    def _save_session(self) -> None:
        # With TLS 1.3 the ticket comes after the handshake, with the first data at the earliest.
        if self._keep_session is not None:
            self._keep_session(self._tls.session)
            self._keep_session = None

    @property
    def has_output(self) -> bool:
        """The TLS engine itself has something to say (a key update)."""
        return bool(self._outgoing.pending)

    def send(self, data: bytes) -> None:
        """Encrypt and write everything. Blocks for as long as the peer does not read; :meth:`close` ends that.

        Raises:
            ConnectionLost: :attr:`delivered` tells how much of it the peer may have.
        """
        self._sending = True
        self._written = 0
        try:
            if len(data) <= _WRITE_SIZE:
                self._write(data)
            else:
                view = memoryview(data)
                for start in range(0, len(data), _WRITE_SIZE):
                    self._write(view[start : start + _WRITE_SIZE])
        except OSError as error:  # ssl.SSLError is one too
            raise ConnectionLost(Reason.CONNECTION_LOST, describe(error)) from error
        finally:
            self._sending = False

    def _write(self, data: bytes | memoryview) -> None:
        self._taken = 0
        if data:
            self._tls.write(data)
        self._records = records = memoryview(self._outgoing.read())
        while self._taken < len(records):
            self._taken += self._sock.send(records[self._taken :])
        self._records = _NO_RECORDS
        self._written += len(data)

    @property
    def delivered(self) -> int:
        """How many octets of the ``send`` that runs, or that broke, can reach the peer at most.

        A record of which the system has not taken the last octet cannot be decrypted, so nothing in it ever arrives.
        """
        return self._written + _plaintext(self._records, self._taken)

    def close(self, last_words: bytes = b"") -> None:
        """Close at once. Whoever waits in ``receive`` or ``send`` gets ConnectionLost.

        ``last_words`` are sent as far as that is possible without waiting, and not if they would fall into the middle of a
        record that is being written.
        """
        if not self._sending:
            with contextlib.suppress(OSError, ValueError):
                if last_words:
                    self._tls.write(last_words)
                self._tls.unwrap()  # only puts close_notify into the buffer, then wants the peer's
            with contextlib.suppress(OSError):
                # Not send()'s own time-out: the socket is an SSLSocket behind a proxy that speaks TLS, which ignores that one.
                self._sock.setblocking(False)
                self._sock.send(self._outgoing.read())
        self._sock.close()


def _peer(sock: socket.socket) -> str:
    try:
        host, port = sock.getpeername()[:2]
    except OSError:
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _plaintext(records: memoryview, taken: int) -> int:
    """Octets of plaintext, at most, in those TLS records that lie wholly in the first ``taken`` octets."""
    offset = octets = 0
    while offset + 5 <= taken:
        length = int.from_bytes(records[offset + 3 : offset + 5], "big")
        offset += 5 + length
        if offset <= taken:
            octets += min(length, _RECORD_SIZE)
    return octets


def describe(error: BaseException) -> str:
    """An error in words, never empty."""
    return str(error) or type(error).__name__
