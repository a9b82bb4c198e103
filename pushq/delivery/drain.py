"""A shutdown in three steps, so that running batches end well within the grace period."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: What settling and closing connections may take at the end of the grace period.
SETTLE_S: Final = 3.0


class Drain:
    """How far a shutdown has come.

    No batch is taken up any more once it has begun. Running ones send for half of the grace period, then wait for the answers of what
    is in flight, and settle shortly before its end with what they know by then.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: float | None = None
        self._grace = 0.0

    def begin(self, grace_s: float) -> None:
        """A second call changes nothing."""
        if self._began is None:
            self._grace = grace_s
            self._began = self._clock()

    @property
    def begun(self) -> bool:
        return self._began is not None

    @property
    def sending_ends(self) -> bool:
        """What is not written stays unsent."""
        return self._began is not None and self._clock() >= self._began + self._grace / 2

    @property
    def waiting_ends(self) -> bool:
        """Answers that are not there yet are not waited for."""
        if self._began is None:
            return False
        return self._clock() >= self._began + max(self._grace / 2, self._grace - SETTLE_S)
