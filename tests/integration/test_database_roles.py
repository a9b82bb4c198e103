"""The script that makes the database's roles can be run again while everybody works."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import psycopg
import pytest

from tests.integration.database_roles import LOGINS, ROLES_SQL, roles


def statements() -> list[str]:
    """What psql makes of the file: it sends one after the other, each a transaction of its own unless the file says otherwise."""
    text = re.sub(r"--.*$", "", ROLES_SQL.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [one.strip() for one in re.findall(r"(?:\$\$.*?\$\$|[^;$])+;", text, re.DOTALL)]


def run(url: str, texts: Iterable[str]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for text in texts:
            connection.execute(text.encode())


def granted(url: str) -> set[tuple[str, ...]]:
    """Everything that the roles may do with tables, and who owns them."""
    with psycopg.connect(url) as connection:
        return set(
            connection.execute(
                "SELECT grantee, table_name, privilege_type FROM information_schema.role_table_grants"
                " WHERE grantee = ANY(%s) UNION ALL SELECT tableowner, tablename, 'owner' FROM pg_tables"
                " WHERE schemaname = 'public'",
                [list(LOGINS)],
            )
        )


@pytest.fixture(scope="module")
def url(ledger_url: str) -> Iterator[str]:
    """A database with the roles; its dead letters go with them."""
    with roles(ledger_url):
        yield ledger_url


def test_an_error_half_way_takes_nothing_from_anybody(url: str) -> None:
    before = granted(url)
    assert ("pushq_deliver", "device_tokens", "SELECT") in before
    whole = statements()
    for broken_at in range(1, len(whole)):
        with pytest.raises(psycopg.errors.DivisionByZero):
            run(url, [*whole[:broken_at], "SELECT 1 / 0"])
        assert granted(url) == before, whole[broken_at]
    run(url, whole)
    assert granted(url) == before


def test_it_waits_for_no_table_when_there_is_nothing_new(url: str) -> None:
    """A new owner would have to wait for whoever reads, and everybody else behind it."""
    with psycopg.connect(url) as reader:
        reader.execute("SELECT count(*) FROM dead_letters")
        impatient = (text.replace("'10s'", "'200ms'") for text in statements())
        run(url, ["SET lock_timeout = '200ms'", *impatient])
