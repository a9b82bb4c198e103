"""The nightly clean-up of sessions that are over, links that nobody used, and old rows of the audit log. Paged; safe to repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import text

from pushq.access.sessions import IDLE
from pushq.database import Database

PAGE: Final = 5_000


@dataclass(frozen=True)
class AccessCleanup:
    """How many rows went."""

    sessions: int
    links: int
    audit_rows: int


_SESSIONS: Final = """
DELETE FROM console_sessions WHERE token_hash IN (
    SELECT token_hash FROM console_sessions WHERE ends_at < now() OR seen_at < now() - make_interval(secs => :age) LIMIT :page)
"""
_LINKS: Final = """
DELETE FROM login_links WHERE token_hash IN (
    SELECT token_hash FROM login_links WHERE ends_at < now() - make_interval(secs => :age) LIMIT :page)
"""
_AUDIT: Final = """
DELETE FROM audit_log WHERE id IN (
    SELECT id FROM audit_log WHERE at < now() - make_interval(secs => :age) ORDER BY at LIMIT :page)
"""


def clean(database: Database, *, audit_days: int) -> AccessCleanup:
    """Remove what nobody can use any more, and rows of the audit log older than ``audit_days``."""
    return AccessCleanup(
        _remove(database, _SESSIONS, IDLE.total_seconds()),
        _remove(database, _LINKS, 0),
        _remove(database, _AUDIT, audit_days * 86_400),
    )


def _remove(database: Database, statement: str, age_s: float) -> int:
    removed = 0
    while True:
        with database.begin() as connection:
            page = connection.execute(text(statement), {"age": age_s, "page": PAGE}).rowcount
        removed += page
        if page < PAGE:
            return removed
