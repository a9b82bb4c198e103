"""A pool's connections, and what the pool keeps about each."""

from __future__ import annotations

from dataclasses import dataclass

from pushq.http2.connection import Connection
from pushq.http2.figures import ConnectionState, ConnectionStats


@dataclass(slots=True)
class Member:
    """What the pool knows of one of its connections.

    Attributes:
        used_at: when it last took requests; when it was opened if it never did.
        said_goodbye: the peer announced the end in good order, and nothing was in flight.
        orderly: the peer announced the end in good order.
        left: its end was noticed, and what it was worth has been counted.
    """

    connection: Connection
    number: int
    used_at: float
    said_goodbye: bool = False
    orderly: bool = False
    left: bool = False

    @property
    def idle_since(self) -> float:
        return max(self.used_at, self.connection.answered_at)


def row(member: Member, now: float) -> ConnectionStats:
    """Its figures."""
    connection = member.connection
    core = connection.core
    if core.draining:
        state = ConnectionState.DRAINING
    elif not core.peer.received:
        state = ConnectionState.OPENING
    elif core.warming:
        state = ConnectionState.WARMING
    else:
        state = ConnectionState.BLOCKED if connection.full else ConnectionState.OPEN
    return ConnectionStats(
        number=member.number,
        peer=connection.peer,
        state=state,
        age_s=now - connection.opened_at,
        idle_s=now - member.idle_since,
        streams=core.in_flight,
        stream_limit=core.stream_limit,
        requests=(core.next_stream_id - 1) // 2,
        answered=core.answered,
        window=core.window,
        drain_reason=connection.drain_reason,
    )
