"""An HTTP proxy that leads to the mock, for senders whose endpoints cannot be set: they connect to the providers' own names.

It knows CONNECT (RFC 9110 section 9.3.6) to those names and nothing else: whatever is not mocked is refused, so that no test sends
anything out into the world.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Final

import gevent
from gevent import socket

from pushq.mock.channel import Channel, PlainChannel
from pushq.mock.names import PROVIDERS

#: 2197 is APNs' other port; channels are managed on 2195 and 2196.
PORTS: Final = frozenset({443, 2195, 2196, 2197})
MAX_HEAD: Final = 16_384
_CONNECT: Final = re.compile(rb"CONNECT ([^\s:]+):([0-9]{1,5}) HTTP/1\.[01]\r\n")


class Gateway:
    """Leads to the mock's ports.

    Args:
        ports: where what is behind the names listens on loopback.
    """

    def __init__(self, ports: Mapping[str, int]) -> None:
        self._ports = ports

    def serve(self, client: Channel) -> None:
        """Answer one CONNECT and carry octets both ways until either side ends."""
        assert isinstance(client, PlainChannel)
        head = b""
        while b"\r\n\r\n" not in head:
            data = client.receive()
            if not data or len(head) > MAX_HEAD:
                return
            head += data
        head, _, early = head.partition(b"\r\n\r\n")
        port = self._port(head + b"\r\n")
        if port is None:
            client.send(
                b"HTTP/1.1 403 Not a mocked provider\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            return
        provider = PlainChannel(socket.create_connection(("127.0.0.1", port), timeout=5))
        try:
            client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            if early:
                provider.send(early)
            back = gevent.spawn(_carry, provider, client)
            _carry(client, provider)
            back.join()
        finally:
            provider.close()

    def _port(self, head: bytes) -> int | None:
        asked = _CONNECT.match(head)
        if asked is None or int(asked[2]) not in PORTS:
            return None
        name = PROVIDERS.get(asked[1].decode("latin-1").lower())
        return None if name is None else self._ports[name]


def _carry(source: PlainChannel, sink: PlainChannel) -> None:
    # The end of one direction is passed on; the peer then ends the other.
    with contextlib.suppress(OSError):
        while data := source.receive():
            sink.send(data)
    sink.end_sending()
