"""Keeps the leases of this process's running batches alive, with one statement for all of them."""

from __future__ import annotations

import logging
import threading
import uuid
from types import TracebackType

from pushq import metrics
from pushq.database import Database
from pushq.errors import ServiceUnavailable
from pushq.ledger.batches import Lease, extend

log = logging.getLogger("pushq.leases")


class LeaseKeeper:
    """Extends every lease it holds, three times within the lease's length.

    When PostgreSQL cannot be reached for a whole lease, the lease simply ends: the row decides who holds the batch, and every
    write carries the token.
    """

    def __init__(self, database: Database, lease_seconds: float) -> None:
        self._database, self._seconds = database, lease_seconds
        self._held: dict[tuple[uuid.UUID, int], Lease] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def hold(self, lease: Lease) -> Held:
        """Keep ``lease`` alive within a ``with`` block."""
        return Held(self, lease)

    def add(self, lease: Lease) -> None:
        with self._lock:
            self._held[lease.key] = lease
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pushq-leases", daemon=True)
                self._thread.start()

    def remove(self, lease: Lease) -> None:
        with self._lock:
            if self._held.get(lease.key) is lease:
                del self._held[lease.key]

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds / 3):
            with self._lock:
                leases = list(self._held.values())
            if not leases:
                continue
            try:
                extend(self._database, leases, self._seconds)
                self._drop_lost(leases)
            except ServiceUnavailable as exc:
                log.warning("leases_not_extended", extra={"leases": len(leases), "error": str(exc)})
            except Exception:
                # The thread must outlive any single failure: without it every batch of the process loses its lease.
                log.exception("leases_not_extended", extra={"leases": len(leases)})

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
