"""Small, fresh batches of many sends, taken up in one statement and settled in one.

For transactional sends: each is a row or two, and a statement for each would cost more than all that is done with them. Whatever is not
fresh (another holder vanished with it, it was tried before) or does not end well is for :mod:`pushq.ledger.batches`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text

from pushq.database import Database
from pushq.ledger import sends
from pushq.ledger.batches import Lease
from pushq.ledger.outcomes import Outcome
from pushq.ledger.sends import Send

_TAKE_UP: Final = text(
    f"""
    UPDATE send_batches b
    SET state = 'running', lease_token = before.token, due_at = now() + make_interval(secs => :lease), runs = b.runs + 1,
        publishes = 0
    FROM (
        SELECT o.send_id, o.batch_no, g.token, {sends.SEND_COLUMNS}
        FROM unnest(CAST(:sends AS uuid[]), CAST(:numbers AS integer[]), CAST(:tokens AS uuid[])) AS g (send_id, batch_no, token)
        JOIN send_batches o ON o.send_id = g.send_id AND o.batch_no = g.batch_no
        JOIN sends s ON s.id = o.send_id
        WHERE s.state IN ('planning', 'sending') AND s.kind = 'transactional'
          AND o.state = 'queued' AND o.lease_token IS NULL AND o.outcomes IS NULL
        FOR UPDATE OF o SKIP LOCKED
    ) before
    WHERE b.send_id = before.send_id AND b.batch_no = before.batch_no
    RETURNING b.send_id, b.batch_no, b.platform, b.lease_token, b.user_ids, b.device_ids, b.recipients, b.runs, before.kind,
              before.app, before.guarantee, before.notification, before.called_at, before.expires_at, before.rate,
              before.options, before.version, before.target
    """  # noqa: S608
)

_SETTLE: Final = text(
    """
    WITH given AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:sends AS uuid[]), CAST(:numbers AS integer[]), CAST(:tokens AS uuid[]), CAST(:outcomes AS bytea[]),
                             CAST(:attempts AS bytea[]), CAST(:tries AS integer[]), CAST(:accepted AS integer[]),
                             CAST(:suppressed AS integer[]))
        AS g (send_id, batch_no, token, outcomes, attempts, tries, accepted, suppressed)
    ), written AS (
        UPDATE send_batches b
        SET state = 'done', outcomes = g.outcomes, attempt = g.tries, attempts = g.attempts, lease_token = NULL, crashes = 0,
            error = NULL, settled_at = now(), accepted = g.accepted, suppressed = g.suppressed, due_at = NULL
        FROM given g
        WHERE b.send_id = g.send_id AND b.batch_no = g.batch_no AND b.lease_token = g.token AND b.state = 'running'
        RETURNING b.send_id, b.batch_no
    ), whole AS (
        -- Sends of which every batch is written here, so that nobody else can be the last.
        SELECT w.send_id FROM written w GROUP BY 1
        HAVING count(*) = (SELECT count(*) FROM send_batches o WHERE o.send_id = w.send_id)
    ), finished AS (
        UPDATE sends s SET state = 'done', finished_at = now() FROM whole w
        WHERE s.id = w.send_id AND s.state = 'sending' AND s.planned_at IS NOT NULL
        RETURNING s.id
    )
    SELECT w.send_id, w.batch_no, EXISTS (SELECT FROM finished f WHERE f.id = w.send_id) AS finished,
           EXISTS (SELECT FROM send_batches p WHERE p.send_id = w.send_id AND p.state = 'planned') AS waiting
    FROM written w
    """
)

_FINISH: Final = text(
    """
    UPDATE sends s SET state = 'done', finished_at = now()
    WHERE s.id = ANY(CAST(:ids AS uuid[])) AND s.state = 'sending' AND s.planned_at IS NOT NULL
      AND NOT EXISTS (SELECT FROM send_batches b WHERE b.send_id = s.id AND b.state NOT IN ('done', 'parked'))
    """
)


@dataclass(frozen=True)
class Ended:
    """A batch in which everybody has a final outcome and nobody a dead letter.

    Attributes:
        outcomes: one byte per recipient, accepted or suppressed.
        attempts: how often each was tried.
    """

    lease: Lease
    outcomes: bytes
    attempts: bytes


@dataclass(frozen=True)
class Written:
    """Keys of the batches that were settled, and those of them whose sends have batches that wait to be released."""

    settled: frozenset[tuple[uuid.UUID, int]]
    waiting: frozenset[tuple[uuid.UUID, int]]


def take_up(
    database: Database, keys: Sequence[tuple[uuid.UUID, int]], lease_seconds: float
) -> list[tuple[Lease, Send]]:
    """Leases of those batches that are fresh and due, with their sends; the others are left as they are."""
    asked_at = time.monotonic()
    own = dict.fromkeys(keys)
    with database.alone() as connection:
        rows = connection.execute(
            _TAKE_UP,
            {
                "sends": [send_id for send_id, _ in own],
                "numbers": [number for _, number in own],
                "tokens": [uuid.uuid4() for _ in own],
                "lease": lease_seconds,
            },
        ).all()
    return [
        (
            Lease(
                row.send_id,
                row.batch_no,
                row.platform,
                row.lease_token,
                row.user_ids,
                row.device_ids,
                bytes(row.recipients),
                bytes(row.recipients),
                row.runs,
                interrupted=False,
                send_version=row.version,
                rate=row.rate,
                taken_at=asked_at,
            ),
            sends.from_row(row.send_id, row),
        )
        for row in rows
    ]


def settle(database: Database, ended: Sequence[Ended]) -> Written:
    """Write final outcomes, and finish the sends that are done with it. A batch with another holder is not written."""
    with database.alone() as connection:
        rows = connection.execute(
            _SETTLE,
            {
                "sends": [each.lease.send_id for each in ended],
                "numbers": [each.lease.batch_no for each in ended],
                "tokens": [each.lease.token for each in ended],
                "outcomes": [each.outcomes for each in ended],
                "attempts": [each.attempts if any(each.attempts) else None for each in ended],
                "tries": [max(each.attempts) for each in ended],
                "accepted": [each.outcomes.count(Outcome.ACCEPTED) for each in ended],
                "suppressed": [each.outcomes.count(Outcome.SUPPRESSED) for each in ended],
            },
        ).all()
    open_ones = {row.send_id for row in rows if not row.finished and not row.waiting}
    if open_ones:
        # After the settlement, in a transaction of its own: of two last settlements at least the later one sees both.
        with database.alone() as connection:
            connection.execute(_FINISH, {"ids": sorted(open_ones)})
    settled = frozenset((row.send_id, row.batch_no) for row in rows)
    for each in ended:
        each.lease.given_up = each.lease.given_up or each.lease.key in settled
    return Written(settled, frozenset((row.send_id, row.batch_no) for row in rows if row.waiting))
