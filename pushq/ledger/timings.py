"""How long sends took, by the database's and the callers' clocks: for measurements on one machine."""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import datetime

from sqlalchemy import text

from pushq.database import Database


def stages(database: Database, send_id: uuid.UUID) -> dict[str, float]:
    """Seconds after the call at which a send was accepted, planned, and had its first and its last batch settled."""
    with database.begin() as connection:
        row = connection.execute(
            text(
                """
                SELECT extract(epoch FROM s.created_at - s.called_at)::float AS accepted,
                       extract(epoch FROM s.planned_at - s.called_at)::float AS planned,
                       extract(epoch FROM min(b.settled_at) - s.called_at)::float AS first_batch,
                       extract(epoch FROM max(b.settled_at) - s.called_at)::float AS last_batch
                  FROM sends s JOIN send_batches b ON b.send_id = s.id WHERE s.id = :id GROUP BY s.id
                """
            ),
            {"id": send_id},
        ).one()
    return {name: value for name, value in row._asdict().items() if value is not None}


def transactional_ends(
    database: Database, since: datetime | None = None, limit: int = 1_000_000
) -> tuple[list[float], Counter[str]]:
    """Seconds from call to end of the transactional sends that are done, and why others failed (or ``cancelled``).

    Args:
        since: only of calls from then on, by the callers' clocks.
    """
    with database.begin() as connection:
        rows = connection.execute(
            text(
                """
                SELECT extract(epoch FROM finished_at - called_at)::float AS seconds, state, error FROM sends
                 WHERE kind = 'transactional' AND state IN ('done', 'failed', 'cancelled')
                   AND (CAST(:since AS timestamptz) IS NULL OR called_at >= :since)
                 ORDER BY called_at LIMIT :limit
                """
            ),
            {"limit": limit, "since": since},
        ).all()
    done = [row.seconds for row in rows if row.state == "done"]
    return done, Counter(row.error or row.state for row in rows if row.state != "done")


def database_bytes(database: Database) -> int:
    """Size of the whole database on disk."""
    with database.begin() as connection:
        size: int = connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
    return size
