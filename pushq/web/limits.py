"""What a request may cost before anybody has looked at it: headers, bodies and time. Pure ASGI, outside of all routes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection
from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pushq import metrics
from pushq.settings import Settings
from pushq.web.problems import RETRY_AFTER_S, Problem, problem

#: Bytes of a body, but for those that are read as a stream. 10,000 user ids take a fifth of it.
MOST_BODY: Final = 1_048_576
#: Bodies that are read as they come, however long: memory and lines are bounded where they are read.
STREAMS: Final = re.compile(r"/v1/(?:devices/import|apps/[^/]+/segments/[^/]+/members)").fullmatch
MOST_HEADERS: Final = 100
MOST_HEADER_BYTES: Final = 16_384
MOST_TARGET: Final = 8_192
#: Requests in hand, waiting ones and streams included.
MOST_REQUESTS: Final = 1_000
#: Seconds that a body may take to begin and at any one place, and the least speed as a whole after that.
BODY_S: Final = 30.0
BODY_BYTES_S: Final = 1_024
#: Seconds in which a client has to take a part of an answer.
SEND_S: Final = 60.0
#: Of a body that nobody wants so much is read, and for so long, that the client gets to reading the answer.
DRAIN_BYTES: Final = 4 * MOST_BODY
DRAIN_S: Final = 3.0


def hosts_of(settings: Settings) -> frozenset[str]:
    """Names that ``Host`` may have; none means any."""
    return frozenset(name.strip().lower() for name in settings.web_allowed_hosts.split(",") if name.strip())


class SlowReader(Exception):
    """A client does not take what it asked for; its connection ends."""


class Limits:
    """Around everything else.

    Args:
        hosts: names in ``Host`` that are answered; none means all.
        clock: seconds, of the running loop by default.
    """

    def __init__(
        self, app: ASGIApp, hosts: Collection[str] = (), *, clock: Callable[[], float] | None = None
    ) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._in_hand = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = Body(scope, receive, self._clock)
        refusal = self._refusal(scope)
        if refusal is not None:
            refusal.headers["Connection"] = "close"
            metrics.web_requests.labels("none", refusal.status_code).inc()
            await body.drain()
            await refusal(scope, body.receive, send)
            return

        began = self._clock()

        async def checked(message: Message) -> None:
            if message["type"] == "http.response.start":
                operation = _operation(scope)
                metrics.web_requests.labels(operation, message["status"]).inc()
                metrics.web_request_latency.observe((operation,), self._clock() - began)
            if message["type"] == "http.response.start" and not body.ended:
                # What is left of it would be taken for the next request by whoever counts differently.
                await body.drain()
                if not body.ended:
                    message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            try:
                async with asyncio.timeout(SEND_S):
                    await send(message)
            except TimeoutError:
                raise SlowReader from None

        self._in_hand += 1
        try:
            await self._app(scope, body.receive, checked)
        finally:
            self._in_hand -= 1

    def _refusal(self, scope: Scope) -> Response | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if self._in_hand >= MOST_REQUESTS:
            return problem(
                503,
                "busy",
                f"{MOST_REQUESTS:,} requests are in hand; ask again",
                {"Retry-After": str(RETRY_AFTER_S)},
            )
        size = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > MOST_HEADERS or size > MOST_HEADER_BYTES:
            return problem(
                431,
                "headers-too-large",
                f"{len(headers)} headers of {size:,} bytes; at most {MOST_HEADERS} of {MOST_HEADER_BYTES:,} bytes",
            )
        if len(scope["raw_path"]) + len(scope["query_string"]) > MOST_TARGET:
            return problem(414, "uri-too-long", f"at most {MOST_TARGET:,} bytes")
        hosts = sum(name == b"host" for name, _ in headers)
        if hosts > 1 or (not hosts and scope["http_version"] == "1.1"):
            # RFC 9112 section 3.2: whoever routes by one of two, or by none, routes differently.
            return _framing(f"Host {hosts} times", "it once")
        lengths = [value for name, value in headers if name == b"content-length"]
        if lengths and any(name == b"transfer-encoding" for name, _ in headers):
            # RFC 9112 section 6.3: two that disagree about where a request ends are how one is smuggled past a proxy.
            return _framing("Content-Length and Transfer-Encoding", "one of the two")
        if len(lengths) > 1:
            return _framing("Content-Length twice", "it once")
        if lengths and int(lengths[0]) > MOST_BODY and not STREAMS(scope["path"]):
            return _too_large(f"{int(lengths[0]):,} bytes")
        if self._hosts and _host(headers) not in self._hosts:
            return problem(421, "misdirected", "The header Host names a host that is not served here")
        return None


def _operation(scope: Scope) -> str:
    """What a request was for, from a closed set: the router has put the route there."""
    route = scope.get("route")
    if route is None:
        return "none"
    return getattr(route, "operation_id", None) or "console"


def _framing(found: str, expected: str) -> Response:
    return problem(
        400,
        "invalid-request",
        f"headers: found {found}; expected {expected}",
        field="headers",
        found=found,
        expected=expected,
    )


def _too_large(found: str) -> Response:
    return problem(413, "too-large", f"{found}; at most {MOST_BODY:,} bytes", limit=MOST_BODY)


def _host(headers: list[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == b"host":
            host = value.decode("latin-1").lower()
            return re.sub(r":\d+$", "", host)
    return ""


class Body:
    """The body of one request, as it comes: counted and timed."""

    def __init__(self, scope: Scope, receive: Receive, clock: Callable[[], float]) -> None:
        names = dict(scope["headers"])
        #: Whether all of it has been read; nothing is sent for what has none.
        self.ended = b"transfer-encoding" not in names and int(names.get(b"content-length", b"0")) == 0
        self._receive, self._clock = receive, clock
        self._stream = STREAMS(scope["path"]) is not None
        self._waits = names.get(b"expect", b"").lower() == b"100-continue"
        self._begun_at: float | None = None
        self._bytes = 0

    async def receive(self) -> Message:
        """The next part.

        Raises:
            Problem: it is too long (413), or too slow (408).
        """
        if self.ended:
            # Whoever asks now wants to know of the client's going away.
            return await self._receive()
        self._waits = False
        now = self._clock()
        self._begun_at = now if self._begun_at is None else self._begun_at
        allowed = BODY_S + self._bytes / BODY_BYTES_S - (now - self._begun_at)
        try:
            async with asyncio.timeout(min(BODY_S, allowed)):
                message = await self._receive()
        except TimeoutError:
            self._waits = True
            raise Problem(
                408,
                "slow-body",
                f"{self._bytes:,} bytes in {self._clock() - self._begun_at:.0f} s; expected at least {BODY_BYTES_S:,} a second",
                headers={"Connection": "close"},
            ) from None
        self._count(message)
        if not self._stream and self._bytes > MOST_BODY:
            raise Problem(
                413,
                "too-large",
                f"more than {MOST_BODY:,} bytes; at most so many",
                limit=MOST_BODY,
            )
        return message

    def _count(self, message: Message) -> None:
        self._bytes += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.ended = True

    def _whole(self) -> bool:
        return self.ended

    async def drain(self) -> None:
        """Read what is left, within bounds: a connection that is closed with unread bytes takes the answer with it."""
        if self.ended or self._waits:
            return
        upto = self._bytes + DRAIN_BYTES
        try:
            async with asyncio.timeout(DRAIN_S):
                while self._bytes < upto and not self._whole():
                    self._count(await self._receive())
        except TimeoutError:
            return
