"""A small HTTP/2 server over TLS, in real threads with blocking sockets, that does what a test tells it to.

It is slow and strict: h2 checks everything that the client sends. A test gives it a function that is called for every complete request.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hyperframe.frame import GoAwayFrame

from pushq.http2.settings import Origin

Settings = h2.settings.SettingCodes


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._builder(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.ca_file = folder / f"{name.replace(' ', '-')}.pem"
        signed = certificate.sign(self._key, hashes.SHA256())
        self.ca_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )

    def issue(self, name: str, address: str = "127.0.0.1") -> Path:
        """A certificate for ``name`` and ``address``, with its key, in one PEM file."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))]
        certificate = (
            self._builder(subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        path = self._folder / f"{name}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path


@dataclass
class Request:
    """A request that the server has received completely."""

    connection: ServerConnection
    stream_id: int
    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)

    @property
    def token(self) -> str:
        return self.headers[":path"].rpartition("/")[2]

    def answer(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        self.connection.answer(self.stream_id, status, body, headers)


class ServerConnection:
    """One accepted connection, on a thread of its own.

    Attributes:
        deaf: once set, it reads nothing any more, and stays open.
        client_header_table_size: what the client announced.
    """

    def __init__(self, server: H2Server, sock: ssl.SSLSocket, number: int) -> None:
        self.number = number
        self.session_reused = bool(sock.session_reused)
        self.peer_certificate = sock.getpeercert()
        self.client_header_table_size: int | None = None
        self.deaf = False
        self._server = server
        self._sock = sock
        self._open: dict[int, Request] = {}
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self._h2.local_settings = h2.settings.Settings(client=False, initial_values=server.settings)

    def run(self) -> None:
        self._h2.initiate_connection()
        if self._server.connection_window:
            self._h2.increment_flow_control_window(self._server.connection_window)
        self.flush()
        while not self._server.stopping.is_set():
            try:
                data = self._sock.recv(65_536)
            except TimeoutError:
                if self._server.on_silence is not None:
                    self._server.on_silence(self)
                continue
            if not data:
                return
            for event in self._h2.receive_data(data):
                self._on(event)
            self.flush()
            if self.deaf:
                self._server.stopping.wait()
                return

    def _on(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            headers = {str(name): str(value) for name, value in event.headers}
            self._open[event.stream_id] = Request(self, event.stream_id, headers)
        elif isinstance(event, h2.events.DataReceived):
            self._open[event.stream_id].body += event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            request = self._open.pop(event.stream_id)
            with self._server.lock:
                self._server.requests.append(request)
            self._server.behave(request)
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            changed = event.changed_settings.get(Settings.HEADER_TABLE_SIZE)
            if changed is not None:
                self.client_header_table_size = changed.new_value
        elif isinstance(event, h2.events.StreamReset):
            with self._server.lock:
                self._server.resets += 1

    def answer(self, stream_id: int, status: int, body: bytes, headers: dict[str, str]) -> None:
        fields = [
            (":status", str(status)),
            *((name.replace("_", "-"), value) for name, value in headers.items()),
        ]
        # A stream that the client has given up cannot be answered any more.
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self._h2.send_headers(stream_id, fields, end_stream=not body)
            if body:
                self._h2.send_data(stream_id, body, end_stream=True)

    def reset(self, stream_id: int, code: int) -> None:
        self._h2.reset_stream(stream_id, code)

    def update_settings(self, settings: dict[Settings | int, int]) -> None:
        self._h2.update_settings(settings)

    def goaway(self, last_stream_id: int, code: int = 0, debug: bytes = b"") -> None:
        """Past h2, which would refuse to answer anything afterwards."""
        self.flush()
        frame = GoAwayFrame(0, last_stream_id=last_stream_id, error_code=code, additional_data=debug)
        self._sock.sendall(frame.serialize())

    def flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self._sock.sendall(data)

    def cut(self) -> None:
        """Close without a word."""
        self._sock.shutdown(socket.SHUT_RDWR)


def accept_all(request: Request) -> None:
    request.answer()


class H2Server:
    """Listens on 127.0.0.1, or another ``host``. Use it as a context manager.

    ``on_silence`` is called on a connection's thread whenever nothing came for a tenth of a second.

    Attributes:
        requests: every complete request, in order of arrival.
        connections: every connection that finished its handshake.
        faults: exceptions in connection threads that were neither expected by the test nor the client's hanging up.
    """

    def __init__(
        self,
        authority: Authority,
        behave: Callable[[Request], None] = accept_all,
        *,
        settings: dict[Settings, int] | None = None,
        alpn: str | None = "h2",
        client_ca: Path | None = None,
        connection_window: int = 0,
        silent: bool = False,
        on_silence: Callable[[ServerConnection], None] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.behave = behave
        self.settings = {Settings.MAX_CONCURRENT_STREAMS: 1000, **(settings or {})}
        self.connection_window = connection_window
        self.on_silence = on_silence
        self.requests: list[Request] = []
        self.connections: list[ServerConnection] = []
        self.resets = 0
        self.faults: list[Exception] = []
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self._silent = silent
        self._authority = authority
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(authority.issue("localhost"))
        if alpn is not None:
            self._context.set_alpn_protocols([alpn])
        if client_ca is not None:
            self._context.load_verify_locations(client_ca)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server((host, port))
        self._listener.settimeout(0.1)
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []

    @property
    def origin(self) -> Origin:
        return Origin("localhost", self.port, self._authority.ca_file)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "a server thread hangs"
        self._listener.close()
        assert not self.faults, self.faults

    def tokens(self) -> list[str]:
        with self.lock:
            return [request.token for request in self.requests]

    def _start(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                raw, _ = self._listener.accept()
            except TimeoutError:
                continue
            self._start(lambda raw=raw: self._serve(raw))  # type: ignore[misc]

    def _serve(self, raw: socket.socket) -> None:
        raw.settimeout(5)
        try:
            with self._context.wrap_socket(raw, server_side=True) as sock:
                sock.settimeout(0.1)
                if self._silent:
                    self.stopping.wait(10)
                    return
                with self.lock:
                    connection = ServerConnection(self, sock, len(self.connections))
                    self.connections.append(connection)
                connection.run()
        except OSError:
            pass  # the client hung up, or refused our certificate
        except Exception as error:  # noqa: BLE001 - shown by the test, at the end
            self.faults.append(error)
        finally:
            raw.close()
