"""Celery's scheduler, with a pulse that a probe can feel."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from celery.beat import PersistentScheduler

#: A turn takes milliseconds, and five seconds at most pass between two. One that takes longer hangs on a publication: these have no
#: time-out of their own here.
STUCK_S: Final = 120.0


class Pulse:
    """What is known of a clock.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turned_at = clock()
        self._connecting = False
        self._failure: str | None = "has published nothing yet"

    def turned(self) -> None:
        self._turned_at = self._clock()

    def connecting(self, now: bool) -> None:
        """Between these, the clock waits for the broker and does not turn."""
        self._connecting = now
        self.turned()

    def published(self, failure: str | None) -> None:
        self._failure = failure

    def stuck(self) -> str | None:
        """Why the clock should be started anew. That the broker is away is no reason: a new clock would wait for it as well."""
        age = self._clock() - self._turned_at
        return f"has not turned for {age:.0f} s" if age > STUCK_S and not self._connecting else None

    def in_vain(self) -> str | None:
        """Why nothing is being published."""
        return "waits for the broker" if self._connecting else self._failure


def scheduler(pulse: Pulse) -> type[PersistentScheduler]:
    """A class for Celery's beat that keeps ``pulse`` going."""

    class Clock(PersistentScheduler):  # type: ignore[misc]
        def tick(self, *args: Any, **kwargs: Any) -> Any:
            pulse.turned()
            return super().tick(*args, **kwargs)

        def apply_async(self, *args: Any, **kwargs: Any) -> Any:
            try:
                published = super().apply_async(*args, **kwargs)
            except Exception as exc:
                pulse.published(f"the last publication failed: {type(exc).__name__}")
                raise
            pulse.published(None)
            return published

        def _ensure_connected(self) -> Any:
            pulse.connecting(True)
            try:
                return super()._ensure_connected()
            finally:
                pulse.connecting(False)

    return Clock
