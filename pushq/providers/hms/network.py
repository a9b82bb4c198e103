"""What the errors of httpx mean for a request to Huawei."""

from __future__ import annotations

import socket
from typing import Final

import h2.errors
import h2.events
import httpcore
import httpx

from pushq.http2 import Code, Reason

#: What an answer may be long: a thousand tokens that are named, and room.
MAX_ANSWER_BYTES: Final = 8 << 20


def outcome(error: Exception, *, written: bool, stream_id: int = 0) -> tuple[Code, Reason]:
    """What is known about a request that ended with this error instead of an answer.

    Args:
        written: whether any of its bytes may have left.
        stream_id: its number, if the connection speaks HTTP/2.
    """
    causes = list(_chain(error))
    if not written:
        return Code.NOT_SENT, _why_not_connected(error, causes)
    for cause in causes:
        # RFC 9113 section 8.7: the one reset that promises that nothing was processed.
        event = cause.args[0] if cause.args and isinstance(cause, httpcore.RemoteProtocolError) else None
        if isinstance(event, h2.events.StreamReset):
            refused = event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM
            return (Code.REFUSED, Reason.REFUSED_STREAM) if refused else (Code.UNKNOWN, Reason.STREAM_RESET)
        # Section 6.8: what is above the last stream was not processed.
        if isinstance(event, h2.events.ConnectionTerminated):
            last = event.last_stream_id
            above = last is not None and stream_id > last
            return (Code.REFUSED if above else Code.UNKNOWN), Reason.GOAWAY
    if isinstance(error, httpx.TimeoutException):
        return Code.UNKNOWN, Reason.TIMEOUT
    if isinstance(error, httpx.DecodingError | httpx.LocalProtocolError):
        return Code.UNKNOWN, Reason.MALFORMED_ANSWER
    return Code.UNKNOWN, Reason.CONNECTION_LOST


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what it came from; bounded, for a chain may be a ring."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and len(found) < 10:
        found.append(current)
        current = current.__cause__ or current.__context__
    return found


def _why_not_connected(error: Exception, causes: list[BaseException]) -> Reason:
    import ssl  # noqa: PLC0415 - as above

    if isinstance(error, httpx.ProxyError):
        status = str(error)[:3]
        return {"407": Reason.PROXY_AUTH, "403": Reason.PROXY_FORBIDDEN, "502": Reason.PROXY_BAD_GATEWAY}.get(
            status, Reason.PROXY_REFUSED
        )
    if isinstance(error, httpx.TimeoutException):
        return Reason.CONNECT_TIMEOUT
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Reason.TLS_VERIFY_FAILED
        if isinstance(cause, ssl.SSLError):
            return Reason.TLS_FAILED
        if isinstance(cause, socket.gaierror):
            return Reason.DNS
        if isinstance(cause, ConnectionRefusedError):
            return Reason.CONNECT_REFUSED
    return Reason.CONNECT_FAILED
