"""Requests for a measurement: made one burst at a time, every token different, and cheap to make."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from pushq.bench.message import bodies_of, shared_body
from pushq.http2 import Burst, HeaderTemplate

#: As many as a worker's batch has (PUSHQ_BATCH_SIZE).
BURST_REQUESTS = 2500
_TAILS = [b"%08x" % number for number in range(BURST_REQUESTS)]


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
            bodies = bodies_of(body_bytes, digits, tails)
        yield Burst(
            template, count, targets=list(map(digits[:56].__add__, tails)), bodies=bodies, values=values
        )


def some_of(burst: Burst, indices: Sequence[int]) -> Burst:
    """The requests of ``burst`` with these indices, to be sent again."""
    targets, values, bodies = burst.targets, burst.values, burst.bodies
    return Burst(
        burst.template,
        len(indices),
        targets=None if targets is None else [targets[index] for index in indices],
        bodies=bodies if isinstance(bodies, bytes) else [bodies[index] for index in indices],
        values=None if values is None else [values[index] for index in indices],
    )
