"""Watches the sends whose batches run here: a pause, a stop and a new rate reach every worker within a second."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pushq.database import Database
from pushq.errors import ServiceUnavailable
from pushq.ledger.condition import conditions

log = logging.getLogger("pushq.watch")

#: How often the sends are looked at while batches run.
INTERVAL_S = 0.4


@dataclass
class Watched:
    """A send as it was seen last; shared by all its batches in this process.

    Attributes:
        held: nothing more of it is to be sent for now, or for ever: it is paused, stopped or gone.
        rate: requests per second for the whole fleet; None: no limit of its own.
    """

    rate: int | None
    held: bool = False
    batches: int = 0


class SendWatch:
    """One look for all sends that run here. When PostgreSQL cannot be reached, what was seen last holds."""

    def __init__(self, database: Database, interval_s: float = INTERVAL_S) -> None:
        self._database, self._interval = database, interval_s
        self._sends: dict[uuid.UUID, Watched] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    @contextmanager
    def watch(self, send_id: uuid.UUID, rate: int | None) -> Iterator[Watched]:
        """Watch the send of a running batch within a ``with`` block. ``rate``: as it is now."""
        with self._lock:
            watched = self._sends.get(send_id)
            if watched is None:
                watched = self._sends[send_id] = Watched(rate)
            # The batch was taken up a moment ago, so its send was running then.
            watched.rate, watched.held = rate, False
            watched.batches += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pushq-watch", daemon=True)
                self._thread.start()
            self._wake.set()
        try:
            yield watched
        finally:
            with self._lock:
                watched.batches -= 1
                if not watched.batches and self._sends.get(send_id) is watched:
                    del self._sends[send_id]

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        pause = threading.Event()
        while not self._closed:
            with self._lock:
                running = list(self._sends)
                if not running:
                    self._wake.clear()
            if not running:
                self._wake.wait()
                continue
            try:
                self._look(running)
            except ServiceUnavailable as exc:
                log.warning("sends_not_watched", extra={"sends": len(running), "error": str(exc)})
            except Exception:
                # The thread must outlive any single failure: without it no pause is heard of.
                log.exception("sends_not_watched", extra={"sends": len(running)})
            pause.wait(self._interval)

    def _look(self, running: list[uuid.UUID]) -> None:
        found = conditions(self._database, running)
        with self._lock:
            for send_id, condition in found.items():
                watched = self._sends.get(send_id)
                if watched is not None:
                    watched.held, watched.rate = condition.held, condition.rate
