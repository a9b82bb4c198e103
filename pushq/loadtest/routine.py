"""A step that is done again and again beside a measurement."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

import redis

from pushq.errors import PushqError


class Routine:
    """Does ``step`` in a thread of its own, at a steady rate, for the life of a ``with`` block.

    A step that is late is not made up for. An error of pushq's or of Redis is counted; any other ends the routine, and is raised by
    :meth:`check` and when the block ends.

    Attributes:
        done: steps that succeeded.
        failed: steps that did not, by error.
    """

    def __init__(self, name: str, every_s: float, step: Callable[[], None]) -> None:
        self.done = 0
        self.failed: Counter[str] = Counter()
        self._every_s, self._step = every_s, step
        self._error: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if error is None:
            self.check()

    def check(self) -> None:
        """Raise what ended the routine, if something did."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._every_s, time.monotonic())
            try:
                self._step()
            except (PushqError, redis.RedisError) as error:
                self.failed[type(error).__name__] += 1
            except Exception as error:  # noqa: BLE001 - raised where somebody hears of it
                self._error = error
                return
            else:
                self.done += 1
