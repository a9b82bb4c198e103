"""HTTP/1.1 on a socket: uvicorn's on llhttp, with bounds of time and size that it has not, and refusals as problem details.

llhttp is strict about what two servers could read differently (framing, line ends, spaces); what it takes beyond HTTP/1.1 with a plain
path is refused here.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pushq.web.problems import MEDIA_TYPE

#: Seconds from the first byte (of a connection: from its making) to the end of the headers.
HEAD_S: Final = 10.0
#: Bytes that are neither body nor understood yet: a request's head, but also what stands between and behind the chunks of a body.
MOST_HEAD: Final = 32_768
#: Seconds for which what comes behind the last answer is read and thrown away.
LINGER_S: Final = 2.0
_FRAMING: Final = (b"content-length", b"transfer-encoding")
_VERSIONS: Final = ("1.0", "1.1")


class Unserved(ValueError):
    """A request that is valid, and of a kind that is not served here."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    _head_due: asyncio.TimerHandle | None = None
    _in_head = True
    _progress = False
    _unread = 0  # bytes taken since something came of them
    _over = False  # nothing that comes is looked at any more
    _replaying = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        if self._head_due is None and self._idle():
            self._await_head()
        self._progress = False
        self._unset_keepalive_if_required()
        self._feed(data)
        if not self._idle():
            self._stop_waiting()
        self._unread = 0 if self._progress else self._unread + len(data)
        if self._unread > MOST_HEAD and not self._over:
            self.send_400_response("")

    def _feed(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                self._go_on_without_upgrade()
                rest = rest[upgrade.args[0] :]
                continue
            except httptools.HttpParserError:
                self.logger.warning("Invalid HTTP request received.")
                self.send_400_response("")
            return

    def _go_on_without_upgrade(self) -> None:
        """llhttp takes what follows a request with ``Upgrade`` for another protocol, its body too. No other is spoken here, and RFC 9110
        section 7.8 has such a request served as any; Java's client, for one, asks for h2c with every first request."""
        framing = b"".join(b"%b: %b\r\n" % pair for pair in self._framing())
        self.parser = httptools.HttpRequestParser(self)
        if framing:
            self._replaying = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
            self._replaying = False

    def _framing(self) -> list[tuple[bytes, bytes]]:
        return [pair for pair in self.headers if pair[0] in _FRAMING and pair != (b"content-length", b"0")]

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        if not self._replaying:
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._replaying:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Behind a body they are trailers: nobody has checked them, and whoever reads the headers would take them for some.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._replaying:
            return
        if self.url[:1] != b"/" or self.parser.get_http_version() not in _VERSIONS:
            raise Unserved
        self._in_head, self._progress = False, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and self._framing():
            return  # it only seems to be
        self._in_head = self._progress = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """The end of a connection on which nothing more can be understood."""
        self._over = True
        cycle: Any = self.cycle
        if self.pipeline and cycle.more_body:
            self.pipeline.popleft()  # the broken request itself, which nobody has begun with
            return
        if not self._idle() and not cycle.more_body:
            # All of the requests before it are there, and may have been acted upon: they have their own answers, which then are the last.
            return
        if self._idle() or not cycle.response_started:
            body = orjson.dumps(
                {
                    "type": "urn:pushq:problem:invalid-request",
                    "title": "A field of the request is wrong",
                    "status": 400,
                    "detail": "This is no valid HTTP request",
                }
            )
            head = (
                "HTTP/1.1 400 Bad Request\r\n"
                f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        # Else an answer is on its way already, which cannot be finished over a broken request.
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        self._end_slowly()

    def on_response_complete(self) -> None:
        last = self._over and not self.pipeline
        super().on_response_complete()
        if last:
            self._end_slowly()

    def _end_slowly(self) -> None:
        """Closed with unread bytes, the connection would take the answer with it (RFC 9112 section 9.6)."""
        if self.transport.is_closing() or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def _idle(self) -> bool:
        cycle: Any = self.cycle  # None before the first request, whatever its type says
        return cycle is None or cycle.response_complete

    def _await_head(self) -> None:
        self._head_due = self.loop.call_later(HEAD_S, self._head_late)

    def _stop_waiting(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _head_late(self) -> None:
        self._head_due = None
        if self._idle() and not self.transport.is_closing():
            self.transport.close()
