"""Where sends stand: exact sums over their batches, however often a batch ran."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import text

from pushq.database import Database
from pushq.ledger.sends import FINAL_STATES, UnknownSend


@dataclass(frozen=True)
class Progress:
    """Where a send stands: exact sums over its batches.

    Attributes:
        seconds: from the call to the end, or until now.
        platforms: by platform ``devices`` and ``batches`` planned, every outcome of :data:`COUNTS`, and ``pending`` for those
            without a final one.
        in_flight: batches that are published or with a worker.
        parked: batches that nobody takes up again by itself (see :func:`parked`).
        rate: requests per second that the send may make; None is no limit of its own.
        retry: what differs from the configured retry policy.
    """

    id: uuid.UUID
    kind: str
    app: str
    guarantee: str
    state: str
    error: str | None
    called_at: datetime
    planned_at: datetime | None
    finished_at: datetime | None
    seconds: float
    platforms: Mapping[str, Mapping[str, int]]
    send_at: datetime | None = None
    expires_at: datetime | None = None
    rate: int | None = None
    retry: Mapping[str, float] = field(default_factory=dict)
    in_flight: int = 0
    parked: int = 0

    def total(self, column: str) -> int:
        return sum(counts[column] for counts in self.platforms.values())

    @property
    def settled(self) -> int:
        """Recipients with a final outcome."""
        return sum(self.total(name) for name in COUNTS)

    @property
    def finished(self) -> bool:
        return self.state in FINAL_STATES and self.total("pending") == 0


COUNTS = ("accepted", "dead", "rejected", "exhausted", "expired", "suppressed", "cancelled", "unknown")


def progress(database: Database, send_id: uuid.UUID) -> Progress:
    """Raises UnknownSend when there is none."""
    sums = ", ".join(f"coalesce(sum({column}), 0)::bigint AS {column}" for column in COUNTS)
    with database.begin() as connection:
        send = connection.execute(
            text(
                "SELECT kind, app, guarantee, state, error, called_at, send_at, expires_at, planned_at, finished_at, rate, options,"
                " extract(epoch FROM coalesce(finished_at, now()) - called_at)::float AS seconds FROM sends WHERE id = :id"
            ),
            {"id": send_id},
        ).first()
        if send is None:
            raise UnknownSend(f"No send has the id {send_id}. See: pushq sends")
        rows = connection.execute(
            text(
                f"""
                SELECT platform, count(*) AS batches, sum(recipients)::bigint AS devices, {sums},
                       count(*) FILTER (WHERE state IN ('queued', 'running')) AS in_flight,
                       count(*) FILTER (WHERE state = 'parked') AS parked
                FROM send_batches WHERE send_id = :id GROUP BY platform ORDER BY platform LIMIT 10
                """  # noqa: S608
            ),
            {"id": send_id},
        ).all()
    platforms: dict[str, dict[str, int]] = {}
    for row in rows:
        counts = {column: getattr(row, column) for column in COUNTS}
        platforms[row.platform] = {
            "devices": row.devices,
            "batches": row.batches,
            **counts,
            "pending": row.devices - sum(counts.values()),
        }
    return Progress(
        id=send_id,
        kind=send.kind,
        app=send.app,
        guarantee=send.guarantee,
        state=send.state,
        error=send.error,
        called_at=send.called_at,
        planned_at=send.planned_at,
        finished_at=send.finished_at,
        seconds=send.seconds,
        platforms=platforms,
        send_at=send.send_at,
        expires_at=send.expires_at,
        rate=send.rate,
        retry=send.options.get("retry", {}),
        in_flight=sum(row.in_flight for row in rows),
        parked=sum(row.parked for row in rows),
    )


def recent(
    database: Database,
    limit: int = 20,
    *,
    after: tuple[datetime, uuid.UUID] | None = None,
    apps: Collection[str] | None = None,
    states: Collection[str] | None = None,
    kind: str | None = None,
) -> list[dict[str, Any]]:
    """The newest sends, newest first.

    Args:
        after: ``created_at`` and ``id`` of the last one of the page before.
        apps: only sends of these; None: of all.
        states: only those in one of these; None: in any.
        kind: only broadcasts, or only transactional sends; None: both.
    """
    conditions: list[str] = []
    given: dict[str, Any] = {"limit": limit}
    if after is not None:
        # The first condition is where the walk along the index begins.
        conditions.append("created_at <= :at AND (created_at < :at OR id > :after)")
        given |= {"at": after[0], "after": after[1]}
    if apps is not None:
        conditions.append("app = ANY(CAST(:apps AS text[]))")
        given["apps"] = sorted(apps)
    if states is not None:
        conditions.append("state = ANY(CAST(:states AS text[]))")
        given["states"] = sorted(states)
    if kind is not None:
        # Not a parameter: broadcasts are found by an index of their own among any number of transactional sends.
        conditions.append("kind = 'broadcast'" if kind == "broadcast" else "kind = 'transactional'")
    where = " AND ".join(conditions) or "true"
    with database.begin() as connection:
        rows = connection.execute(
            text(
                "SELECT id, kind, app, guarantee, state, error, called_at, created_at, finished_at, notification->>'title' AS title"  # noqa: S608
                f" FROM sends WHERE {where} ORDER BY created_at DESC, id LIMIT :limit"
            ),
            given,
        ).all()
    return [dict(row._mapping) for row in rows]


def reasons(database: Database, send_id: uuid.UUID, limit: int = 50) -> list[dict[str, Any]]:
    """Final failures of a send by platform, outcome and reason, most frequent first."""
    with database.begin() as connection:
        rows = connection.execute(
            text(
                """
                SELECT platform, outcome, reason, count(*) AS recipients,
                       count(*) FILTER (WHERE invalidated) AS tokens_deactivated
                FROM dead_letters WHERE send_id = :id GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3 LIMIT :limit
                """
            ),
            {"id": send_id, "limit": limit},
        ).all()
    return [dict(row._mapping) for row in rows]


def parked(database: Database, send_id: uuid.UUID, limit: int = 50) -> list[dict[str, Any]]:
    """Batches that nobody takes up again by itself, with the reason, in the order of their numbers."""
    with database.begin() as connection:
        rows = connection.execute(
            text(
                "SELECT batch_no, platform, recipients, runs, error, settled_at FROM send_batches"
                " WHERE send_id = :id AND state = 'parked' ORDER BY batch_no LIMIT :limit"
            ),
            {"id": send_id, "limit": limit},
        ).all()
    return [dict(row._mapping) for row in rows]


def waiting_dead_letters(database: Database, send_id: uuid.UUID) -> int:
    """Dead letters of a send that the dead-letter task has not looked at yet."""
    with database.begin() as connection:
        return int(
            connection.execute(
                text("SELECT count(*) FROM dead_letters WHERE send_id = :id AND processed_at IS NULL"),
                {"id": send_id},
            ).scalar_one()
        )
