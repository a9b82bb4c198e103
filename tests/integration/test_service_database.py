"""Every test's database has the newest schema and is nobody else's."""

from __future__ import annotations

import psycopg
import pytest


@pytest.mark.parametrize("run", [1, 2])
def test_a_database_is_migrated_and_empty(database: str, run: int) -> None:
    with psycopg.connect(database, connect_timeout=5) as connection:
        assert connection.execute("SELECT count(*) FROM sends").fetchone() == (0,)
        connection.execute("ALTER TABLE sends RENAME TO spoiled")
