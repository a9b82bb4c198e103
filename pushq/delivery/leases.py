"""Keeps the leases of this process's running batches alive, with one statement for all of them."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType

from pushq import metrics
from pushq.database import Database
from pushq.errors import ServiceUnavailable
from pushq.ledger.batches import Lease, extend

log = logging.getLogger("pushq.leases")


class LeaseKeeper:
    """Extends every lease it holds, three times within the lease's length.

    When PostgreSQL cannot be reached for a whole lease, the lease ends and counts as lost: somebody else may have the batch by
    then. The row decides, and every write carries the token.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(
        self, database: Database, lease_seconds: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database, self._seconds, self._clock = database, lease_seconds, clock
        self._held: dict[tuple[uuid.UUID, int], Lease] = {}
        self._ends: dict[uuid.UUID, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def hold(self, lease: Lease) -> Held:
        """Keep ``lease`` alive within a ``with`` block."""
        return Held(self, lease)

    def add(self, lease: Lease) -> None:
        with self._lock:
            self._held[lease.key] = lease
            self._ends[lease.token] = self._clock() + self._seconds
            if not self._threads:
                # Two: an extension may hang for longer than the lease.
                for work in (self._run, self._watch_ends):
                    thread = threading.Thread(target=work, name=f"pushq-leases{work.__name__}", daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def remove(self, lease: Lease) -> None:
        with self._lock:
            self._ends.pop(lease.token, None)
            if self._held.get(lease.key) is lease:
                del self._held[lease.key]

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds / 3):
            with self._lock:
                leases = list(self._held.values())
            if not leases:
                continue
            asked = self._clock()
            try:
                extend(self._database, leases, self._seconds)
                with self._lock:
                    self._ends.update(
                        (lease.token, asked + self._seconds) for lease in leases if lease.token in self._ends
                    )
                self._drop_lost(leases)
            except ServiceUnavailable as exc:
                log.warning("leases_not_extended", extra={"leases": len(leases), "error": str(exc)})
            except Exception:
                # The thread must outlive any single failure: without it every batch of the process loses its lease.
                log.exception("leases_not_extended", extra={"leases": len(leases)})

    def _watch_ends(self) -> None:
        while not self._stop.wait(self._seconds / 6):
            now = self._clock()
            with self._lock:
                over = [lease for lease in self._held.values() if now >= self._ends[lease.token]]
            for lease in over:
                lease.lost = True
            self._drop_lost(over)

    def _drop_lost(self, leases: list[Lease]) -> None:
        with self._lock:
            for lease in leases:
                if lease.lost and not lease.given_up and self._held.get(lease.key) is lease:
                    del self._held[lease.key]
                    metrics.leases_lost.inc()
                    log.warning(
                        "lease_lost", extra={"send_id": str(lease.send_id), "batch_no": lease.batch_no}
                    )


class Held:
    def __init__(self, keeper: LeaseKeeper, lease: Lease) -> None:
        self._keeper, self._lease = keeper, lease

    def __enter__(self) -> Lease:
        self._keeper.add(self._lease)
        return self._lease

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keeper.remove(self._lease)
