"""Requests for a measurement: made one burst at a time, every token different, and cheap to make."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from pushq.http2 import Burst, HeaderTemplate

#: As many as a worker's batch has (PUSHQ_BATCH_SIZE).
BURST_REQUESTS = 2500
#: What an APNs worker sends; the credential has the length of a real one.
DEFAULT_HEADERS = (
    ("authorization", "bearer " + "x" * 180),
    ("apns-topic", "com.example.app"),
    ("apns-push-type", "alert"),
    ("apns-priority", "10"),
    ("apns-expiration", "0"),
)
_BODY_HEAD = b'{"aps":{"alert":{"title":"Sale","body":"'
_BODY_TAIL = b'"}}}'
#: What differs between distinct bodies: 16 digits that belong to the burst and 8 that count.
_BODY_DIGITS = 24
MIN_BODY_BYTES = len(_BODY_HEAD) + _BODY_DIGITS + len(_BODY_TAIL)

_TAILS = [b"%08x" % number for number in range(BURST_REQUESTS)]


def shared_body(size: int) -> bytes:
    """A JSON object of ``size`` octets, at least MIN_BODY_BYTES."""
    return _BODY_HEAD + b"." * (size - len(_BODY_HEAD) - len(_BODY_TAIL)) + _BODY_TAIL


def bursts(
    template: HeaderTemplate, total: int, *, series: str, body_bytes: int, distinct_bodies: bool
) -> Iterator[Burst]:
    """``total`` requests in bursts of BURST_REQUESTS, made when they are asked for. Another ``series`` has other tokens.

    A token is 64 hex digits: 56 that belong to its burst and 8 that count. Where ``template`` has a varying header, its value has
    the shape of an UUID and differs per request as well.
    """
    body = shared_body(body_bytes)
    for number, first in enumerate(range(0, total, BURST_REQUESTS)):
        count = min(BURST_REQUESTS, total - first)
        tails = _TAILS if count == BURST_REQUESTS else _TAILS[:count]
        digits = hashlib.sha256(f"{series} {number}".encode()).hexdigest().encode()
        values = None
        if template.varying:
            stem = b"%b-%b-4%b-8%b-%b" % (
                digits[:8],
                digits[8:12],
                digits[12:15],
                digits[15:18],
                digits[18:22],
            )
            values = [(stem + tail,) for tail in tails]
        bodies: bytes | list[bytes] = body
        if distinct_bodies:
            front = body[: body_bytes - len(_BODY_TAIL) - _BODY_DIGITS] + digits[:16]
            bodies = [front + tail + _BODY_TAIL for tail in tails]
        yield Burst(
            template, count, targets=list(map(digits[:56].__add__, tails)), bodies=bodies, values=values
        )
