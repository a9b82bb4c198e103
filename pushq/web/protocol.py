"""HTTP/1.1 on a socket: uvicorn's, with a time by which a request's head has to be there, and refusals as problem details."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from pushq.web.problems import MEDIA_TYPE

#: Seconds from the first byte (of a connection: from its making) to the end of the headers.
HEAD_S: Final = 10.0


class Protocol(H11Protocol):
    """One connection."""

    _head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._head_due is None and self._idle():
            self._await_head()
        super().data_received(data)
        if not self._idle():
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        body = orjson.dumps(
            {
                "type": "urn:pushq:problem:invalid-request",
                "title": "A field of the request is wrong",
                "status": 400,
                "detail": "This is no valid HTTP request",
            }
        )
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"connection", b"close"),
        ]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            events: tuple[Any, ...] = (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            )
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        # Else an answer is on its way already, which cannot be finished over a broken request.
        self.transport.close()

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
