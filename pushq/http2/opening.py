"""The greenlet that opens a pool's connections: one attempt at a time per host, spaced, with back-off."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from pushq.http2.connection import Transport
from pushq.http2.errors import ConnectFailed
from pushq.http2.figures import PoolObserver
from pushq.http2.gate import Admission
from pushq.http2.greenlets import Signal, Task, pause
from pushq.http2.reasons import Reason
from pushq.http2.settings import PoolSettings

_log = logging.getLogger("pushq.http2")

#: A wait for the back-off's end is looked at again so often: another pool may have ended it.
_LOOK_AGAIN_S = 1.0


class Connector(Protocol):
    """Makes channels; :class:`pushq.http2.dialer.Dialer` is the real one."""

    def connect(self, timeout_s: float) -> Transport: ...


class Opener:
    """Opens connections for as long as they are wanted.

    Attributes:
        opened, failed: counts since the start.
    """

    def __init__(
        self,
        pool: str,
        connector: Connector,
        admission: Admission,
        settings: PoolSettings,
        observer: PoolObserver,
        clock: Callable[[], float],
        random: Callable[[], float],
        *,
        wanted: Callable[[], bool],
        adopt: Callable[[Transport, float], bool],
        complain: Callable[[str], None],
    ) -> None:
        """``wanted`` is asked before each attempt. ``adopt(channel, timeout_s)`` makes a connection of the channel; True if it
        became ready in time, and False if it did not and has reported its end by itself. ``complain`` hears of each failure in words.
        """
        self.opened = self.failed = 0
        self._pool = pool
        self._connector = connector
        self._admission = admission
        self._settings = settings
        self._observer = observer
        self._clock = clock
        self._random = random
        self._wanted = wanted
        self._adopt = adopt
        self._complain = complain
        self._wake = Signal()

    def start(self) -> Task:
        return Task(self._run)

    def look(self) -> None:
        """Something has changed: ask again what is wanted."""
        self._wake.set()

    @property
    def reason(self) -> Reason | None:
        """Why there is no connection, if the latest attempt (of any pool, if it was the host's fault) failed."""
        return self._admission.reason

    def proven(self) -> None:
        """A connection works."""
        self._admission.proven()

    def short_lived(self, reason: Reason, began: float) -> None:
        """A connection ended before it was proven, although it had answered: no failed attempt, but not so fast with the next."""
        self._back_off(reason, began)

    def attempt_failed(self, reason: Reason, detail: str, began: float) -> None:
        """Count a failed attempt, such as a connection that ended at once without one answer."""
        self.failed += 1
        self._complain(f"{reason}: {detail}")
        self._back_off(reason, began)
        self._observer.connect_failed(self._pool, reason)
        _log.warning("http2_connect_failed", extra={"pool": self._pool, "reason": reason, "detail": detail})

    def _back_off(self, reason: Reason, began: float) -> None:
        settings = self._settings
        self._admission.failed(
            reason, began, self._clock(), settings.backoff_min_s, settings.backoff_max_s, self._random
        )

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._wanted():
                wait = self._admission.wait_s(self._clock())
                if wait > 0:
                    pause(min(wait, _LOOK_AGAIN_S))
                    continue  # by now it may not be wanted any more
                with self._admission.turn:
                    # Who stood in line looks again: the attempt before may have failed.
                    if self._wanted() and self._admission.wait_s(self._clock()) <= 0:
                        self._attempt()

    def _attempt(self) -> None:
        settings = self._settings
        started = self._clock()
        try:
            channel = self._connector.connect(settings.connect_timeout_s)
            left = settings.connect_timeout_s - (self._clock() - started)
            ready = self._adopt(channel, max(0.1, left))
        except ConnectFailed as failure:
            self.attempt_failed(failure.reason, failure.detail, started)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end the opener
            _log.exception("http2_connect_fault", extra={"pool": self._pool})
            self.attempt_failed(Reason.INTERNAL_ERROR, repr(error), started)
        else:
            if ready:
                now = self._clock()
                self.opened += 1
                self._admission.opened(now, settings.open_spacing_s)
                self._observer.connection_opened(self._pool, now - started)
                _log.info("http2_connection_opened", extra={"pool": self._pool, "seconds": now - started})
