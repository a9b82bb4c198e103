"""The scheduler beneath the pool. Beside it only the modules at the socket (network, dialer, racing) know gevent.

gevent's own primitives are used instead of patched ones, so that the pool works the same in a patched worker and in an
unpatched process such as a test.
"""

from __future__ import annotations

from collections.abc import Callable

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore


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


class Turn:
    """One at a time, first come first served. A context manager."""

    __slots__ = ("_semaphore",)

    def __init__(self) -> None:
        self._semaphore = BoundedSemaphore(1)

    def __enter__(self) -> None:
        self._semaphore.acquire()

    def __exit__(self, *_: object) -> None:
        self._semaphore.release()


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


def scheduler() -> object:
    """What runs the greenlets of this thread: the same object for as long as they can meet."""
    return gevent.get_hub()
