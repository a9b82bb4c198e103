"""Upkeep of the devices' table that PostgreSQL does by itself within minutes, done now: for who sends right after an import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import text

from pushq.database import Database
from pushq.errors import InvalidRequest
from pushq.tokens.partitions import partition_names

#: For one partition. A hundred million devices are six million in each.
TIMEOUT_S: Final = 600

_MAY = text("""
SELECT current_user AS role, (
       SELECT bool_or(pg_has_role(owner, 'USAGE'))
         FROM (SELECT relowner FROM pg_class WHERE oid = 'device_tokens'::regclass
                UNION ALL SELECT datdba FROM pg_database WHERE datname = current_database()) AS of (owner)) AS may
""")


def check_vacuum(database: Database) -> None:
    """Say so in time if this role may not: PostgreSQL itself would only warn, and do nothing.

    Raises:
        InvalidRequest: the role of ``PUSHQ_DATABASE_URL`` does not own the table.
        ServiceUnavailable: PostgreSQL cannot be reached.
    """
    with database.begin() as connection:
        row = connection.execute(_MAY).one()
    if not row.may:
        raise InvalidRequest(
            "vacuum",
            f"the role {row.role!r}, which does not own the table device_tokens",
            "its owner, or no --vacuum: PostgreSQL's autovacuum does the same within minutes",
        )


def vacuum(database: Database, progress: Callable[[int], None] = lambda _: None) -> None:
    """VACUUM and ANALYZE, one partition after the other: pages that were just filled are marked as seen by all, so that a broadcast is
    planned from an index alone. What somebody else is vacuuming is left to him.

    Args:
        progress: called with the number of partitions that are done.

    Raises:
        ServiceUnavailable: PostgreSQL went away.
    """
    with database.alone() as connection:
        connection.execute(text(f"SET statement_timeout = '{TIMEOUT_S}s'"))
        try:
            for done, partition in enumerate(partition_names(), 1):
                connection.execute(text(f"VACUUM (ANALYZE, SKIP_LOCKED) {partition}"))
                progress(done)
        finally:
            connection.execute(text("RESET statement_timeout"))
