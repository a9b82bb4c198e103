"""Batches: taking one up under a lease, extending the lease, and settling what an attempt achieved.

One holder works on a batch at a time. The lease's token fences: every write of the holder carries it, so a holder that slept
through its lease can change nothing any more.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import orjson
from sqlalchemy import Connection, text

from pushq.database import Database
from pushq.errors import PushqError
from pushq.ledger import brake, sends
from pushq.ledger.outcomes import COLUMNS, Outcome, count
from pushq.ledger.release import top_up

#: A retry's message may arrive a little before its time: clocks of worker and database differ.
EARLY_S = 1.0
#: How long after a retry's time the sweeper waits for Celery's own message before it publishes another.
RETRY_GRACE_S = 15.0
#: Waits up to this are a message with a countdown; longer ones are only a due time in the ledger.
MAX_COUNTDOWN_S = 60.0


class Fenced(PushqError):
    """The lease is over and somebody else may hold the batch: stop, and write nothing."""


@dataclass
class Lease:
    """A batch that this process may work on.

    Attributes:
        user_ids, device_ids: one entry per recipient, in the order of ``outcomes``.
        outcomes: as of the last settlement; None bytes are never used: a batch that never ran has all pending.
        attempts: how often each recipient was tried, as of the last settlement.
        waits: seconds from now before which a pending recipient is not to be tried; None: nobody has to wait.
        early_s: seconds that this message came before the batch's time.
        interrupted: an earlier holder vanished without settling; its journal tells how far it came.
        crashes: holders in a row that vanished.
        rate: of the send, requests per second for the whole fleet; None: no limit of its own.
        send_version: of the send's row: what was kept of the send under another one is out of date.
        taken_at: by this process's monotonic clock; the lease began no earlier.
        lost: set when the lease could not be extended.
        given_up: set when its holder settled the batch or handed it back.
    """

    send_id: uuid.UUID
    batch_no: int
    platform: str
    token: uuid.UUID
    user_ids: list[int]
    device_ids: list[int]
    outcomes: bytes
    attempts: bytes
    runs: int
    interrupted: bool
    send_version: int = 0
    waits: list[float] | None = None
    early_s: float = 0.0
    crashes: int = 0
    rate: int | None = None
    taken_at: float = field(default_factory=time.monotonic, compare=False)
    lost: bool = field(default=False, compare=False)
    given_up: bool = field(default=False, compare=False)

    @property
    def key(self) -> tuple[uuid.UUID, int]:
        return self.send_id, self.batch_no

    @property
    def generation(self) -> int:
        """Grows with every holder of the batch: a replay counts runs from none again, and raises the version."""
        return self.send_version << 32 | self.runs


def acquire(
    database: Database, send_id: uuid.UUID, batch_no: int, lease_seconds: float, *, suspects: bool = True
) -> Lease | None:
    """Take up a batch, or None when it is finished, held, not due, or its send is not running.

    Reading a live lease means that this message is a repetition: it can be dropped, the sweeper will look again.

    Args:
        suspects: whether also a batch whose last holder vanished with it.
    """
    token, asked_at = uuid.uuid4(), time.monotonic()
    with database.begin() as connection:
        row = connection.execute(
            text(
                """
                UPDATE send_batches b
                SET state = 'running', lease_token = :token, due_at = now() + make_interval(secs => :lease),
                    runs = b.runs + 1, retry_at = NULL,
                    publishes = 0,  -- its message arrived: should the next one be lost, that is noticed as soon as the first
                    crashes = b.crashes + CASE WHEN before.lease_token IS NULL THEN 0 ELSE 1 END
                FROM (
                    SELECT o.lease_token, s.rate, s.version,
                           CASE WHEN o.state = 'retry' THEN greatest(extract(epoch FROM o.retry_at - now()), 0) ELSE 0 END AS early
                    FROM send_batches o JOIN sends s ON s.id = o.send_id
                    WHERE o.send_id = :send AND o.batch_no = :no AND s.state IN ('planning', 'sending')
                      AND (:suspects OR o.lease_token IS NULL)
                      AND (o.state = 'queued'
                           OR (o.state = 'retry' AND o.retry_at <= now() + make_interval(secs => :early))
                           OR (o.state = 'running' AND o.due_at < now()))
                    FOR UPDATE OF o SKIP LOCKED
                ) before
                WHERE b.send_id = :send AND b.batch_no = :no
                RETURNING b.platform, b.user_ids, b.device_ids, b.outcomes, b.attempts, b.waits, b.runs, b.crashes, b.recipients,
                          extract(epoch FROM now() - b.settled_at) AS age, before.early, before.rate, before.version,
                          before.lease_token IS NOT NULL AS interrupted
                """
            ),
            {
                "send": send_id,
                "no": batch_no,
                "token": token,
                "lease": lease_seconds,
                "early": EARLY_S,
                "suspects": suspects,
            },
        ).first()
    if row is None:
        return None
    # Both ends on the database's clock: a worker whose clock is ahead must not send early.
    waits = None if row.waits is None else [wait / 1000 - float(row.age or 0) for wait in row.waits]
    return Lease(
        send_id,
        batch_no,
        row.platform,
        token,
        row.user_ids,
        row.device_ids,
        bytes(row.recipients) if row.outcomes is None else bytes(row.outcomes),
        bytes(row.recipients) if row.attempts is None else bytes(row.attempts),
        row.runs,
        row.interrupted,
        waits=waits,
        early_s=float(row.early),
        crashes=row.crashes,
        rate=row.rate,
        send_version=row.version,
        taken_at=asked_at,
    )


def extend(database: Database, leases: Sequence[Lease], lease_seconds: float) -> None:
    """Push the end of all these leases out; those that are gone get ``lost`` set."""
    with database.begin() as connection:
        kept = connection.execute(
            text(
                """
                UPDATE send_batches b SET due_at = now() + make_interval(secs => :lease)
                FROM unnest(CAST(:sends AS uuid[]), CAST(:nos AS integer[]), CAST(:tokens AS uuid[])) AS held (send_id, no, token)
                WHERE b.send_id = held.send_id AND b.batch_no = held.no AND b.lease_token = held.token AND b.state = 'running'
                RETURNING b.lease_token
                """
            ),
            {
                "lease": lease_seconds,
                "sends": [lease.send_id for lease in leases],
                "nos": [lease.batch_no for lease in leases],
                "tokens": [lease.token for lease in leases],
            },
        ).scalars()
        alive = set(kept)
    for lease in leases:
        if lease.token not in alive:
            lease.lost = True


@dataclass(frozen=True)
class DeadLetter:
    """A recipient that ended in a final failure, by its position in the batch."""

    position: int
    outcome: Outcome
    status: int | None
    reason: str
    invalid_since: datetime | None


@dataclass(frozen=True)
class Settled:
    """What a settlement led to: batches that may now be published, and whether there are dead letters to look at.

    Attributes:
        ended: by column, how many recipients got their final outcome with it.
    """

    released: list[int]
    dead_letters: bool
    done: bool
    ended: Mapping[str, int]


def settle(
    database: Database,
    lease: Lease,
    outcomes: bytes,
    *,
    attempts: bytes,
    window: int,
    retry_in: float | None,
    waits: Sequence[float] | None = None,
    dead: Iterable[DeadLetter] = (),
    error: str | None = None,
    parked: bool = False,
) -> Settled:
    """Write what an attempt achieved, together with its dead letters, and free its place in the window.

    Args:
        outcomes: one byte per recipient; no CLAIMED.
        attempts: how often each recipient has been tried.
        window: of the send's batches, so many are published or running at a time.
        retry_in: seconds until the next attempt while recipients are pending, else None; 0 means that the sweeper publishes it.
        waits: seconds before which each recipient is not to be tried, where these differ; only those of pending ones count.
        error: what stands in the way, for people.
        parked: nobody is to take the batch up again by itself.

    Raises:
        Fenced: the lease was lost; nothing was written.
    """
    with database.begin() as connection:
        # Nobody may stop the send between this look and the write: the batch would wait for a retry for ever.
        brake.keep_from_stopping(connection, lease.send_id)
        state = connection.execute(
            text("SELECT state FROM sends WHERE id = :send"), {"send": lease.send_id}
        ).scalar_one_or_none()
        if state in sends.FINAL_STATES:
            # The send was stopped while this batch was in flight: what is still open will not be sent.
            outcomes = outcomes.translate(_OPEN_CANCELLED)
            retry_in = None
        state_after = "parked" if parked else "done"
        if retry_in is not None:
            state_after = "retry" if retry_in > 0 else "queued"
        counts = count(outcomes)
        pending = counts.pop("pending")
        if (pending == 0) is not (retry_in is None):
            raise ValueError(f"{pending} recipients are pending, but retry_in is {retry_in}")
        assignments = ", ".join(f"{column} = :{column}" for column in COLUMNS.values())
        written = connection.execute(
            text(
                f"""
                UPDATE send_batches
                SET state = :state, outcomes = :outcomes, attempt = :attempt, attempts = :attempts, waits = :waits,
                    lease_token = NULL, crashes = 0, error = :error, settled_at = now(), {assignments},
                    retry_at = CASE WHEN :retry_in > 0 THEN now() + make_interval(secs => :retry_in) END,
                    due_at = now() + make_interval(secs => :retry_in + :grace)
                WHERE send_id = :send AND batch_no = :no AND lease_token = :token AND state = 'running'
                """  # noqa: S608
            ),
            {
                "state": state_after,
                "outcomes": outcomes,
                "attempt": max(attempts),
                "attempts": attempts if any(attempts) else None,
                "waits": None
                if waits is None or retry_in is None
                else [math.ceil(max(wait, 0.0) * 1000) for wait in waits],
                "error": error,
                "retry_in": retry_in,
                "grace": RETRY_GRACE_S
                if state_after == "retry" and (retry_in or 0) <= MAX_COUNTDOWN_S
                else 0.0,
                "send": lease.send_id,
                "no": lease.batch_no,
                "token": lease.token,
                **counts,
            },
        ).rowcount
        if written != 1:
            raise Fenced(f"batch {lease.batch_no} of send {lease.send_id} has another holder")
        letters = list(dead)
        if letters:
            _bury(connection, lease, attempts, letters)
        released = (
            top_up(connection, lease.send_id, lease.platform, window)
            if state in ("planning", "sending")
            else []
        )
    lease.given_up = True
    before = count(lease.outcomes)
    ended = {column: number - before[column] for column, number in counts.items()}
    return Settled(released, bool(letters), retry_in is None, ended)


_OPEN_CANCELLED = bytes.maketrans(
    bytes([Outcome.PENDING, Outcome.CLAIMED]), bytes([Outcome.CANCELLED, Outcome.CANCELLED])
)


def hand_back(
    database: Database, lease: Lease, *, delay: float, interrupted: bool = False, error: str | None = None
) -> bool:
    """Give a batch up unsent, to be published again by the sweeper after ``delay`` seconds. False when the lease was lost.

    Args:
        interrupted: whether the next holder still has to find out how far an earlier one came.
    """
    with database.begin() as connection:
        rows = connection.execute(
            text(
                """
                UPDATE send_batches
                SET state = 'queued', error = :error, due_at = now() + make_interval(secs => :delay),
                    lease_token = CASE WHEN :interrupted THEN lease_token END,
                    -- The holder lives; the next one must not be told of another crash.
                    crashes = CASE WHEN :interrupted THEN greatest(crashes - 1, 0) ELSE 0 END
                WHERE send_id = :send AND batch_no = :no AND lease_token = :token AND state = 'running'
                """
            ),
            {
                "send": lease.send_id,
                "no": lease.batch_no,
                "token": lease.token,
                "delay": delay,
                "error": error,
                "interrupted": interrupted,
            },
        ).rowcount
    lease.given_up = True
    return rows == 1


def _bury(connection: Connection, lease: Lease, attempts: bytes, letters: Sequence[DeadLetter]) -> None:
    connection.execute(
        text(
            """
            INSERT INTO dead_letters (send_id, batch_no, position, user_id, device_id, app, platform, outcome, status, reason,
                                      attempt, invalid_since)
            SELECT s.id, :no, l.position, l.user_id, l.device_id, s.app, :platform, l.outcome, l.status, l.reason, l.attempt,
                   l.invalid_since
            FROM sends s, json_to_recordset(CAST(:letters AS json))
                 AS l (position integer, user_id bigint, device_id bigint, outcome text, status integer, reason text,
                       attempt integer, invalid_since timestamptz)
            WHERE s.id = :send
            """
        ),
        {
            "send": lease.send_id,
            "no": lease.batch_no,
            "platform": lease.platform,
            # Eight arrays of some hundred each take the driver many times as long.
            "letters": orjson.dumps(
                [
                    {
                        "position": letter.position,
                        "user_id": lease.user_ids[letter.position],
                        "device_id": lease.device_ids[letter.position],
                        "outcome": COLUMNS[letter.outcome],
                        "status": letter.status,
                        "reason": letter.reason,
                        "attempt": attempts[letter.position],
                        "invalid_since": letter.invalid_since,
                    }
                    for letter in letters
                ]
            ).decode(),
        },
    )
