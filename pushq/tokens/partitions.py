"""The partitions of `device_tokens`, to be walked one after the other: each page then reads one index in its order."""

from __future__ import annotations

from sqlalchemy import text

from pushq.database import Database

_PARTITIONS = text("""
SELECT c.oid::regclass::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'device_tokens'::regclass ORDER BY c.relname
""")


def partitions(database: Database) -> list[str]:
    """Their names, quoted where necessary: safe to be put into a statement."""
    with database.begin() as connection:
        return [row[0] for row in connection.execute(_PARTITIONS)]
