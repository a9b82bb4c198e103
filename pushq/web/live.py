"""Where running sends stand, for many who watch: each send is looked at once, however many they are.

Who watches gets the newest state and never a backlog: a slow reader misses steps, and memory does not grow.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from pushq.errors import PushqError
from pushq.ledger.pace import Speed
from pushq.web.threads import Busy

log = logging.getLogger("pushq.web")

#: Seconds between two looks at a send.
LOOK_S: Final = 0.5
#: After a look that failed.
RETRY_S: Final = 2.0
#: Who watches at most: each holds a connection of its own.
MOST_WATCHERS: Final = 500

Document = dict[str, Any]
Look = Callable[[uuid.UUID], Awaitable[Document]]


@dataclass(eq=False)
class _Watched:
    """One send that somebody watches. ``version`` grows with every change."""

    version: int = 0
    document: Document | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    watchers: int = 0
    task: asyncio.Task[None] | None = None


class Live:
    """The sends that are watched.

    Args:
        look: where a send stands, as a document with ``settled``, ``state``, ``finished`` and ``pending``.
        look_s: seconds between two looks.
    """

    def __init__(self, look: Look, *, look_s: float = LOOK_S) -> None:
        self._look, self._look_s = look, look_s
        self._watched: dict[uuid.UUID, _Watched] = {}
        self._watchers = 0

    @asynccontextmanager
    async def watch(self, send_id: uuid.UUID) -> AsyncIterator[AsyncIterator[Document]]:
        """The states of a send from now on, until it has ended.

        Raises:
            Busy: too many watch already.
        """
        if self._watchers >= MOST_WATCHERS:
            raise Busy(f"{self._watchers} watch already", 10)
        watched = self._watched.get(send_id)
        if watched is None:
            watched = self._watched[send_id] = _Watched()
            watched.task = asyncio.create_task(self._follow(send_id, watched), name=f"pushq-live-{send_id}")
        watched.watchers += 1
        self._watchers += 1
        try:
            yield self._states(watched)
        finally:
            watched.watchers -= 1
            self._watchers -= 1
            if not watched.watchers:
                if watched.task is not None:
                    watched.task.cancel()
                if self._watched.get(send_id) is watched:
                    del self._watched[send_id]

    async def _states(self, watched: _Watched) -> AsyncIterator[Document]:
        seen = 0
        while True:
            if watched.version > seen and watched.document is not None:
                seen = watched.version
                yield watched.document
                if watched.document.get("finished"):
                    return
                continue
            changed = watched.changed
            await changed.wait()

    async def _follow(self, send_id: uuid.UUID, watched: _Watched) -> None:
        speed = Speed()
        clock = asyncio.get_running_loop().time
        last: Document | None = None
        while True:
            try:
                found = await self._look(send_id)
            except PushqError as error:
                log.debug("look_failed", extra={"send_id": str(send_id), "error": type(error).__name__})
                await asyncio.sleep(RETRY_S)
                continue
            rate = speed.rate(clock(), found["devices"] - found["pending"])
            eta = found["pending"] / rate if rate and found["state"] == "sending" else None
            document = {
                **found,
                "per_second": None if rate is None else round(rate, 1),
                "eta_seconds": None if eta is None else round(eta, 1),
            }
            if last is None or {**document, "seconds": 0} != {**last, "seconds": 0}:
                last = watched.document = document
                watched.version += 1
                watched.changed.set()
                watched.changed = asyncio.Event()
            if document["finished"]:
                return
            await asyncio.sleep(self._look_s)

    async def close(self) -> None:
        tasks = [watched.task for watched in self._watched.values() if watched.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
