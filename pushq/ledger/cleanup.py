"""The nightly clean-up of the ledger: old sends and dead letters go, partitions for the coming months are made.

Idempotent and paged: killed or run twice, it does no harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from sqlalchemy import Connection, text

from pushq.database import Database

#: Sends removed in one transaction, once their batches are gone; these go so many at a time, for one send can have 40,000.
PAGE: Final = 500
BATCHES_PAGE: Final = 2_000
LETTERS_PAGE: Final = 10_000
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
    removed = _remove_sends(database, ledger_days)
    _remove_letters(database, today - timedelta(days=dead_letter_days))
    # A transaction for each step: none waits for a lock on the parent while it holds one that a settlement waits for.
    created = [
        name
        for ahead in range(MONTHS_AHEAD + 1)
        if (name := _ensure_month(database, next_month(today, ahead))) is not None
    ]
    return LedgerCleanup(removed, _drop_months(database, today, dead_letter_days), created)


def _remove_sends(database: Database, days: int) -> int:
    removed = 0
    while True:
        with database.begin() as connection:
            old = list(
                connection.execute(
                    text(
                        """
                        SELECT id FROM sends
                        WHERE state IN ('done', 'failed', 'cancelled') AND finished_at < now() - make_interval(days => :days)
                        ORDER BY finished_at LIMIT :page FOR UPDATE SKIP LOCKED
                        """
                    ),
                    {"days": days, "page": PAGE},
                ).scalars()
            )
            batches = connection.execute(
                text(
                    """
                    DELETE FROM send_batches WHERE (send_id, batch_no) IN (
                        SELECT send_id, batch_no FROM send_batches WHERE send_id = ANY(CAST(:old AS uuid[])) LIMIT :page)
                    """
                ),
                {"old": old, "page": BATCHES_PAGE},
            ).rowcount
            if batches == BATCHES_PAGE:
                continue
            connection.execute(text("DELETE FROM sends WHERE id = ANY(CAST(:old AS uuid[]))"), {"old": old})
        removed += len(old)
        if len(old) < PAGE:
            return removed


def _remove_letters(database: Database, before: date) -> None:
    """Those of a month for which no partition was made in time: they stay in the default one."""
    removed = LETTERS_PAGE
    while removed == LETTERS_PAGE:
        with database.begin() as connection:
            removed = connection.execute(
                text(
                    """
                    DELETE FROM dead_letters_default WHERE (created_at, id) IN (
                        SELECT created_at, id FROM dead_letters_default WHERE created_at < CAST(:before AS timestamptz)
                        ORDER BY created_at LIMIT :page)
                    """
                ),
                {"before": before.isoformat(), "page": LETTERS_PAGE},
            ).rowcount


@contextmanager
def _alone(database: Database) -> Iterator[Connection]:
    """A transaction in which no other clean-up changes the partitions."""
    with database.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        yield connection


def _partition(first: date) -> str:
    return f"dead_letters_{first:%Y_%m}"


def _ensure_month(database: Database, first: date) -> str | None:
    """Make the partition that begins at ``first``; rows that already wait in the default partition move into it."""
    name = _partition(first)
    bounds = {"low": f"{first.isoformat()} 00:00+00", "high": f"{next_month(first).isoformat()} 00:00+00"}
    with _alone(database) as connection:
        if connection.execute(text("SELECT to_regclass(:name)"), {"name": name}).scalar_one() is not None:
            return None
        # Identifiers and bounds are made from a date above; DDL takes no parameters.
        connection.execute(text(f"CREATE TABLE {name} (LIKE dead_letters INCLUDING DEFAULTS)"))
        # Who inserts a row meanwhile must wait before it chooses a partition: else the attachment fails, or the insertion.
        connection.execute(text("LOCK TABLE ONLY dead_letters IN SHARE ROW EXCLUSIVE MODE"))
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
                f" FOR VALUES FROM ('{bounds['low']}') TO ('{bounds['high']}')"
            )
        )
    return name


def _drop_months(database: Database, today: date, days: int) -> list[str]:
    with database.begin() as connection:
        names = connection.execute(
            text(
                "SELECT relid::text FROM pg_partition_tree('dead_letters') WHERE isleaf AND relid::text ~ '_[0-9]{4}_[0-9]{2}$'"
            )
        ).scalars()
        months = sorted(names)
    dropped = []
    for name in months:
        year, month = (int(part) for part in name.rsplit("_", 2)[1:])
        if (today - next_month(date(year, month, 1))).days > days:
            with _alone(database) as connection:
                connection.execute(text(f"DROP TABLE IF EXISTS {name}"))
            dropped.append(name)
    return dropped
