"""The scheduler beneath the pool: with :mod:`pushq.http2.network`, the only module here that knows gevent.

gevent's own primitives are used instead of patched ones, so that the pool works the same in a patched worker and in an
unpatched process such as a test.
"""

from __future__ import annotations

from collections.abc import Callable

import gevent
from gevent.event import Event


class Signal:
    """An event for greenlets."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = Event()

    def set(self) -> None:
        self._event.set()

    def clear(self) -> None:
        self._event.clear()

    def wait(self, timeout: float | None = None) -> bool:
        """True if the signal is set, False after ``timeout`` seconds without."""
        return bool(self._event.wait(timeout))


class Task:
    """A greenlet that was started."""

    __slots__ = ("_greenlet",)

    def __init__(self, run: Callable[[], None]) -> None:
        self._greenlet = gevent.spawn(run)

    def kill(self) -> None:
        """End it where it waits, and return when it has ended. A task that kills itself just goes on."""
        if self._greenlet is not gevent.getcurrent():
            self._greenlet.kill()

    def join(self, timeout: float) -> bool:
        """True when it has ended within ``timeout`` seconds."""
        self._greenlet.join(timeout)
        return bool(self._greenlet.dead)


def pause(seconds: float) -> None:
    """Let others run; 0 for just one turn."""
    gevent.sleep(seconds)
