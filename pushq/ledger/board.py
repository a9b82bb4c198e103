"""Sends for people to look at: many at once with how far they are, and one over time."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, text

from pushq.database import Database
from pushq.ledger.outcomes import COLUMNS
from pushq.ledger.sends import UnknownSend

#: Columns of the chart of one send, about.
COLUMNS_OF_TIMELINE: Final = 40
_FINAL: Final = tuple(COLUMNS.values())
_SUMS: Final = ", ".join(f"coalesce(sum(b.{column}), 0)::bigint AS {column}" for column in _FINAL)


@dataclass(frozen=True)
class Timeline:
    """What was settled when.

    Attributes:
        times: when each column begins, UTC.
        step: how long a column is.
        accepted, other: recipients by column. A batch counts, as a whole, when it was settled last.
    """

    times: Sequence[datetime]
    step: timedelta
    accepted: Sequence[int]
    other: Sequence[int]


def counts(database: Database, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, dict[str, int]]:
    """By send: ``devices`` planned, every final outcome, and ``pending``. Reads all batches of these sends.

    Raises:
        ServiceUnavailable
    """
    if not ids:
        return {}
    with database.begin() as connection:
        rows = connection.execute(
            text(
                f"""
                SELECT b.send_id, sum(b.recipients)::bigint AS devices, {_SUMS}
                FROM send_batches b WHERE b.send_id = ANY(CAST(:ids AS uuid[])) GROUP BY 1
                """  # noqa: S608 - column names of this module
            ),
            {"ids": list(ids)},
        ).all()
    found = dict.fromkeys(ids, dict.fromkeys(("devices", *_FINAL, "pending"), 0))
    for row in rows:
        known = {name: int(getattr(row, name)) for name in ("devices", *_FINAL)}
        found[row.send_id] = known | {"pending": known["devices"] - sum(known[name] for name in _FINAL)}
    return found


def message(database: Database, send_id: uuid.UUID) -> dict[str, Any]:
    """What a send says and to whom, as it was called: ``notification``, ``audience``, ``idempotency_key``.

    Raises:
        UnknownSend
        ServiceUnavailable
    """
    with database.begin() as connection:
        row = connection.execute(
            text("SELECT notification, audience, idempotency_key FROM sends WHERE id = :id"), {"id": send_id}
        ).first()
    if row is None:
        raise UnknownSend(f"No send has the id {send_id}. See: pushq sends")
    return dict(row._mapping)


def title(database: Database, send_id: uuid.UUID) -> str | None:
    """The title of a send's message; None where it has none.

    Raises:
        ServiceUnavailable
    """
    with database.begin() as connection:
        found: str | None = connection.execute(
            text("SELECT notification->>'title' FROM sends WHERE id = :id"), {"id": send_id}
        ).scalar_one_or_none()
        return found


def timeline(
    database: Database, send_id: uuid.UUID, *, columns: int = COLUMNS_OF_TIMELINE
) -> Timeline | None:
    """What was settled when, from the first settlement to the last; None before the first.

    Raises:
        ServiceUnavailable
    """
    with database.begin() as connection:
        first, last = _bounds(connection, send_id)
        if first is None or last is None:
            return None
        step = _step((last - first).total_seconds(), columns)
        rows = connection.execute(
            text(
                f"""
                SELECT floor(extract(epoch FROM settled_at - :first) / :step)::int AS place, sum(accepted)::bigint AS accepted,
                       sum({" + ".join(name for name in _FINAL if name != "accepted")})::bigint AS other
                FROM send_batches WHERE send_id = :id AND settled_at IS NOT NULL GROUP BY 1
                """  # noqa: S608 - as above
            ),
            {"id": send_id, "first": first, "step": step},
        ).all()
    many = int((last - first).total_seconds() / step) + 1
    accepted, other = [0] * many, [0] * many
    for row in rows:
        place = min(max(row.place, 0), many - 1)
        accepted[place] += row.accepted
        other[place] += row.other
    width = timedelta(seconds=step)
    return Timeline([first + width * place for place in range(many)], width, accepted, other)


def _bounds(connection: Connection, send_id: uuid.UUID) -> tuple[datetime | None, datetime | None]:
    row = connection.execute(
        text("SELECT min(settled_at), max(settled_at) FROM send_batches WHERE send_id = :id"), {"id": send_id}
    ).one()
    return row[0], row[1]


#: Seconds that a column may stand for: what people count in.
_STEPS: Final = (
    0.5,
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    14_400,
    43_200,
    86_400,
)


def _step(seconds: float, columns: int) -> float:
    return next((step for step in _STEPS if seconds / step < columns), seconds / columns)


def today(database: Database, apps: Collection[str] | None = None) -> Mapping[str, int]:
    """What the broadcasts of the last 24 hours brought: ``sends`` called, recipients ``accepted`` and ``failed``.

    Raises:
        ServiceUnavailable
    """
    failed = " + ".join(f"b.{name}" for name in _FINAL if name not in ("accepted", "cancelled", "suppressed"))
    with database.begin() as connection:
        row = connection.execute(
            text(
                f"""
                WITH lately AS (
                    SELECT id FROM sends
                    WHERE kind = 'broadcast' AND created_at > now() - interval '1 day' AND (:all OR app = ANY(:apps)))
                SELECT (SELECT count(*) FROM lately) AS sends, coalesce(sum(b.accepted), 0)::bigint AS accepted,
                       coalesce(sum({failed}), 0)::bigint AS failed
                FROM send_batches b JOIN lately ON lately.id = b.send_id
                """  # noqa: S608 - as above
            ),
            {"all": apps is None, "apps": sorted(apps or ())},
        ).one()
    return dict(row._mapping)
