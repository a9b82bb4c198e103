"""python-hyper h2 by itself: one thread, blocking TLS sockets, 100 requests in flight, written together whenever half of them are answered.

Validation and normalisation of our own headers are off, as its documentation allows a caller who knows them to be right.
"""

from __future__ import annotations

import selectors
import socket
import ssl
from itertools import islice

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)

from benchmarks.peers.load import HEADERS, PATH_PREFIX, Clock, Load, main

IN_FLIGHT = 100
TIMEOUT_S = 60.0
READ_SIZE = 65_536


class Client:
    """One connection and its share of the tokens."""

    def __init__(self, load: Load, context: ssl.SSLContext, tokens: list[bytes]) -> None:
        self.statuses: dict[int, bytes] = {}
        self.ok = self.ended = 0
        self._tokens = iter(tokens)
        self._left = len(tokens)
        self._body = load.body
        self._head = [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", f"{load.host}:{load.port}".encode()),
        ]
        self._tail = [(name.encode(), value.encode()) for name, value in HEADERS]
        self._in_flight = 0
        self._settled = False
        raw = socket.create_connection((load.host, load.port), timeout=TIMEOUT_S)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = context.wrap_socket(raw, server_hostname=load.host)
        self._h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
            )
        )
        self._h2.initiate_connection()
        self._flush()

    @property
    def done(self) -> bool:
        return not self._left and not self._in_flight

    def warm(self) -> None:
        """Wait for the peer's SETTINGS and one answer."""
        while not self._settled:
            self.receive()
        self._request(b"00")
        self._flush()
        while self._in_flight:
            self.receive()
        self.ok = self.ended = 0

    def fill(self) -> None:
        """Write new requests when half of the streams are free: fewer and larger writes."""
        if self._left and self._in_flight <= IN_FLIGHT // 2:
            for token in islice(self._tokens, IN_FLIGHT - self._in_flight):
                self._request(token)
                self._left -= 1
            self._flush()

    def receive(self) -> None:
        data = self.sock.recv(READ_SIZE)
        while self.sock.pending():
            data += self.sock.recv(READ_SIZE)
        if not data:
            raise SystemExit("the server closed the connection")
        for event in self._h2.receive_data(data):
            if isinstance(event, ResponseReceived):
                self.statuses[event.stream_id] = event.headers[0][1]
            elif isinstance(event, DataReceived):
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                self.ok += self.statuses.pop(event.stream_id) == b"200"
                self.ended += 1
                self._in_flight -= 1
            elif isinstance(event, RemoteSettingsChanged):
                self._settled = True
            elif isinstance(event, StreamReset | ConnectionTerminated):
                raise SystemExit(f"the server ended a stream or the connection: {event}")
        self._flush()

    def _request(self, token: bytes) -> None:
        stream_id = self._h2.get_next_available_stream_id()
        path = (b":path", PATH_PREFIX.encode() + token)
        self._h2.send_headers(stream_id, [*self._head, path, *self._tail])
        self._h2.send_data(stream_id, self._body, end_stream=True)
        self._in_flight += 1

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self.sock.sendall(data)


def run(load: Load) -> dict[str, float]:
    context = ssl.create_default_context(cafile=str(load.cafile))
    context.set_alpn_protocols(["h2"])
    tokens = (token.encode() for token in load.tokens())
    clients = [Client(load, context, list(islice(tokens, share))) for share in load.shares()]
    selector = selectors.DefaultSelector()
    for client in clients:
        client.warm()
        selector.register(client.sock, selectors.EVENT_READ, client)
    clock = Clock()
    for client in clients:
        client.fill()
    while not all(client.done for client in clients):
        ready = selector.select(TIMEOUT_S)
        if not ready:
            raise SystemExit(f"no answer in {TIMEOUT_S:g} s")
        for key, _ in ready:
            key.data.receive()
            key.data.fill()
    report = clock.report(sum(each.ended for each in clients), sum(each.ok for each in clients))
    for client in clients:
        client.sock.close()
    return report


if __name__ == "__main__":
    main(run, __doc__)
