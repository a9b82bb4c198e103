"""Answers that are good for two seconds: whose key, whose session this is."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from pushq.errors import ServiceUnavailable
from pushq.web.threads import Busy, Threads

V = TypeVar("V")

#: A key that is revoked, or a session that is ended elsewhere, is refused after so many seconds.
FRESH_S: Final = 2.0
#: While PostgreSQL does not answer, what it said last holds for so long: nobody can revoke a key there meanwhile either.
STALE_S: Final = 60.0
#: Who has an answer of before does not wait longer than this for a new one.
PATIENCE_S: Final = 1.0
MOST: Final = 4096


@dataclass
class _Kept(Generic[V]):
    value: V
    asked_at: float
    fresh_until: float


class Lookups(Generic[V]):
    """One question to PostgreSQL for all requests that have it at the same time. What does not exist is not kept.

    Args:
        ask: blocks; None when there is no such thing.
        clock: seconds.
    """

    def __init__(
        self,
        ask: Callable[[str], V | None],
        threads: Threads,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._threads, self._clock = ask, threads, clock
        self._kept: OrderedDict[str, _Kept[V]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[V | None]] = {}

    def knows(self, name: str) -> bool:
        """Whether it existed when it was asked for last, not long ago."""
        return name in self._kept

    def forget(self, name: str) -> None:
        self._kept.pop(name, None)

    async def get(self, name: str) -> V | None:
        """The answer, at most :data:`FRESH_S` old.

        Raises:
            ServiceUnavailable, Busy: there is none, and none of the last :data:`STALE_S`.
        """
        now = self._clock()
        kept = self._kept.get(name)
        if kept is not None and now < kept.fresh_until:
            return kept.value
        task = self._asking.get(name)
        if task is None:
            task = asyncio.create_task(self._look(name, now))
            self._asking[name] = task
            task.add_done_callback(lambda done: self._done(name, done))
        if kept is not None and now - kept.asked_at < STALE_S:
            await asyncio.wait({task}, timeout=PATIENCE_S)
            if not task.done() or isinstance(task.exception(), ServiceUnavailable | Busy):
                kept.fresh_until = self._clock() + FRESH_S
                return kept.value
        return await asyncio.shield(task)

    async def _look(self, name: str, now: float) -> V | None:
        value = await self._threads.run(self._ask, name)
        if value is None:
            self._kept.pop(name, None)
        else:
            self._kept[name] = _Kept(value, now, now + FRESH_S)
            self._kept.move_to_end(name)
            if len(self._kept) > MOST:
                self._kept.popitem(last=False)
        return value

    def _done(self, name: str, task: asyncio.Task[V | None]) -> None:
        del self._asking[name]
        if not task.cancelled():
            task.exception()  # whoever waited has it; perhaps nobody did

    async def close(self) -> None:
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
