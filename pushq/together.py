"""Doing for many at once what each of them would do alone.

Who comes while a round is under way waits for the next one and shares it with all who came meanwhile. Nobody ever waits for company: alone
it is a plain call. Rounds grow with the load, and with them the saving; databases call that a group commit.
"""

from __future__ import annotations

import threading
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
        most: items in a round.
    """

    def __init__(self, work: Callable[[Sequence[In]], Sequence[Out]], most: int = MOST) -> None:
        self._work, self._most = work, most
        self._lock = threading.Lock()
        self._waiting: list[_Waiting[In, Out]] = []
        self._busy = False

    def __call__(self, item: In) -> Out:
        """The result for this item."""
        own = _Waiting[In, Out](item)
        with self._lock:
            self._waiting.append(own)
            own.leads, self._busy = not self._busy, True
        if not own.leads:
            try:
                own.wake.wait()
            except BaseException:  # a greenlet that is killed where it waits
                self._leave(own)
                raise
        if own.leads:
            self._round(own)
        if own.error is not None:
            raise own.error
        return own.result  # type: ignore[return-value]  # set for each by the round

    def _leave(self, own: _Waiting[In, Out]) -> None:
        with self._lock:
            if own in self._waiting:
                self._waiting.remove(own)
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
            these, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
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
