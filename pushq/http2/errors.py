"""Errors of the HTTP/2 client. What a provider answers is never one of them: answers are values."""

from __future__ import annotations

from pushq.errors import PushqError
from pushq.http2.reasons import Reason


class Http2Error(PushqError):
    """Root of this package's errors."""


class PoolClosed(Http2Error):
    """The pool is closed, or was closed while the caller waited for room. Nothing of the burst was taken."""

    def __init__(self, pool: str) -> None:
        super().__init__(pool)
        self.pool = pool

    def __str__(self) -> str:
        return f"HTTP/2 pool {self.pool} is closed"


class PoolSaturated(Http2Error):
    """The queue of the pool had no room within the caller's time-out. Nothing of the burst was taken."""

    def __init__(self, pool: str, waited_s: float, queued: int) -> None:
        super().__init__(pool, waited_s, queued)
        self.pool = pool
        self.waited_s = waited_s
        self.queued = queued

    def __str__(self) -> str:
        return f"HTTP/2 pool {self.pool} had no room for {self.waited_s:g} s ({self.queued} requests wait)"


class BurstMisused(Http2Error):
    """A burst was waited for before it was submitted, or submitted twice."""


class ConnectFailed(Http2Error):
    """No usable connection could be made. ``reason`` is a :class:`Reason`, ``detail`` is for people."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class ConnectionLost(Http2Error):
    """The transport broke.

    Attributes:
        reason: a :class:`Reason`.
        detail: for people.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class PeerViolation(Http2Error):
    """The peer broke HTTP/2 so that the connection cannot go on (a connection error, RFC 9113 section 5.4.1).

    Attributes:
        code: the HTTP/2 error code that our GOAWAY carries.
        detail: what was wrong.
    """

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.detail} (HTTP/2 error {self.code})"
