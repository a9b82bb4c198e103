"""The arithmetic of a rate limit, and a token bucket that follows it. Pure: the time is passed in.

Promised: in no window of 60 s more than the limit, and over a long time all but 2 % of it. A permit travels between being issued and
being spent: it may lie in a process's purse for ``LOT_LIFE_S`` and then wait for its turn on a connection (``WAY_S``). What is spent in
a window of 60 s was therefore issued in one of 60 s + LOT_LIFE_S + WAY_S, and a bucket issues in a window of T at most what it
can hold and what it is refilled with: ``burst + refill * T``. With r as the limit per second, burst = 0.5 r and refill = 0.985 r::

    0.5 r + 0.985 r * (60 + 0.25 + 0.15) = 59.994 r < 60 r

The limit per minute is 60 r, so what is lost over a long time is 1.5 %, and what purses let lapse. A bucket that holds less than one
permit would never issue any; below 2 requests a second it holds one, and the refill pays for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 60.0
#: Permits that a process has taken and not spent are void after this.
LOT_LIFE_S: Final = 0.25
#: How long a request may be on its way from the permit to the wire without breaking the promise.
WAY_S: Final = 0.15
REFILL_SHARE: Final = 0.985
BURST_S: Final = 0.5
#: A bucket is not drawn in crumbs: less than this is waited for, unless less was wanted.
CRUMB_S: Final = 0.05
#: What a process takes at once at most, beyond what it needs right now.
LOT_S: Final = 0.1


@dataclass(frozen=True)
class Limit:
    """A limit as a bucket keeps it.

    Attributes:
        refill: permits per second.
        burst: permits that the bucket holds.
        reserve: of these, what broadcasts leave to transactional sends.
        crumb: permits; fewer are not issued, unless fewer were wanted.
        lot: permits; what a process takes at once at most, beyond its need.
    """

    refill: float
    burst: float
    reserve: int
    crumb: int
    lot: int


def limit(per_minute: float, transactional_share: float = 0.0) -> Limit:
    """The bucket for a limit. ``per_minute``: at least 60."""
    if not per_minute >= WINDOW_S:
        raise ValueError(f"per_minute: found {per_minute}; expected at least 60")
    rate = per_minute / WINDOW_S
    burst = max(1.0, BURST_S * rate)
    refill = min(REFILL_SHARE * rate, (per_minute - burst) / (WINDOW_S + LOT_LIFE_S + WAY_S))
    reserve = min(math.floor(transactional_share * burst), math.floor(burst) - 1)
    crumb = max(1, min(math.floor(CRUMB_S * rate), math.floor(burst) - reserve))
    return Limit(refill, burst, reserve, crumb, max(1, math.floor(LOT_S * rate)))


@dataclass
class Bucket:
    """A token bucket. It begins empty: what was issued before it was made is not known.

    The one that the fleet shares is kept by ``fleet.lua`` and does the same; this one limits a process that cannot reach it.
    """

    limit: Limit
    at: float
    tokens: float = 0.0

    def take(self, now: float, want: int, *, transactional: bool) -> tuple[int, float]:
        """Draw permits: (how many, seconds until there are enough when none)."""
        self.tokens = min(self.limit.burst, self.tokens + max(0.0, now - self.at) * self.limit.refill)
        self.at = now
        reserve = 0 if transactional else self.limit.reserve
        permits = min(want, math.floor(self.tokens - reserve))
        needed = min(want, self.limit.crumb)
        if permits < needed:
            return 0, (needed + reserve - self.tokens) / self.limit.refill
        self.tokens -= permits
        return permits, 0.0
