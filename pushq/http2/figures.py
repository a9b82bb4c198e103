"""What a pool tells about itself: events to an observer as they happen, figures to whoever asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from pushq.http2.reasons import Reason


class PoolObserver(Protocol):
    """Hears what a pool counts. ``pool`` is the pool's name, the other labels are closed sets.

    Everything that is a state and not an event (connections, streams, queue) is in :meth:`Pool.stats` and :meth:`Pool.connections`,
    to be read when somebody looks. What became of requests is counted by who reads the bursts.
    """

    def connection_opened(self, pool: str, seconds: float) -> None:
        """Name, proxy, TCP, TLS and SETTINGS took so long together."""

    def connection_ended(self, pool: str, reason: Reason) -> None:
        """For whatever reason, ours and the orderly ones included."""

    def connect_failed(self, pool: str, reason: Reason) -> None: ...
    def answered(self, pool: str, waits: Sequence[tuple[float, int]]) -> None:
        """Seconds from writing requests to their answers, 10 ms too many at most, and how many requests each; told a moment later."""

    def goaway_received(self, pool: str, code: int) -> None: ...
    def exhausted(self, pool: str) -> None:
        """Work waits, all connections are full, and their number is at its maximum: the metric ``apns_connection_pool_exhausted``."""


class NullObserver:
    """Nobody listens."""

    def connection_opened(self, pool: str, seconds: float) -> None: ...
    def connection_ended(self, pool: str, reason: Reason) -> None: ...
    def connect_failed(self, pool: str, reason: Reason) -> None: ...
    def answered(self, pool: str, waits: Sequence[tuple[float, int]]) -> None: ...
    def goaway_received(self, pool: str, code: int) -> None: ...
    def exhausted(self, pool: str) -> None: ...


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A moment of a pool.

    Attributes:
        connections, draining: that take requests; that only finish theirs.
        streams, stream_limit: in use; allowed now, over the connections that take requests.
        queued: requests that wait.
        opened, failed, lost, goaways: counts since the start. ``failed`` are attempts to connect, ``lost`` ends that we did not
            decide and that were not orderly.
        idle_closed: connections that the peer closed when they had been idle, since the start.
        exhausted: how often the pool would have needed more connections than it may have.
        latency_s: an answer takes about so long; None before the first.
        last_error: the latest failure in words; "" if there was none.
    """

    connections: int
    draining: int
    streams: int
    stream_limit: int
    queued: int
    opened: int
    failed: int
    lost: int
    goaways: int
    idle_closed: int
    exhausted: int
    latency_s: float | None
    last_error: str


class ConnectionState(StrEnum):
    """OPENING: no SETTINGS yet. WARMING: waits for its first answer. BLOCKED: no stream or window for the next request."""

    OPENING = "opening"
    WARMING = "warming"
    OPEN = "open"
    BLOCKED = "blocked"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class ConnectionStats:
    """A moment of one connection.

    Attributes:
        number: counts the pool's connections, from 1.
        peer: the address it is connected to.
        age_s, idle_s: since it was opened; since its last request or answer.
        streams, stream_limit: in use; allowed now (0 when it takes no requests).
        requests, answered: since it was opened: written; ended with an answer.
        window: octets of DATA that the peer takes on this connection now.
        drain_reason: why it takes no requests; None if it does.
    """

    number: int
    peer: str
    state: ConnectionState
    age_s: float
    idle_s: float
    streams: int
    stream_limit: int
    requests: int
    answered: int
    window: int
    drain_reason: Reason | None
