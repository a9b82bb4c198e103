"""Doing for many at once what each of them would do alone.

Who comes while a round is under way waits for the next one and shares it with all who came meanwhile. Who comes alone after a quiet time
goes at once: a plain call. Rounds grow with the load, and with them the saving; databases call that a group commit. Where a round costs much
more than what is in it, a pause between the beginnings of two rounds saves more, for a bounded wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

#: Of one round.
MOST: Final = 100


class Interrupted(RuntimeError):
    """Whoever did the work of a round was stopped in it; whether it was done is not known."""


class _Waiting(Generic[In, Out]):
    __slots__ = ("error", "item", "leads", "result", "wake")

    def __init__(self, item: In) -> None:
        self.item = item
        self.wake = threading.Event()
        self.leads = False
        self.result: Out | None = None
        self.error: BaseException | None = None


class Together(Generic[In, Out]):
    """Callable; safe for many threads or greenlets.

    Args:
        work: gets the items of a round and returns a result for each, in their order. What it raises, all of the round raise.
        most: items in a round, or their sizes together; an item that is larger by itself has a round of its own.
        every_s: seconds from one round's beginning to the next one's at least, unless as many wait as a round may have.
        size: of an item.
    """

    def __init__(
        self,
        work: Callable[[Sequence[In]], Sequence[Out]],
        most: int = MOST,
        *,
        every_s: float = 0.0,
        size: Callable[[In], int] = lambda _: 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work, self._most, self._every_s, self._size, self._clock = work, most, every_s, size, clock
        self._lock = threading.Lock()
        self._waiting: list[_Waiting[In, Out]] = []
        self._pending = 0
        self._full = threading.Event()
        self._busy = False
        self._began = -every_s

    def __call__(self, item: In) -> Out:
        """The result for this item."""
        own = _Waiting[In, Out](item)
        with self._lock:
            self._waiting.append(own)
            self._count(self._size(item))
            own.leads, self._busy = not self._busy, True
        try:
            if not own.leads:
                own.wake.wait()
            if own.leads:
                self._gather()
        except BaseException:  # a greenlet that is killed where it waits
            self._leave(own)
            raise
        if own.leads:
            self._round(own)
        if own.error is not None:
            raise own.error
        return own.result  # type: ignore[return-value]  # set for each by the round

    def _count(self, more: int) -> None:
        """So much more waits. The lock is held."""
        self._pending += more
        if self._pending >= self._most:
            self._full.set()
        else:
            self._full.clear()

    def _gather(self) -> None:
        left = self._began + self._every_s - self._clock()
        if left > 0:
            self._full.wait(left)

    def _leave(self, own: _Waiting[In, Out]) -> None:
        with self._lock:
            if own in self._waiting:
                self._waiting.remove(own)
                self._count(-self._size(own.item))
                if own.leads:
                    self._pass_on()

    def _pass_on(self) -> None:
        """Let the first who waits lead. The lock is held."""
        self._busy = bool(self._waiting)
        if self._waiting:
            self._waiting[0].leads = True
            self._waiting[0].wake.set()

    def _round(self, own: _Waiting[In, Out]) -> None:
        with self._lock:
            # Who leads is the first in the queue: it was made leader as such, or found nobody there.
            number, total = 0, 0
            for each in self._waiting:
                total += self._size(each.item)
                if number and total > self._most:
                    total -= self._size(each.item)
                    break
                number += 1
            these, self._waiting = self._waiting[:number], self._waiting[number:]
            self._count(-total)
            self._began = self._clock()
        try:
            results = self._work([each.item for each in these])
            for each, result in zip(these, results, strict=True):
                each.result = result
        except BaseException as exc:  # noqa: BLE001 - each of the round raises it, or that it was interrupted
            ordinary = isinstance(exc, Exception)
            for each in these:
                each.error = exc if ordinary or each is own else Interrupted(type(exc).__name__)
        finally:
            with self._lock:
                self._pass_on()
            for each in these:
                if each is not own:
                    each.wake.set()
