"""Parts of pages that stay true while somebody looks: rendered again when the ledger has changed, and sent as server-sent events.

However many people look at the same thing, it is read once in :data:`EVERY_S`, and less often where reading it takes long.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from pushq.errors import PushqError
from pushq.web.problems import Problem
from pushq.web.state import WebState
from pushq.web.streams import Stream

log = logging.getLogger("pushq.web")

#: Seconds between two looks.
EVERY_S: Final = 0.5
#: A look that takes long is not taken again before so many times as long: a send of ten million must not keep the database busy.
COSTS: Final = 4
#: Seconds after which something is said although nothing has changed: proxies close what is silent.
SILENT_S: Final = 15.0
#: A stream ends after so many seconds; the browser opens another, and its session is checked again.
LIFE_S: Final = 300.0
#: Streams at a time.
MOST: Final = 200
#: What is kept of things that nobody looks at any more.
KEPT_S: Final = 30.0


@dataclass
class _Shared:
    """One thing that is looked at."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    value: Any = None
    read_at: float = float("-inf")
    took_s: float = 0.0


class Glances:
    """Things that many look at, each read once in a while. Belongs to one event loop."""

    def __init__(self, *, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._shared: dict[Hashable, _Shared] = {}
        self.open = 0

    async def look(
        self, what: Hashable, read: Callable[[], Awaitable[Any]], *, every_s: float | None = None
    ) -> Any:
        """The thing as it was at most ``every_s`` ago; whatever ``read`` raises."""
        shared = self._shared.setdefault(what, _Shared())
        async with shared.lock:
            began = self._clock()
            if began - shared.read_at >= max(
                self._every_s if every_s is None else every_s, COSTS * shared.took_s
            ):
                shared.value = await read()
                shared.read_at = self._clock()
                shared.took_s = shared.read_at - began
                self._forget()
            return shared.value

    def changed(self, what: Hashable) -> None:
        """The thing was changed just now: what has been read of it, or is being read, is for nobody else."""
        self._shared.pop(what, None)

    def _forget(self) -> None:
        old = self._clock() - KEPT_S
        for what in [w for w, s in self._shared.items() if s.read_at < old and not s.lock.locked()]:
            del self._shared[what]


#: A part as HTML, and whether it is the last: nothing will change any more.
Part = tuple[str, bool]


def stream(
    web: WebState, glances: Glances, part: Callable[[], Awaitable[Part]], *, every_s: float = EVERY_S
) -> Stream:
    """An answer that goes on.

    Raises:
        Problem: too many are open.
    """
    if glances.open >= MOST:
        raise Problem(
            503, "busy", f"{MOST} pages are being kept up to date already", headers={"Retry-After": "30"}
        )
    return Stream(
        _events(web, glances, part, every_s),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(
    web: WebState, glances: Glances, part: Callable[[], Awaitable[Part]], every_s: float
) -> AsyncIterator[str]:
    glances.open += 1
    try:
        yield f"retry: {3000}\n\n"
        began = spoke = time.monotonic()
        last: str | None = None
        while not web.closing.is_set() and time.monotonic() - began < LIFE_S:
            try:
                html, final = await part()
            except PushqError as error:
                # The page stays as it was; the browser asks again by itself.
                log.info("live_part_failed", extra={"error": type(error).__name__})
                return
            now = time.monotonic()
            if html != last:
                yield _event("part", html)
                last, spoke = html, now
            elif now - spoke >= SILENT_S:
                yield ": still here\n\n"
                spoke = now
            if final:
                yield _event("end", "nothing will change any more")
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(web.closing.wait(), every_s)
    finally:
        glances.open -= 1


def _event(name: str, text: str) -> str:
    lines = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"event: {name}\n{lines}\n"
