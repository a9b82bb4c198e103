"""HTTP/1.1 for the ports that speak it: OAuth, the control API, and FCM clients without HTTP/2. Framing by h11."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import gevent
import h11

from pushq.mock.channel import Channel
from pushq.mock.endpoint import Endpoint
from pushq.mock.exchange import MAX_BODY_BYTES, Cut, Headers, Request

# Fault tables come through the control API and may be longer than a push.
MAX_CONTROL_BODY_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Reply:
    """``end`` says what happens instead of an answer; ``parts`` is written piece by piece, chunked when ``length`` is None."""

    status: int = 200
    headers: Headers = ()
    parts: Iterable[bytes] = ()
    length: int | None = None
    end: Literal["stall", "close", "cut"] | None = None


def serve_http1(channel: Channel, handle: Callable[[Request], Reply], max_body: int = MAX_BODY_BYTES) -> None:
    """One connection until either side ends it. Raises ``OSError`` when the client leaves in the middle of an answer."""
    wire = h11.Connection(h11.SERVER)
    while True:
        try:
            request = _read_request(wire, channel, max_body)
        except h11.RemoteProtocolError as error:
            if wire.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                _write(wire, channel, Reply(error.error_status_hint or 400, length=0))
            return
        if request is None:
            return
        reply = handle(request)
        if reply.end == "stall":
            # Until the client gives up.
            while channel.receive():
                pass
            return
        if reply.end == "cut":
            channel.cut()
            return
        if reply.end == "close":
            return
        _write(wire, channel, reply)
        if wire.our_state is not h11.DONE:
            return
        try:
            wire.start_next_cycle()
        except h11.LocalProtocolError:
            return


def endpoint_handler(endpoint: Endpoint) -> Callable[[Request], Reply]:
    """Requests of one connection to a provider, decided by the same rules as over HTTP/2."""
    session = endpoint.rules.open_session()

    def handle(request: Request) -> Reply:
        verdict = endpoint.decide(request, session, time.time())
        gevent.sleep(endpoint.latency.draw(random.random()) + verdict.delay_s)
        answer = verdict.answer
        if answer is None:
            if verdict.effect is None:
                return Reply(end="stall")
            return Reply(end="cut" if isinstance(verdict.effect, Cut) else "close")
        return Reply(answer.status, answer.headers, (answer.body,), len(answer.body))

    return handle


def _read_request(wire: h11.Connection, channel: Channel, max_body: int) -> Request | None:
    """The next complete request, or None when the client is gone."""
    head: h11.Request | None = None
    body, size = bytearray(), 0
    while True:
        event = wire.next_event()
        if event is h11.NEED_DATA:
            if wire.they_are_waiting_for_100_continue:
                channel.send(wire.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            wire.receive_data(channel.receive())
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            size += len(event.data)
            body += event.data[: max(0, max_body - len(body))]
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers)
            return Request(head.method.decode(), head.target.decode("latin-1"), headers, bytes(body), size)
        else:
            return None


def _write(wire: h11.Connection, channel: Channel, reply: Reply) -> None:
    framing = (
        ("transfer-encoding", "chunked") if reply.length is None else ("content-length", str(reply.length))
    )
    head = h11.Response(status_code=reply.status, headers=[*reply.headers, framing])
    out = [wire.send(head) or b""]
    for part in reply.parts:
        out.append(wire.send(h11.Data(part)) or b"")
        if reply.length is None:
            channel.send(b"".join(out))
            out.clear()
    out.append(wire.send(h11.EndOfMessage()) or b"")
    channel.send(b"".join(out))
