"""Bring a database to the schema this version of pushq needs, or back.

Alembic is imported where something is migrated: a worker only looks, and has no use for the eight megabytes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

from sqlalchemy import text

from pushq.database import Database
from pushq.errors import PushqError
from pushq.migrations import HEAD
from pushq.service_urls import ServiceUrl

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["HEAD", "SchemaMismatch", "check", "current", "downgrade", "upgrade"]

#: Held while migrating, so that two `pushq db upgrade` at once wait for each other.
_ADVISORY_LOCK = 0x70757368


class SchemaMismatch(PushqError):
    """The database is not at the schema that this version of pushq needs."""


def upgrade(url: ServiceUrl | str, revision: str = "head") -> str:
    """Migrate up to ``revision``; safe to repeat. Returns the revision reached."""
    from alembic import command  # noqa: PLC0415

    return _run(url, lambda config: command.upgrade(config, revision))


def downgrade(url: ServiceUrl | str, revision: str) -> str:
    """Migrate down to ``revision``; ``base`` removes everything, data included. Returns the revision reached."""
    from alembic import command  # noqa: PLC0415

    return _run(url, lambda config: command.downgrade(config, revision))


def current(database: Database) -> str:
    """The revision the database is at, or an empty string when it has none."""
    with database.begin() as connection:
        if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar_one() is None:
            return ""
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none() or ""


def check(database: Database) -> None:
    """Raise :class:`SchemaMismatch` unless the database is at the newest revision."""
    found = current(database)
    if found != HEAD:
        raise SchemaMismatch(
            f"The database is at schema {found or 'none'}, this version of pushq needs {HEAD}. Run: pushq db upgrade"
        )


def _run(url: ServiceUrl | str, step: Callable[[Config], None]) -> str:
    from alembic.config import Config  # noqa: PLC0415

    database = Database(url if isinstance(url, ServiceUrl) else ServiceUrl(url), pool_size=1)
    try:
        with as_file(files("pushq.migrations")) as folder, database.begin() as connection:
            connection.exec_driver_sql("SET statement_timeout = 0")
            connection.exec_driver_sql("SET lock_timeout = '60s'")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
            config = Config()
            config.set_main_option("script_location", str(folder).replace("%", "%%"))
            config.attributes["connection"] = connection
            step(config)
        return current(database)
    finally:
        database.close()
