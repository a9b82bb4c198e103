"""Migrations: up from nothing, down to nothing, twice at once, and the check that every process starts with."""

from __future__ import annotations

import threading

import psycopg
import pytest

from pushq.database import Database
from pushq.ledger import schema
from pushq.service_urls import ServiceUrl

_RELATIONS = """
SELECT c.relkind::text, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public'
UNION ALL SELECT 'f', p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'public'
UNION ALL SELECT 't', t.typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = 'public'
ORDER BY 1, 2
"""
#: Alembic's own table stays, empty, with its index and its row types.
_ALEMBIC = {"alembic_version", "alembic_version_pkc", "_alembic_version"}


def relations(url: str) -> set[tuple[str, str]]:
    with psycopg.connect(url, connect_timeout=5) as connection:
        return {(kind, name) for kind, name in connection.execute(_RELATIONS)}


def test_up_from_empty_down_to_nothing_and_up_again(empty_database: str) -> None:
    assert schema.upgrade(empty_database) == schema.HEAD
    full = relations(empty_database)
    tables = {name for kind, name in full if kind in {"r", "p"}}
    assert {
        "device_tokens",
        "segments",
        "segment_members",
        "sends",
        "send_shards",
        "send_batches",
        "dead_letters",
    } <= tables
    assert len({name for name in tables if name.startswith("device_tokens_p")}) == 16

    assert schema.downgrade(empty_database, "base") == ""
    assert {name for _, name in relations(empty_database)} == _ALEMBIC

    assert schema.upgrade(empty_database) == schema.HEAD
    assert relations(empty_database) == full


def test_going_down_takes_data_and_monthly_partitions_along(empty_database: str) -> None:
    schema.upgrade(empty_database)
    with psycopg.connect(empty_database, connect_timeout=5) as connection:
        connection.execute(
            "CREATE TABLE dead_letters_2020_01 PARTITION OF dead_letters FOR VALUES FROM ('2020-01-01') TO ('2020-02-01')"
        )
        connection.execute(
            "INSERT INTO device_tokens (user_id, app, platform, token, token_hash)"
            " VALUES (1, 'shop', 'apns', 'aa', gen_random_uuid())"
        )
    schema.downgrade(empty_database, "base")
    assert {name for _, name in relations(empty_database)} == _ALEMBIC


def test_upgrading_twice_changes_nothing(database: str) -> None:
    before = relations(database)
    assert schema.upgrade(database) == schema.HEAD
    assert relations(database) == before


def test_two_upgrades_at_once_take_turns(empty_database: str) -> None:
    reached: list[str] = []
    threads = [
        threading.Thread(target=lambda: reached.append(schema.upgrade(empty_database))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert reached == [schema.HEAD] * 2


def test_a_failing_migration_leaves_the_database_as_it_was(empty_database: str) -> None:
    with psycopg.connect(empty_database, connect_timeout=5) as connection:
        connection.execute("CREATE TABLE send_batches (mine int)")  # in the way, half way through
    before = relations(empty_database)
    with pytest.raises(Exception, match="send_batches"):
        schema.upgrade(empty_database)
    assert relations(empty_database) == before


def test_the_check_names_what_it_found_and_what_to_do(empty_database: str) -> None:
    database = Database(ServiceUrl(empty_database), pool_size=1)
    try:
        assert schema.current(database) == ""
        with pytest.raises(
            schema.SchemaMismatch, match=rf"at schema none, .* needs {schema.HEAD}\. Run: pushq db upgrade"
        ):
            schema.check(database)
        schema.upgrade(empty_database)
        schema.check(database)
        with database.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
        with pytest.raises(schema.SchemaMismatch, match="at schema 0000"):
            schema.check(database)
    finally:
        database.close()
