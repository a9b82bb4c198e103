"""Batches whose time has come, and that nobody holds: published again, or ended with their send."""

from __future__ import annotations

import uuid
from typing import NamedTuple

from sqlalchemy import Connection, text

from pushq.database import Database
from pushq.ledger import brake
from pushq.ledger.release import REPUBLISH_AFTER_S


def make_due(database: Database, send_id: uuid.UUID, batch_no: int) -> None:
    """A message that could not be worked off was dropped: let the sweeper publish the batch again at once."""
    with database.begin() as connection:
        connection.execute(
            text(
                "UPDATE send_batches SET due_at = greatest(now(), retry_at), publishes = 0"
                " WHERE send_id = :send AND batch_no = :no AND state IN ('queued', 'retry') AND due_at > now()"
            ),
            {"send": send_id, "no": batch_no},
        )


class Due(NamedTuple):
    """A batch that is published again; ``interrupted``: somebody had it in hand and let the lease run out."""

    send_id: uuid.UUID
    batch_no: int
    platform: str
    transactional: bool
    interrupted: bool


def requeue(connection: Connection, limit: int) -> list[Due]:
    """Batches that are due and that nobody holds, marked as published again.

    A running one whose lease is over keeps the old token while it is queued: whoever takes it up sees that it was interrupted,
    and its old holder is fenced from now on.
    """
    rows = connection.execute(
        text(
            """
            UPDATE send_batches b
            SET publishes = b.publishes + 1, state = CASE WHEN b.state = 'running' THEN 'queued' ELSE b.state END,
                due_at = now() + make_interval(secs => :after * power(2, least(b.publishes, 5)))
            FROM (
                SELECT o.send_id, o.batch_no, o.state AS was, s.kind FROM send_batches o JOIN sends s ON s.id = o.send_id
                WHERE o.state IN ('queued', 'running', 'retry') AND o.due_at < now() AND s.state IN ('planning', 'sending')
                ORDER BY o.due_at LIMIT :limit FOR UPDATE OF o SKIP LOCKED
            ) due
            WHERE b.send_id = due.send_id AND b.batch_no = due.batch_no
            RETURNING b.send_id, b.batch_no, b.platform, due.kind = 'transactional' AS transactional,
                due.was = 'running' AS interrupted
            """
        ),
        {"after": REPUBLISH_AFTER_S, "limit": limit},
    ).all()
    return [Due(row.send_id, row.batch_no, row.platform, row.transactional, row.interrupted) for row in rows]


def end_abandoned(connection: Connection, limit: int) -> int:
    """End batches that a stopped send left with somebody who never settled them. Returns how many."""
    return brake.end_batches(
        connection,
        """
        o.state IN ('queued', 'running', 'retry') AND o.due_at < now() AND s.state IN ('done', 'failed', 'cancelled')
        ORDER BY o.due_at LIMIT :limit FOR UPDATE OF o SKIP LOCKED
        """,
        limit=limit,
    )
