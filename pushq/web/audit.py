"""The audit log as the web process writes it: in a transaction where there is one, in bulk where there is none."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from pushq.access.audit import Entry, entry, record, record_all
from pushq.access.principal import Principal
from pushq.database import Database
from pushq.web.threads import Threads

__all__ = ["AuditWriter", "record"]

log = logging.getLogger("pushq.web")

#: Rows wait so long for others, to be written with them.
GATHER_S: Final = 0.25
RETRY_S: Final = 1.0
PAGE: Final = 500
#: With so many waiting nothing that leaves a row is taken up any more.
MOST_WAITING: Final = 20_000
#: At the end of the process, for what is left.
LAST_S: Final = 5.0


class AuditWriter:
    """Writes rows in the background, many at a time, and keeps them while PostgreSQL does not answer.

    Of a process that is killed the rows of the last quarter of a second are missing. At an orderly end everything is written; what
    PostgreSQL does not take then goes to the log, row by row.
    """

    def __init__(self, database: Database, threads: Threads) -> None:
        self._database, self._threads = database, threads
        self._waiting: deque[Entry] = deque()
        self._some = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ending = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def has_room(self) -> bool:
        """Whether more may be done that must be on record."""
        return len(self._waiting) < MOST_WAITING

    def add(
        self,
        principal: Principal,
        action: str,
        *,
        app: str | None = None,
        object_id: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Have a row written soon; see :func:`pushq.access.audit.entry`. Never waits."""
        row = entry(principal, action, app=app, object_id=object_id, detail=detail, at=datetime.now(UTC))
        if len(self._waiting) >= 2 * MOST_WAITING:
            _log([row])
            return
        self._waiting.append(row)
        self._some.set()

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            await asyncio.sleep(GATHER_S)
            self._some.clear()
            while self._waiting:
                if not await self._write():
                    if self._ending:
                        return
                    await asyncio.sleep(RETRY_S)
            if self._ending:
                return

    async def _write(self) -> bool:
        """Write the oldest rows; False when they must wait."""
        page = [self._waiting[number] for number in range(min(PAGE, len(self._waiting)))]
        try:
            await self._threads.run(self._insert, page)
        except Exception as error:  # noqa: BLE001 - whatever it is, the rows must not be lost nor the writer end
            log.error(
                "audit_waits", extra={"rows": len(self._waiting), "error": f"{type(error).__name__}: {error}"}
            )
            return False
        for _ in page:
            self._waiting.popleft()
        return True

    def _insert(self, page: Sequence[Entry]) -> None:
        with self._database.begin() as connection:
            record_all(connection, page)

    async def close(self) -> None:
        """Write what waits, or put it into the log."""
        self._ending = True
        self._some.set()
        if self._task is not None:
            try:
                async with asyncio.timeout(LAST_S):
                    await asyncio.shield(self._task)
            except TimeoutError:
                # What is with a thread now may still be written: better twice than not at all.
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        _log(self._waiting)
        self._waiting.clear()


def _log(rows: Sequence[Entry] | deque[Entry]) -> None:
    for row in rows:
        log.error(
            "audit_not_written",
            extra={
                "at": row.at,
                "actor_kind": row.actor_kind,
                "actor": row.actor,
                "actor_id": row.actor_id,
                "action": row.action,
                "app": row.app,
                "object_id": row.object_id,
                "remote": row.remote,
            },
        )
