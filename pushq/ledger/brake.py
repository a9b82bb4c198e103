"""The brake: sends that are stopped, paused, resumed or slowed down while they run."""

from __future__ import annotations

import uuid

from sqlalchemy import Connection, text

from pushq import metrics
from pushq.ledger.outcomes import COLUMNS, Outcome
from pushq.ledger.sends import FINAL_STATES

#: Why nobody knows of a recipient whose worker had vanished, when the send was stopped before another could look.
SEND_STOPPED = "no_answer_send_stopped"

_OPEN = f"b.recipients - {' - '.join(f'b.{column}' for column in COLUMNS.values())}"
# Every outcome is below 16: the first digit of each pair is 0, so what is looked for is never found across two pairs.
_ENDING = f"CASE WHEN b.lease_token IS NULL THEN '{Outcome.CANCELLED:02x}' ELSE '{Outcome.UNKNOWN:02x}' END"
# Assignments that end a batch ``b`` of a stopped send. Who had it when it was cut off may have reached anybody in it.
_END_BATCH = f"""
    state = 'done', settled_at = now(), due_at = NULL, lease_token = NULL,
    outcomes = decode(coalesce(
        replace(replace(encode(b.outcomes, 'hex'), '{Outcome.PENDING:02x}', {_ENDING}), '{Outcome.CLAIMED:02x}', {_ENDING}),
        repeat({_ENDING}, b.recipients)), 'hex'),
    cancelled = b.cancelled + CASE WHEN b.lease_token IS NULL THEN {_OPEN} ELSE 0 END,
    unknown = b.unknown + CASE WHEN b.lease_token IS NULL THEN 0 ELSE {_OPEN} END
"""


def keep_from_stopping(connection: Connection, send_id: uuid.UUID) -> None:
    """Until this transaction ends the send is not stopped. What its state is has to be read after this.

    An advisory lock, for these are granted in the order of asking. A row that is locked FOR SHARE again and again lets whoever
    wants to change it wait for as long as the shares overlap.
    """
    connection.execute(
        text("SELECT pg_advisory_xact_lock_shared(hashtextextended(:key, 0))"), {"key": f"stop:{send_id}"}
    )


def stop(connection: Connection, send_id: uuid.UUID, *, state: str, error: str | None) -> bool:
    """End a send for good: nothing more is planned or sent; what is in flight settles. False when it had ended before.

    Recipients without a final outcome are counted as cancelled, or as unknown where a worker vanished with them. Batches that are
    held end with their settlement, or by :func:`pushq.ledger.due.end_abandoned`.
    """
    row = connection.execute(
        text(
            """
            UPDATE sends SET state = :state, error = :error, finished_at = now()
            WHERE id = :id AND state IN ('scheduled', 'planning', 'sending', 'paused') RETURNING id
            """
        ),
        {"id": send_id, "state": state, "error": error},
    ).first()
    if row is None:
        return False
    # Not before the row: everybody who stops a send has its row first, so two of them cannot wait for each other.
    connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": f"stop:{send_id}"}
    )
    connection.execute(
        text("UPDATE send_shards SET done = true WHERE send_id = :id AND NOT done"), {"id": send_id}
    )
    end_batches(
        connection,
        "o.send_id = :id AND o.state IN ('planned', 'queued', 'retry') FOR UPDATE OF o",
        id=send_id,
    )
    return True


