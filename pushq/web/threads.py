"""Work that blocks, in a bounded number of threads, from asyncio: who finds no place in time is told to come again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, ParamSpec, TypeVar

from pushq.errors import PushqError

P = ParamSpec("P")
T = TypeVar("T")


class Busy(PushqError):
    """Every place is taken, or the answer did not come in time.

    Attributes:
        retry_after_s: seconds after which to ask again.
    """

    def __init__(self, what: str, retry_after_s: int = 2) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s


class Threads:
    """A pool of threads.

    A place is free again when its work has ended, not when nobody waits for it any more: a database that hangs takes all places and
    no more than these.

    Args:
        places: threads, and calls at a time.
        wait_s: seconds to wait for a place.
        timeout_s: seconds to wait for the work; None: as long as it takes.
    """

    def __init__(self, name: str, places: int, *, wait_s: float, timeout_s: float | None = None) -> None:
        self.name, self.places = name, places
        self._wait_s, self._timeout_s = wait_s, timeout_s
        self._free = asyncio.Semaphore(places)
        self._pool = ThreadPoolExecutor(places, thread_name_prefix=f"pushq-{name}")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``work`` returns or raises.

        Raises:
            Busy: no place, or no answer in time. The work may still be done then.
        """
        await self.enter()
        return await self._run(work, *args, **kwargs)

    async def enter(self) -> None:
        """Take a place. Raises Busy."""
        try:
            async with asyncio.timeout(self._wait_s):
                await self._free.acquire()
        except TimeoutError:
            raise Busy(f"all {self.places} places for this are taken") from None

    async def _run(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        loop = asyncio.get_running_loop()
        context = copy_context()
        try:
            future: Future[T] = self._pool.submit(lambda: context.run(work, *args, **kwargs))
        except BaseException:
            self._free.release()
            raise
        future.add_done_callback(lambda _: _quietly(loop, self._free.release))
        waiting = asyncio.wrap_future(future)
        try:
            # Shielded: the thread cannot be stopped, and what it returns or raises must find somebody who takes it.
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(waiting)
        except TimeoutError:
            waiting.add_done_callback(_forget)
            if waiting.done():
                raise
            raise Busy("no answer in time") from None
        except asyncio.CancelledError:
            waiting.add_done_callback(_forget)
            raise

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _quietly(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)


def _forget(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
