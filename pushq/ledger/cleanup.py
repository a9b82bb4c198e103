"""The nightly clean-up of the ledger: old sends and dead letters go, partitions for the coming months are made.

Idempotent and paged: killed or run twice, it does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Final

from sqlalchemy import Connection, text

from pushq.database import Database

#: Sends removed in one transaction: their batches go with them.
PAGE: Final = 50
MONTHS_AHEAD: Final = 2
_LOCK: Final = 0x70757369


@dataclass(frozen=True)
class LedgerCleanup:
    sends: int
    partitions_dropped: list[str]
    partitions_created: list[str]


def next_month(day: date, months: int = 1) -> date:
    """The first day of the month that is ``months`` after the one of ``day``."""
    index = day.year * 12 + day.month - 1 + months
    return date(index // 12, index % 12 + 1, 1)


def clean(database: Database, *, today: date, ledger_days: int, dead_letter_days: int) -> LedgerCleanup:
    """Remove ended sends older than ``ledger_days``, drop dead-letter months that ended ``dead_letter_days`` ago."""
    removed = 0
    while True:
        with database.begin() as connection:
            page = connection.execute(
                text(
                    """
                    DELETE FROM sends WHERE id IN (
                        SELECT id FROM sends
                        WHERE state IN ('done', 'failed', 'cancelled') AND finished_at < now() - make_interval(days => :days)
                        ORDER BY finished_at LIMIT :page FOR UPDATE SKIP LOCKED)
                    """
                ),
                {"days": ledger_days, "page": PAGE},
            ).rowcount
        removed += page
        if page < PAGE:
            break
    with database.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        created = [
            name
            for ahead in range(MONTHS_AHEAD + 1)
            if (name := _ensure_month(connection, next_month(today, ahead))) is not None
        ]
        dropped = _drop_months(connection, today, dead_letter_days)
    return LedgerCleanup(removed, dropped, created)


def _partition(first: date) -> str:
    return f"dead_letters_{first:%Y_%m}"


def _ensure_month(connection: Connection, first: date) -> str | None:
    """Make the partition that begins at ``first``; rows that already wait in the default partition move into it."""
    name = _partition(first)
    if connection.execute(text("SELECT to_regclass(:name)"), {"name": name}).scalar_one() is not None:
        return None
    bounds = {"low": first.isoformat(), "high": next_month(first).isoformat()}
    # Identifiers and bounds are made from a date above; DDL takes no parameters.
    connection.execute(text(f"CREATE TABLE {name} (LIKE dead_letters INCLUDING DEFAULTS)"))
    connection.execute(
        text(
            f"WITH moved AS (DELETE FROM dead_letters_default WHERE created_at >= CAST(:low AS timestamptz)"  # noqa: S608
            f" AND created_at < CAST(:high AS timestamptz) RETURNING *) INSERT INTO {name} SELECT * FROM moved"
        ),
        bounds,
    )
    connection.execute(
        text(
            f"ALTER TABLE dead_letters ATTACH PARTITION {name}"
            f" FOR VALUES FROM ('{bounds['low']} 00:00+00') TO ('{bounds['high']} 00:00+00')"
        )
    )
    return name


def _drop_months(connection: Connection, today: date, days: int) -> list[str]:
    names = connection.execute(
        text(
            "SELECT relid::text FROM pg_partition_tree('dead_letters') WHERE isleaf AND relid::text ~ '_[0-9]{4}_[0-9]{2}$'"
        )
    ).scalars()
    dropped = []
    for name in sorted(names):
        year, month = (int(part) for part in name.rsplit("_", 2)[1:])
        if (today - next_month(date(year, month, 1))).days > days:
            connection.execute(text(f"DROP TABLE {name}"))
            dropped.append(name)
    return dropped
