"""A question to somebody who may not answer: asked in a thread of its own, one at a time, and waited for no longer than the asker wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar, cast

T = TypeVar("T")


class Unanswered(Exception):
    """There is no answer; the message says why."""


class Round(Generic[T]):
    """One asking of a question."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.ended_at = 0.0
        self._value: T | None = None
        self._failure: str | None = None

    def run(self, ask: Callable[[], T], clock: Callable[[], float]) -> None:
        try:
            self._value = ask()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the answer, and this thread's end
            self._failure = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        self.ended_at = clock()
        self.done.set()

    def result(self, timeout_s: float) -> T:
        """The answer.

        Raises:
            Unanswered: it failed, or did not come within ``timeout_s`` seconds.
        """
        if not self.done.wait(max(timeout_s, 0.0)):
            raise Unanswered("no answer in time")
        if self._failure is not None:
            raise Unanswered(self._failure)
        return cast("T", self._value)  # None is an answer, too


class Errand(Generic[T]):
    """Asks a question, in the background and one at a time: who hangs for an hour costs one thread.

    Args:
        ask: has time-outs of its own, or this process keeps a thread for ever.
        fresh_s: an answer, or its failure, is given out again for so long.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[], T],
        *,
        fresh_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._ask, self._fresh_s, self._clock = ask, fresh_s, clock
        self._lock = threading.Lock()
        self._round: Round[T] | None = None

    def start(self) -> Round[T]:
        """Ask, unless an answer is still due or fresh. Returns at once."""
        with self._lock:
            last = self._round
            if last is not None and (not last.done.is_set() or self._clock() - last.ended_at < self._fresh_s):
                return last
            started = Round[T]()
            threading.Thread(
                target=started.run, args=(self._ask, self._clock), name=f"pushq-{self.name}", daemon=True
            ).start()
            # Not before: a round that never runs would be waited for by everybody who asks.
            self._round = started
        return started
