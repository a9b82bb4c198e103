"""The roles of deploy/postgres/roles.sql, made in a test's server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

ROLES_SQL = Path(__file__).resolve().parents[2] / "deploy" / "postgres" / "roles.sql"
LOGINS = ("pushq_deliver", "pushq_core", "pushq_operator", "pushq_web", "pushq_observer")
PASSWORD = "least-privilege-5fd1c2"


def as_role(url: str, role: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{role}:{PASSWORD}@{parts.hostname}:{parts.port}").geturl()


@contextmanager
def roles(url: str) -> Iterator[None]:
    """The roles of deploy/postgres/roles.sql, applied twice. They belong to the whole server: gone afterwards."""
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(2):
            connection.execute(ROLES_SQL.read_text(encoding="utf-8").encode())
        for role in LOGINS:
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(PASSWORD))
            )
    yield
    with psycopg.connect(url, autocommit=True) as connection:
        for role in (*LOGINS, "pushq_dead_letters"):
            connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(role)))
        for role in (*LOGINS, "pushq_dead_letters"):
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
