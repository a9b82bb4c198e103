"""TLS connections over gevent sockets.

The TLS engine is an ``SSLObject`` between two memory buffers, and the socket beneath it is read 256 KB at a time: one
system call then serves hundreds of answers, where an ``SSLSocket`` makes one or two per TLS record of 16 KB. Writing is the same
the other way round.
"""

from __future__ import annotations

import contextlib
import socket as constants
import ssl
from collections.abc import Callable

import gevent
from gevent import socket

from pushq.errors import SettingsError
from pushq.http2.errors import ConnectFailed, ConnectionLost
from pushq.http2.reasons import Reason
from pushq.http2.settings import Origin

_READ_SIZE = 256 * 1024
#: Plaintext of a TLS record, at most (RFC 8446 section 5.1).
_RECORD_SIZE = 16 * 1024
#: Encrypted at a time: what a stalled peer makes us hold beside the plaintext.
_WRITE_SIZE = 256 * 1024


_NO_RECORDS = memoryview(b"")


class Channel:
    """A connected, verified TLS stream. One greenlet may read while another writes."""

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
        self._buffer = bytearray(_READ_SIZE)
        self._view = memoryview(self._buffer)
        self._ended = False
        self._sending = False
        self._written = 0  # plaintext of the current send whose records the system has taken
        self._records = _NO_RECORDS  # those that it is taking
        self._taken = 0

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
            if self._ended:
                return b""
            try:
                size = self._sock.recv_into(self._buffer)
            except OSError as error:
                raise ConnectionLost(Reason.CONNECTION_LOST, _describe(error)) from error
            if size == 0:
                self._ended = True
            else:
                self._incoming.write(self._view[:size])

    def _decrypt(self) -> list[bytes]:
        parts: list[bytes] = []
        tls, incoming = self._tls, self._incoming
        # Asking only while something is there saves an exception per call.
        while incoming.pending or tls.pending():
            try:
                part = tls.read(_RECORD_SIZE)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                self._ended = True
                break
            except ssl.SSLError as error:
                raise ConnectionLost(Reason.TLS_FAILED, _describe(error)) from error
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
            raise ConnectionLost(Reason.CONNECTION_LOST, _describe(error)) from error
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
                self._sock.send(self._outgoing.read(), 0, 0.0)
        self._sock.close()


class Dialer:
    """Makes connections to one origin: a fresh DNS look-up for each, always verified, ALPN ``h2``, TLS session reuse."""

    def __init__(self, origin: Origin) -> None:
        """Raises:
        SettingsError: a certificate or key file cannot be used.
        """
        self._origin = origin
        self._context = _context(origin)
        self._session: ssl.SSLSession | None = None

    def connect(self, timeout_s: float) -> Channel:
        """A connected channel, after the TLS handshake.

        Raises:
            ConnectFailed: with the reason; also after ``timeout_s``.
        """
        deadline = gevent.Timeout(timeout_s)
        deadline.start()
        try:
            return self._handshake(self._open_socket())
        except gevent.Timeout as expired:
            if expired is not deadline:
                raise
            raise ConnectFailed(
                Reason.CONNECT_TIMEOUT, f"{self._where} not connected in {timeout_s:g} s"
            ) from None
        finally:
            deadline.close()

    @property
    def _where(self) -> str:
        return f"{self._origin.host}:{self._origin.port}"

    def _open_socket(self) -> socket.socket:
        """The first address that accepts. The place where a proxy would come in."""
        try:
            addresses = socket.getaddrinfo(
                self._origin.host, self._origin.port, 0, constants.SOCK_STREAM, constants.IPPROTO_TCP
            )
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot even be asked for
            raise ConnectFailed(Reason.DNS, f"{self._origin.host}: {_describe(error)}") from error
        failure: OSError | None = None
        for family, kind, protocol, _, address in addresses:
            sock = socket.socket(family, kind, protocol)
            try:
                sock.connect(address)
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:  # the time-out or a kill; the socket must not leak
                sock.close()
                raise
            else:
                sock.setsockopt(constants.IPPROTO_TCP, constants.TCP_NODELAY, 1)
                sock.setsockopt(constants.SOL_SOCKET, constants.SO_KEEPALIVE, 1)
                return sock
        if isinstance(failure, ConnectionRefusedError):
            raise ConnectFailed(Reason.CONNECT_REFUSED, f"{self._where} refused the connection") from failure
        detail = _describe(failure) if failure is not None else "no address"
        raise ConnectFailed(Reason.CONNECT_FAILED, f"{self._where}: {detail}") from failure

    def _handshake(self, sock: socket.socket) -> Channel:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(
            incoming,
            outgoing,
            server_hostname=self._origin.server_name or self._origin.host,
            session=self._session,
        )
        try:
            while True:
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    data = sock.recv(_READ_SIZE)
                    if not data:
                        raise ConnectFailed(
                            Reason.TLS_FAILED, f"{self._where} hung up in the handshake"
                        ) from None
                    incoming.write(data)
                else:
                    break
            sock.sendall(outgoing.read())
            if tls.selected_alpn_protocol() != "h2":
                raise ConnectFailed(Reason.NO_ALPN_H2, f"{self._where} does not offer HTTP/2 (ALPN h2)")
        except ssl.SSLCertVerificationError as error:
            self._reject(sock, outgoing)
            raise ConnectFailed(Reason.TLS_VERIFY_FAILED, f"{self._where}: {error.verify_message}") from error
        except OSError as error:  # ssl.SSLError is one too
            self._reject(sock, outgoing)
            raise ConnectFailed(Reason.TLS_FAILED, f"{self._where}: {_describe(error)}") from error
        except BaseException:
            sock.close()
            raise
        return Channel(sock, tls, incoming, outgoing, self._remember)

    def _reject(self, sock: socket.socket, outgoing: ssl.MemoryBIO) -> None:
        """Send the TLS alert that explains our refusal, if that is possible without waiting, and close."""
        self._session = None
        with contextlib.suppress(OSError):
            sock.send(outgoing.read(), 0, 0.0)
        sock.close()

    def _remember(self, session: ssl.SSLSession | None) -> None:
        if session is not None:
            self._session = session


def _plaintext(records: memoryview, taken: int) -> int:
    """Octets of plaintext, at most, in those TLS records that lie wholly in the first ``taken`` octets."""
    offset = octets = 0
    while offset + 5 <= taken:
        length = int.from_bytes(records[offset + 3 : offset + 5], "big")
        offset += 5 + length
        if offset <= taken:
            octets += min(length, _RECORD_SIZE)
    return octets


def _context(origin: Origin) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(origin.ca_file) if origin.ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"ca_file {origin.ca_file}: {_describe(error)}; expected a PEM file of certificates"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2"])
    if origin.client_cert is not None:
        try:
            context.load_cert_chain(
                origin.client_cert, origin.client_key, password=lambda: ""
            )  # never a prompt on the terminal
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"client_cert {origin.client_cert}, client_key {origin.client_key}: {_describe(error)}; "
                "expected a PEM certificate and its unencrypted key"
            ) from error
    return context


def _describe(error: BaseException) -> str:
    return str(error) or type(error).__name__