def end_batches(connection: Connection, which: str, **params: object) -> int:
    """End batches of stopped sends that nobody holds, with a dead letter for everyone of whom nobody knows. Returns how many.

    Args:
        which: the condition on a batch ``o`` and its send ``s``, and how they are locked.
    """
    # One statement: the letters are of exactly those that end here as unknown, whatever the sweeper does meanwhile.
    ended = connection.execute(
        text(
            f"""
            WITH chosen AS MATERIALIZED (
                SELECT o.send_id, o.batch_no, o.platform, o.lease_token, o.user_ids, o.device_ids, o.outcomes, o.attempts, s.app,
                       s.kind, {_OPEN.replace("b.", "o.")} AS open
                FROM send_batches o JOIN sends s ON s.id = o.send_id WHERE {which}
            ), letters AS (
                INSERT INTO dead_letters (send_id, batch_no, position, user_id, device_id, app, platform, outcome, reason, attempt)
                SELECT c.send_id, c.batch_no, r.number - 1, r.user_id, r.device_id, c.app, c.platform, :unknown, :reason,
                       coalesce(get_byte(c.attempts, r.number::integer - 1), 0)
                FROM chosen c,
                     unnest(c.user_ids, c.device_ids) WITH ORDINALITY AS r (user_id, device_id, number)
                WHERE c.lease_token IS NOT NULL
                  AND coalesce(get_byte(c.outcomes, r.number::integer - 1), :pending) IN (:pending, :claimed)
            ), ended AS (
                UPDATE send_batches b SET {_END_BATCH} FROM chosen c
                WHERE b.send_id = c.send_id AND b.batch_no = c.batch_no
                RETURNING b.batch_no
            )
            SELECT NULL AS app, NULL AS platform, NULL AS kind, false AS lost, count(*) AS n FROM ended
            UNION ALL SELECT app, platform, kind, lease_token IS NOT NULL, sum(open) FROM chosen GROUP BY 1, 2, 3, 4
            """  # noqa: S608
        ),
        {
            "unknown": COLUMNS[Outcome.UNKNOWN],
            "reason": SEND_STOPPED,
            "pending": int(Outcome.PENDING),
            "claimed": int(Outcome.CLAIMED),
            **params,
        },
    ).all()
    for row in ended:
        if row.app is None:
            continue
        outcome = Outcome.UNKNOWN if row.lost else Outcome.CANCELLED
        metrics.push_failed.labels(row.app, row.platform, row.kind, outcome.name.lower()).inc(int(row.n))
        if row.lost:
            metrics.push_dead_letters.labels(row.app, row.platform, outcome.name.lower()).inc(int(row.n))
            metrics.unknown.labels(row.app, row.platform, SEND_STOPPED).inc(int(row.n))
    return sum(int(row.n) for row in ended if row.app is None)


def pause(connection: Connection, send_id: uuid.UUID, error: str | None = None) -> bool:
    """Hold a running send: no batch of it is begun until :func:`resume`. False when it was not running."""
    row = connection.execute(
        text(
            "UPDATE sends SET state = 'paused', error = :error WHERE id = :id AND state IN ('planning', 'sending') RETURNING id"
        ),
        {"id": send_id, "error": error},
    ).first()
    return row is not None


def resume(connection: Connection, send_id: uuid.UUID, *, trust_rejections: bool = False) -> bool:
    """Let a paused send go on; the sweeper publishes its batches again. False when it was not paused.

    Args:
        trust_rejections: from now on mass rejections of this send's tokens are taken for true, and the tokens out of use.
    """
    row = connection.execute(
        text(
            """
            UPDATE sends SET state = CASE WHEN planned_at IS NULL THEN 'planning' ELSE 'sending' END, error = NULL,
                   options = CASE WHEN :trust THEN jsonb_set(options, '{trust_rejections}', 'true') ELSE options END,
                   version = version + CASE WHEN :trust THEN 1 ELSE 0 END
            WHERE id = :id AND state = 'paused' RETURNING id
            """
        ),
        {"id": send_id, "trust": trust_rejections},
    ).first()
    if row is None:
        return False
    connection.execute(
        text(
            # A wait that a provider asked for is not over because of a pause.
            "UPDATE send_batches SET due_at = greatest(now(), retry_at), publishes = 0"
            " WHERE send_id = :id AND state IN ('queued', 'retry')"
        ),
        {"id": send_id},
    )
    connection.execute(
        text("UPDATE send_shards SET updated_at = '-infinity' WHERE send_id = :id AND NOT done"),
        {"id": send_id},
    )
    return True


def set_rate(connection: Connection, send_id: uuid.UUID, rate: int | None) -> bool:
    """Change how many requests per second all workers together make for a send; None: no limit of its own. False when it has ended."""
    row = connection.execute(
        text(
            "UPDATE sends SET rate = :rate WHERE id = :id AND state <> ALL(CAST(:final AS text[])) RETURNING id"
        ),
        {"id": send_id, "rate": rate, "final": list(FINAL_STATES)},
    ).first()
    return row is not None
