"""How many connections a pool needs: decisions on figures, without a clock or a socket."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from pushq.http2.settings import PoolSettings

#: Closed surplus connections are this share of ``idle_close_s`` apart, so that a pool shrinks slower than it grows.
_SHRINK_PACE = 0.1
#: What a sample of the latency still counts when the next one comes.
_KEPT = 0.7


class Need(Enum):
    """What a look at the pool says."""

    NOTHING = 0
    CONNECTION = 1
    MORE_THAN_ALLOWED = 2


@dataclass(frozen=True, slots=True)
class Load:
    """A moment of a pool.

    Attributes:
        taking: connections that take requests.
        draining: connections that only finish theirs.
        owed: connections that were in use when they began to drain or broke, and have not been replaced.
        dormant: nobody wants anything, and the peer closes what is open.
        queued: requests that wait.
        all_full: not one connection could write a request more, and none is still warming up.
        streams: that requests are in, over the connections that take requests.
        latency_s: of an answer; None before the first.
    """

    taking: int
    draining: int
    owed: int
    dormant: bool
    queued: int
    all_full: bool
    streams: int
    latency_s: float | None


def need(load: Load, settings: PoolSettings) -> Need:
    """Whether one more connection is needed now.

    Work that waits while streams are free is no reason to grow. Work that waits for a stream is one if it would wait for long:
    ``queued`` requests pass ``streams`` in rounds that take ``latency_s`` each.
    """
    if load.draining >= 2 * settings.max_connections:
        return (
            Need.NOTHING
        )  # so many that still drain: something is wrong with the peer, and more would not help
    if load.taking < (0 if load.dormant else settings.min_connections):
        return Need.CONNECTION
    if load.owed and load.taking < settings.max_connections:
        return Need.CONNECTION
    if not load.queued or not load.all_full:
        return Need.NOTHING
    if (
        load.latency_s is not None
        and load.streams
        and load.queued * load.latency_s / load.streams <= settings.grow_wait_s
    ):
        return Need.NOTHING
    return Need.CONNECTION if load.taking < settings.max_connections else Need.MORE_THAN_ALLOWED


class Idle(NamedTuple):
    """A connection with nothing in flight: which one, and since when."""

    number: int
    since: float


def surplus(
    taking: int, idle: Iterable[Idle], settings: PoolSettings, now: float, last_closed_at: float
) -> int | None:
    """The number of the connection to close now, or None: the one that was used least recently, one at a time."""
    if taking <= settings.min_connections or now - last_closed_at < settings.idle_close_s * _SHRINK_PACE:
        return None
    longest = min(idle, key=lambda each: each.since, default=None)
    if longest is None or now - longest.since < settings.idle_close_s:
        return None
    return longest.number


class Latency:
    """How long an answer takes, from counts alone: requests in flight = rate x latency (Little's law).

    Both sides of the quotient are sums in which older samples count less and less, so that a sample with few answers, as at the
    beginning of a burst, has little weight.

    Attributes:
        seconds: the estimate; None before the first answer.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._at: float | None = None
        self._answered = 0
        self._waited_s = 0.0
        self._answers = 0.0

    def sample(self, now: float, answered: int, in_flight: int) -> None:
        """``answered`` is a count since ever, ``in_flight`` that of now."""
        at, before = self._at, self._answered
        self._at, self._answered = now, answered
        if at is None or not in_flight:
            return
        self._waited_s = _KEPT * self._waited_s + in_flight * (now - at)
        self._answers = _KEPT * self._answers + answered - before
        if answered > before:
            self.seconds = self._waited_s / self._answers

    def at_least(self, waited_s: float) -> float | None:
        """The estimate, and no less than the oldest request in flight has waited."""
        return None if self.seconds is None else max(self.seconds, waited_s)
