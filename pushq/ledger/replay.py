"""Replay: recipients that ended undelivered are opened again, on an operator's order.

Their outcome goes back to pending, their tries back to none, their dead letters go, and the send runs again with a new expiry. What
was accepted and whose token is dead is never touched. One transaction: all of a replay happens, or nothing.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, text

from pushq.database import Database
from pushq.errors import InvalidRequest
from pushq.ledger.outcomes import COLUMNS, Outcome
from pushq.ledger.sends import FINAL_STATES, WrongState, lock
from pushq.notification import parse_notification
from pushq.platforms import PLATFORMS
from pushq.submission import lifetime

log = logging.getLogger("pushq.sends")

#: What may be sent again, by its name. `exhausted` of an at_least_once send may have been delivered; that guarantee allows it.
REPLAYABLE: Final = {
    COLUMNS[outcome]: outcome
    for outcome in (
        Outcome.EXHAUSTED,
        Outcome.EXPIRED,
        Outcome.CANCELLED,
        Outcome.REJECTED,
        Outcome.SUPPRESSED,
        Outcome.UNKNOWN,
    )
}
#: Batches read and written together; 5,000 recipients each, by default.
PAGE: Final = 50


@dataclass(frozen=True)
class Choice:
    """Which recipients of a send are meant.

    Attributes:
        outcomes: names from :data:`REPLAYABLE`.
        reasons, platforms: only those with one of them; empty for all. A reason is that of the dead letter: who has none has no reason.
    """

    outcomes: tuple[str, ...]
    reasons: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()


def choose(
    outcomes: Collection[str],
    *,
    reasons: Collection[str] = (),
    platforms: Collection[str] = (),
    may_duplicate: bool = False,
) -> Choice:
    """Check what an operator wants to send again.

    Raises:
        InvalidRequest: no outcome, or one that cannot be replayed; ``unknown`` without ``may_duplicate``; an unknown platform.
    """
    if not outcomes:
        raise InvalidRequest("outcome", "none", f"some of: {', '.join(REPLAYABLE)}")
    for outcome in outcomes:
        if outcome not in REPLAYABLE:
            raise InvalidRequest("outcome", repr(outcome), f"some of: {', '.join(REPLAYABLE)}")
    if "unknown" in outcomes and not may_duplicate:
        raise InvalidRequest(
            "outcome",
            "'unknown', which may have been delivered",
            "may_duplicate as well (--may-duplicate), if some may get it twice",
        )
    for platform in platforms:
        if platform not in PLATFORMS:
            raise InvalidRequest("platform", repr(platform), f"some of: {', '.join(PLATFORMS)}")
    return Choice(tuple(dict.fromkeys(outcomes)), tuple(reasons), tuple(platforms))


@dataclass(frozen=True)
class Replay:
    """What is sent again.

    Attributes:
        recipients: how many, in all.
        platforms: how many, by platform and outcome.
        batches: how many batches they are in.
        unplanned: the send was stopped before all of its audience was planned: that part is in no batch and stays unsent.
    """

    send_id: uuid.UUID
    recipients: int
    batches: int
    platforms: dict[str, dict[str, int]] = field(default_factory=dict)
    unplanned: bool = False


def preview(database: Database, send_id: uuid.UUID, choice: Choice) -> Replay:
    """What :func:`replay` would send again; changes nothing.

    Raises:
        UnknownSend: there is none.
        WrongState: it has not ended.
    """
    with database.begin() as connection:
        return _go_through(connection, send_id, choice, change=False)


def replay(
    database: Database,
    send_id: uuid.UUID,
    choice: Choice,
    *,
    also: Callable[[Connection, Replay], None] = lambda _, __: None,
) -> Replay:
    """Open the chosen recipients again; the sweeper publishes their batches. With nobody chosen nothing changes.

    Args:
        also: what belongs to the same transaction, when something changed.

    Raises:
        UnknownSend: there is none.
        WrongState: it has not ended, or a worker still holds one of its batches.
    """
    with database.begin() as connection:
        done = _go_through(connection, send_id, choice, change=True)
        if done.recipients:
            also(connection, done)
    if done.recipients:
        log.info(
            "send_replayed",
            extra={
                "send_id": str(send_id),
                "recipients": done.recipients,
                "batches": done.batches,
                "outcomes": choice.outcomes,
                "reasons": choice.reasons,
            },
        )
    return done


def _go_through(connection: Connection, send_id: uuid.UUID, choice: Choice, *, change: bool) -> Replay:
    send = lock(connection, send_id)
    if send.state not in FINAL_STATES:
        raise WrongState(
            send_id, send.state, "replayed", "one that has ended; wait for its end, or cancel it"
        )
    held = connection.execute(
        text("SELECT count(*) FROM send_batches WHERE send_id = :id AND state NOT IN ('done', 'parked')"),
        {"id": send_id},
    ).scalar_one()
    if held:
        raise WrongState(
            send_id,
            f"{send.state}, and {held:,} of its batches are being ended",
            "replayed",
            "to wait for them",
        )
    recipients = batches = 0
    platforms: dict[str, dict[str, int]] = {}
    for page in _pages(connection, send_id, choice):
        changed = [opened for opened in (_open(row, choice) for row in page) if opened is not None]
        for batch in changed:
            counts = platforms.setdefault(batch.platform, {})
            for name, count in batch.counts.items():
                counts[name] = counts.get(name, 0) + count
                recipients += count
        batches += len(changed)
        if change and changed:
            _write(connection, send_id, choice, changed)
    if change and recipients:
        connection.execute(
            text(
                """
                UPDATE sends SET state = 'sending', error = NULL, finished_at = NULL, planned_at = coalesce(planned_at, now()),
                       expires_at = now() + make_interval(secs => :lifetime), version = version + 1
                WHERE id = :id
                """
            ),
            {"id": send_id, "lifetime": lifetime(parse_notification(send.notification)).total_seconds()},
        )
    return Replay(send_id, recipients, batches, platforms, send.planned_at is None)


def _pages(connection: Connection, send_id: uuid.UUID, choice: Choice) -> Iterator[Sequence[Any]]:
    """Batches that have some of the chosen outcomes, with the positions of the chosen reasons where there are any."""
    some = " OR ".join(f"b.{name} > 0" for name in choice.outcomes)
    after = -1
    while True:
        page = connection.execute(
            text(
                f"""
                SELECT b.batch_no, b.platform, b.outcomes, b.attempts,
                       (SELECT array_agg(d.position) FROM dead_letters d
                        WHERE d.send_id = b.send_id AND d.batch_no = b.batch_no
                          AND d.outcome = ANY(CAST(:outcomes AS text[])) AND d.reason = ANY(CAST(:reasons AS text[]))) AS positions
                FROM send_batches b
                WHERE b.send_id = :id AND b.batch_no > :after AND ({some})
                  AND (CAST(:platforms AS text[]) = '{{}}' OR b.platform = ANY(CAST(:platforms AS text[])))
                ORDER BY b.batch_no LIMIT :page
                """  # noqa: S608
            ),
            {
                "id": send_id,
                "after": after,
                "outcomes": list(choice.outcomes),
                "reasons": list(choice.reasons),
                "platforms": list(choice.platforms),
                "page": PAGE,
            },
        ).all()
        if page:
            yield page
            after = page[-1].batch_no
        if len(page) < PAGE:
            return


@dataclass(frozen=True)
class _Opened:
    batch_no: int
    platform: str
    outcomes: bytes
    attempts: bytes | None
    counts: dict[str, int]


def _open(row: Any, choice: Choice) -> _Opened | None:
    """A batch with the chosen recipients pending again; None when it has none of them."""
    wanted = bytes(REPLAYABLE[name] for name in choice.outcomes)
    outcomes = bytearray(row.outcomes)
    among = sorted(set(row.positions or ())) if choice.reasons else range(len(outcomes))
    positions = [position for position in among if outcomes[position] in wanted]
    if not positions:
        return None
    counts: dict[str, int] = {}
    attempts = bytearray(row.attempts) if row.attempts is not None else None
    for position in positions:
        name = COLUMNS[Outcome(outcomes[position])]
        counts[name] = counts.get(name, 0) + 1
        outcomes[position] = Outcome.PENDING
        if attempts is not None:
            attempts[position] = 0
    return _Opened(
        row.batch_no,
        row.platform,
        bytes(outcomes),
        bytes(attempts) if attempts is not None else None,
        counts,
    )


def _write(connection: Connection, send_id: uuid.UUID, choice: Choice, opened: Sequence[_Opened]) -> None:
    fewer = ", ".join(f"{name} = b.{name} - n.{name}" for name in REPLAYABLE)
    connection.execute(
        text(
            f"""
            UPDATE send_batches b
            SET state = 'planned', outcomes = n.outcomes, attempts = n.attempts, attempt = 0, crashes = 0, runs = 0,
                publishes = 0, lease_token = NULL, retry_at = NULL, waits = NULL, due_at = NULL, error = NULL, settled_at = NULL,
                {fewer}
            FROM unnest(CAST(:nos AS integer[]), CAST(:outcomes AS bytea[]), CAST(:attempts AS bytea[]),
                        {", ".join(f"CAST(:{name} AS integer[])" for name in REPLAYABLE)})
                 AS n (batch_no, outcomes, attempts, {", ".join(REPLAYABLE)})
            WHERE b.send_id = :id AND b.batch_no = n.batch_no
            """  # noqa: S608
        ),
        {
            "id": send_id,
            "nos": [batch.batch_no for batch in opened],
            "outcomes": [batch.outcomes for batch in opened],
            "attempts": [batch.attempts for batch in opened],
            **{name: [batch.counts.get(name, 0) for batch in opened] for name in REPLAYABLE},
        },
    )
    # The letters of exactly these recipients: a batch has one for each of them that has a reason.
    connection.execute(
        text(
            """
            DELETE FROM dead_letters
            WHERE send_id = :id AND batch_no = ANY(CAST(:nos AS integer[])) AND outcome = ANY(CAST(:outcomes AS text[]))
              AND (CAST(:reasons AS text[]) = '{}' OR reason = ANY(CAST(:reasons AS text[])))
            """
        ),
        {
            "id": send_id,
            "nos": [batch.batch_no for batch in opened],
            "outcomes": list(choice.outcomes),
            "reasons": list(choice.reasons),
        },
    )
