"""How often somebody may ask: token buckets in Redis that all web processes share, drawn from in lots.

A process draws a tenth of a second's worth at a time, so that a busy key costs ten round trips a second and not one for each request.
Without Redis each process limits by itself: then so many processes let through so many times the rate, and nobody is locked out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Final

import redis

from pushq.web.threads import Busy, Threads

log = logging.getLogger("pushq.web")

_SCRIPT: Final = Path(__file__).with_name("ratelimit.lua").read_text(encoding="utf-8")
#: What a process draws at once, in seconds of the rate, and how long it keeps it.
LOT_S: Final = 0.1
LOT_LIFE_S: Final = 0.5
#: Seconds until Redis is asked again after it did not answer.
AWAY_S: Final = 5.0
#: Names that are remembered at a time; the one that was not used for longest is forgotten.
MOST: Final = 10_000


@dataclass(frozen=True)
class Rate:
    """So many a second in the long run, and so many at once."""

    per_s: float
    burst: int


@dataclass
class _Meter:
    """A token bucket of this process. Begins full."""

    tokens: float
    at: float

    def take(self, now: float, rate: Rate) -> float:
        """0.0 and one less, or the seconds until there is one."""
        self.tokens = min(rate.burst, self.tokens + max(0.0, now - self.at) * rate.per_s)
        self.at = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / rate.per_s


class Meters:
    """Buckets of this process alone, by name; so many and no more."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._meters: OrderedDict[str, _Meter] = OrderedDict()

    def take(self, name: str, rate: Rate) -> float:
        """0.0 when it is allowed, or the seconds after which to ask again."""
        now = self._clock()
        meter = self._meters.get(name)
        if meter is None:
            meter = self._meters[name] = _Meter(rate.burst, now)
            if len(self._meters) > MOST:
                self._meters.popitem(last=False)
        self._meters.move_to_end(name)
        return meter.take(now, rate)

    def forget(self, name: str) -> None:
        self._meters.pop(name, None)


@dataclass
class _Purse:
    """What this process has drawn and not spent."""

    permits: int = 0
    until: float = 0.0
    refused_until: float = 0.0
    waiting: int = 0
    drawing: asyncio.Task[None] | None = None


class RateLimiter:
    """Buckets that all processes share.

    Args:
        client: with short timeouts; it stays the caller's.
        threads: for the round trips.
    """

    def __init__(
        self, client: redis.Redis, threads: Threads, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client, self._threads, self._clock = client, threads, clock
        self._script = client.register_script(_SCRIPT)
        self._purses: OrderedDict[str, _Purse] = OrderedDict()
        self._local = Meters(clock)
        self._away_until = 0.0

    async def take(self, name: str, rate: Rate) -> float:
        """0.0 when it is allowed, or the seconds after which to ask again."""
        purse = self._purses.get(name)
        if purse is None:
            purse = self._purses[name] = _Purse()
            if len(self._purses) > MOST:
                self._purses.popitem(last=False)
        self._purses.move_to_end(name)
        while True:
            now = self._clock()
            if purse.permits and now < purse.until:
                purse.permits -= 1
                return 0.0
            if now < purse.refused_until:
                return purse.refused_until - now
            if now < self._away_until:
                return self._local.take(name, rate)
            purse.waiting += 1
            try:
                if purse.drawing is None:
                    purse.drawing = asyncio.create_task(self._draw(name, purse, rate))
                await asyncio.shield(purse.drawing)
            finally:
                purse.waiting -= 1

    async def forget(self, name: str) -> None:
        """Let a name begin anew."""
        self._purses.pop(name, None)
        self._local.forget(name)
        try:
            await self._threads.run(self._client.delete, _key(name))
        except (redis.RedisError, Busy) as error:
            self._went_away(error)

    async def _draw(self, name: str, purse: _Purse, rate: Rate) -> None:
        try:
            await asyncio.sleep(0)  # everybody who came at the same moment is counted
            wanted = max(purse.waiting, floor(rate.per_s * LOT_S), 1)
            granted, wait = await self._threads.run(self._ask, name, rate, wanted)
            now = self._clock()
            purse.permits, purse.until = granted, now + LOT_LIFE_S
            if not granted:
                purse.refused_until = now + wait
        except (redis.RedisError, Busy) as error:
            self._went_away(error)
        finally:
            purse.drawing = None

    def _ask(self, name: str, rate: Rate, wanted: int) -> tuple[int, float]:
        granted, wait = self._script(keys=[_key(name)], args=[rate.per_s, rate.burst, wanted])
        return int(granted), float(wait)

    def _went_away(self, error: Exception) -> None:
        self._away_until = self._clock() + AWAY_S
        log.warning("rates_not_shared", extra={"error": type(error).__name__})


def _key(name: str) -> str:
    return f"pushq:web:rate:{name}"
