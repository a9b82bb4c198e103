"""The sweeper: finds whatever is due and unheld, and issues it again.

It closes the gap between commit and publish and every loss of the broker: a batch, a shard or a dead letter whose message
vanished is only late. Every statement is bounded; a second sweeper at the same time skips what the first has locked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, text

from pushq import metrics
from pushq.database import Database
from pushq.errors import ServiceUnavailable
from pushq.ledger import due, sends
from pushq.ledger.orders import DeliverBatch, Order, PlanShard, ProcessDeadLetters
from pushq.ledger.planner import finish_planning
from pushq.ledger.release import top_up
from pushq.platforms import PLATFORMS
from pushq.settings import Settings

log = logging.getLogger("pushq.sweeper")

LIMIT: Final = 1000
#: A shard whose planning has not moved for this long has lost its worker or its message. A page takes well below a second, and a
#: second message for a shard that only waited does no harm: the pages of a shard are planned one after the other whoever asks.
SHARD_STALE_S: Final = 30
#: Dead letters are due 30 s after they were written (the column's default), and again after this long.
DEAD_LETTER_AGAIN_S: Final = 120


def sweep(
    database: Database, settings: Settings, publish: Callable[[list[Order]], object] = lambda _: None
) -> list[Order]:
    """One round. A step that fails keeps no other from its turn; its error is raised at the end.

    Args:
        publish: is given what each step wants published, as soon as that is in the ledger. There it counts as published: if it came
            only at the end, an error on the way would hold it up until it is due the next time.

    Returns:
        all of that.

    Raises:
        ServiceUnavailable: PostgreSQL is gone; what had been found was given to ``publish``.
    """
    orders: list[Order] = []
    failure: Exception | None = None
    tally: dict[str, int] = {}

    def requeue(connection: Connection) -> list[Order]:
        found = due.requeue(connection, LIMIT)
        tally["leases_run_out"] = sum(each.interrupted for each in found)
        return [DeliverBatch(*each[:4]) for each in found]

    def end_abandoned(connection: Connection) -> list[Order]:
        tally["batches_abandoned"] = due.end_abandoned(connection, LIMIT)
        return []

    steps: tuple[tuple[str, Callable[[Connection], list[Order]]], ...] = (
        ("shards_started", lambda connection: _scheduled(connection, settings)),
        ("shards_issued_again", _stale_shards),
        ("batches_issued_again", requeue),
        ("batches_abandoned", end_abandoned),
        ("batches_released", lambda connection: _windows(connection, settings)),
        ("dead_letters_issued_again", _dead_letters),
    )
    for action, step in steps:
        try:
            with database.begin() as connection:
                found = step(connection)
            metrics.sweeper.labels(action).inc(tally.setdefault(action, len(found)))
            if step is requeue:
                # Of those issued again: somebody died. The others were due for a retry, or have waited long.
                metrics.sweeper.labels("leases_run_out").inc(tally["leases_run_out"])
            orders += found
            publish(found)
        except ServiceUnavailable:
            raise
        except Exception as error:
            log.exception("sweep_step_failed", extra={"step": action})
            failure = failure or error
    _finish(database)
    metrics.last_sweep.set_to_current_time()
    again, abandoned = tally.get("batches_issued_again", 0), tally.get("batches_abandoned", 0)
    if orders or abandoned:
        log.info("swept", extra={"orders": len(orders), "batches": again, "abandoned": abandoned})
    if failure is not None:
        raise failure
    return orders


def _scheduled(connection: Connection, settings: Settings) -> list[Order]:
    ready = connection.execute(
        text(
            "SELECT id FROM sends WHERE state = 'scheduled' AND coalesce(send_at, created_at) <= now()"
            " ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED"
        ),
        {"limit": LIMIT},
    ).scalars()
    return [order for send_id in list(ready) for order in sends.start_planning(connection, settings, send_id)]


def _stale_shards(connection: Connection) -> list[Order]:
    rows = connection.execute(
        text(
            """
            UPDATE send_shards h SET updated_at = now()
            FROM (
                SELECT o.send_id, o.shard_no, s.kind FROM send_shards o JOIN sends s ON s.id = o.send_id
                WHERE NOT o.done AND o.updated_at < now() - make_interval(secs => :stale) AND s.state = 'planning'
                ORDER BY o.updated_at LIMIT :limit FOR UPDATE OF o SKIP LOCKED
            ) stale
            WHERE h.send_id = stale.send_id AND h.shard_no = stale.shard_no
            RETURNING h.send_id, h.shard_no, stale.kind = 'transactional' AS transactional
            """
        ),
        {"stale": SHARD_STALE_S, "limit": LIMIT},
    ).all()
    return [PlanShard(row.send_id, row.shard_no, row.transactional) for row in rows]


def _windows(connection: Connection, settings: Settings) -> list[Order]:
    """Sends that have planned batches while their window has room: a release was lost between two steps."""
    rows = connection.execute(
        text(
            """
            SELECT s.id, p.platform, s.kind = 'transactional' AS transactional
            FROM sends s CROSS JOIN unnest(CAST(:platforms AS text[])) AS p (platform)
            WHERE s.state IN ('planning', 'sending')
              AND EXISTS (SELECT FROM send_batches b
                          WHERE b.send_id = s.id AND b.platform = p.platform AND b.state = 'planned')
              AND (SELECT count(*) FROM send_batches b
                   WHERE b.send_id = s.id AND b.platform = p.platform AND b.state IN ('queued', 'running')) < :window
            ORDER BY s.created_at, s.id, p.platform LIMIT :limit  -- the order in which everybody locks windows
            """
        ),
        {"window": settings.release_window, "limit": LIMIT, "platforms": list(PLATFORMS)},
    ).all()
    return [
        DeliverBatch(row.id, no, row.platform, row.transactional)
        for row in rows
        for no in top_up(connection, row.id, row.platform, settings.release_window)
    ]


def _dead_letters(connection: Connection) -> list[Order]:
    """Batches whose dead letters nobody has processed; each again only after a while, or a long wait would flood its queue."""
    rows = connection.execute(
        text(
            """
            UPDATE dead_letters d SET due_at = now() + make_interval(secs => :again)
            FROM (
                SELECT DISTINCT send_id, batch_no FROM (
                    SELECT send_id, batch_no FROM dead_letters
                    WHERE processed_at IS NULL AND due_at < now() ORDER BY due_at LIMIT :limit
                ) waiting
            ) due
            WHERE d.send_id = due.send_id AND d.batch_no = due.batch_no AND d.processed_at IS NULL
            RETURNING d.send_id, d.batch_no
            """
        ),
        {"again": DEAD_LETTER_AGAIN_S, "limit": LIMIT},
    ).all()
    return [
        ProcessDeadLetters(send_id, batch_no)
        for send_id, batch_no in sorted({(r.send_id, r.batch_no) for r in rows})
    ]


def _finish(database: Database) -> None:
    """Sends whose last planner or last settlement died before it could look whether it was the last."""
    with database.begin() as connection:
        planned = list(
            connection.execute(
                text(
                    """
                    SELECT s.id FROM sends s
                    WHERE s.state IN ('planning', 'paused') AND s.planned_at IS NULL
                      AND NOT EXISTS (SELECT FROM send_shards h WHERE h.send_id = s.id AND NOT h.done)
                    ORDER BY s.created_at LIMIT :limit
                    """
                ),
                {"limit": LIMIT},
            ).scalars()
        )
    for send_id in planned:
        with database.begin() as connection:
            finish_planning(connection, send_id)
    with database.begin() as connection:
        candidates = list(
            connection.execute(
                text(
                    """
                    SELECT s.id FROM sends s
                    WHERE s.state = 'sending'
                      AND NOT EXISTS (SELECT FROM send_batches b WHERE b.send_id = s.id AND b.state NOT IN ('done', 'parked'))
                    ORDER BY s.created_at LIMIT :limit
                    """
                ),
                {"limit": LIMIT},
            ).scalars()
        )
    for send_id in candidates:
        sends.finish_if_complete(database, send_id)
