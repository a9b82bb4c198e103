"""Every recipient of a send with what became of it, read batch by batch: the source of an export.

A recipient is a position in its batch. Who failed has a dead letter with reason and time; for the others the batch's settlement is
the time. Bounded memory: one page of batches at a time, each page a transaction of its own, so a slow reader holds nothing up; of a
send that is still running, each page is as of the moment it was read.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, text

from pushq.database import Database
from pushq.errors import InvalidRequest
from pushq.ledger.outcomes import COLUMNS, Outcome

#: Batches read together; 5,000 recipients each at most.
PAGE: Final = 10
#: Names of outcomes by their byte. What is claimed by a running worker is still open.
NAMES: Final = ("pending", "pending", *(COLUMNS[Outcome(value)] for value in range(2, len(Outcome))))
OUTCOMES: Final = tuple(dict.fromkeys(NAMES))


@dataclass(frozen=True)
class Block:
    """Recipients of one batch, by column; all sequences are of the same length.

    Attributes:
        reasons, statuses: of the dead letter: why it ended so, and the provider's HTTP status; None for who has none.
        attempts: how often each was tried.
        times: when the outcome was settled, UTC; None while it is pending.
    """

    send_id: uuid.UUID
    batch_no: int
    platform: str
    positions: Sequence[int]
    user_ids: Sequence[int]
    device_ids: Sequence[int]
    outcomes: Sequence[str]
    reasons: Sequence[str | None]
    statuses: Sequence[int | None]
    attempts: Sequence[int]
    times: Sequence[datetime | None]

    def __len__(self) -> int:
        return len(self.positions)


def check_outcomes(names: Collection[str]) -> frozenset[str]:
    """The outcomes to export; none means all.

    Raises:
        InvalidRequest: there is no such outcome.
    """
    for name in names:
        if name not in OUTCOMES:
            raise InvalidRequest("outcome", repr(name), f"some of: {', '.join(OUTCOMES)}")
    return frozenset(names)


def recipients(database: Database, send_id: uuid.UUID, outcomes: Collection[str] = ()) -> Iterator[Block]:
    """Every planned recipient, or those with one of these outcomes, in the order of batches and positions.

    Raises:
        InvalidRequest: there is no such outcome.
        ServiceUnavailable: PostgreSQL cannot be reached.
    """
    wanted = check_outcomes(outcomes)
    after = -1
    while True:
        batches, letters = _page(database, send_id, after, wanted)
        for batch in batches:
            block = _block(send_id, batch, letters.get(batch.batch_no, {}), wanted)
            if len(block):
                yield block
        if len(batches) < PAGE:
            return
        after = batches[-1].batch_no


_SETTLED = " + ".join(f"b.{column}" for column in COLUMNS.values())


def _page(
    database: Database, send_id: uuid.UUID, after: int, wanted: frozenset[str]
) -> tuple[Sequence[Any], dict[int, dict[int, Any]]]:
    """Batches, and the dead letters of those by batch and position."""
    having = " OR ".join(
        f"b.recipients > {_SETTLED}" if name == "pending" else f"b.{name} > 0" for name in sorted(wanted)
    )
    with database.begin() as connection:
        # A settlement writes outcomes and letters at once: both statements have to see it, or neither.
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        batches = connection.execute(
            text(
                f"""
                SELECT batch_no, platform, recipients, user_ids, device_ids, outcomes, attempts, settled_at
                FROM send_batches b WHERE send_id = :id AND batch_no > :after AND ({having or "true"})
                ORDER BY batch_no LIMIT :page
                """  # noqa: S608
            ),
            {"id": send_id, "after": after, "page": PAGE},
        ).all()
        letters = {batch.batch_no: _letters(connection, send_id, batch.batch_no) for batch in batches}
    return batches, letters


def _letters(connection: Connection, send_id: uuid.UUID, batch_no: int) -> dict[int, Any]:
    """The dead letters of a batch by position; a batch has no more of them than recipients."""
    found = connection.execute(
        text(
            """
            SELECT position, outcome, reason, status, created_at FROM dead_letters
            WHERE send_id = :id AND batch_no = :no ORDER BY id
            """
        ),
        {"id": send_id, "no": batch_no},
    )
    return {letter.position: letter for letter in found}


def _block(send_id: uuid.UUID, batch: Any, letters: dict[int, Any], wanted: frozenset[str]) -> Block:
    size = batch.recipients
    codes = bytes(size) if batch.outcomes is None else bytes(batch.outcomes)
    tries = bytes(size) if batch.attempts is None else bytes(batch.attempts)
    names = [NAMES[code] for code in codes]
    positions = (
        range(size) if not wanted else [position for position, name in enumerate(names) if name in wanted]
    )
    reasons: list[str | None] = [None] * size
    statuses: list[int | None] = [None] * size
    times: list[datetime | None] = [None if code <= Outcome.CLAIMED else batch.settled_at for code in codes]
    for position, letter in letters.items():
        if letter.outcome == names[position]:
            reasons[position], statuses[position], times[position] = (
                letter.reason,
                letter.status,
                letter.created_at,
            )

    def chosen(values: Sequence[Any]) -> Sequence[Any]:
        return values if len(positions) == size else [values[position] for position in positions]

    return Block(
        send_id,
        batch.batch_no,
        batch.platform,
        positions,
        chosen(batch.user_ids),
        chosen(batch.device_ids),
        chosen(names),
        chosen(reasons),
        chosen(statuses),
        chosen(tries),
        chosen(times),
    )
