"""The audit log's writer while PostgreSQL comes and goes, and what the door does when nothing can be put on record."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator

import pytest
from sqlalchemy import text

from pushq.access import audit as log
from pushq.access.principal import Principal
from pushq.database import Database
from pushq.embedded.postgres import PostgresServer
from pushq.service_urls import ServiceUrl
from pushq.web import audit
from pushq.web.audit import AuditWriter
from pushq.web.threads import Threads
from tests.integration.web_door import Door, opened_door
from tests.services.fixtures import Fleet

BY = Principal("key", "backend", "0123456789abcdef", frozenset({"send"}), None, "192.0.2.7")


@pytest.fixture
def db(ledger_url: str) -> Iterator[Database]:
    opened = Database(ServiceUrl(ledger_url), pool_size=2)
    with opened.begin() as connection:
        connection.execute(text("TRUNCATE audit_log"))
    yield opened
    opened.close()


def write(db: Database, body: Callable[[AuditWriter], Awaitable[None]]) -> None:
    async def main() -> None:
        threads = Threads("test", 1, wait_s=30.0)
        writer = AuditWriter(db, threads)
        writer.start()
        try:
            await body(writer)
        finally:
            await writer.close()
            threads.close()

    asyncio.run(main())


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not what():
            await asyncio.sleep(0.02)


def test_rows_are_written_soon_in_their_order_and_at_the_end(db: Database) -> None:
    async def body(writer: AuditWriter) -> None:
        for number in range(1200):
            writer.add(BY, "send.create", app="shop", object_id=str(number))
        await until(lambda: len(log.read(db, limit=1000)) == 1000)
        writer.add(BY, "send.create", app="shop", object_id="last")

    write(db, body)
    newest = log.read(db, limit=1000)
    assert [row.object_id for row in newest] == ["last", *(str(number) for number in range(1199, 200, -1))]
    times = [row.at for row in reversed(newest)]
    assert times == sorted(times), "each has the time at which it was done"


def test_nothing_is_lost_while_postgresql_is_away(
    db: Database, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit, "RETRY_S", 0.1)
    postgres.stop()

    async def body(writer: AuditWriter) -> None:
        writer.add(BY, "send.create", object_id="1")
        await until(lambda: "audit_waits" in caplog.text)
        writer.add(BY, "send.create", object_id="2")
        await asyncio.to_thread(postgres.start)
        writer.add(BY, "send.create", object_id="3")
        await until(lambda: _written(db) == ["3", "2", "1"])

    write(db, body)
    assert _written(db) == ["3", "2", "1"], "and none of them twice"


def _written(db: Database) -> list[str | None]:
    return [row.object_id for row in log.read(db)]


def test_what_cannot_be_written_at_the_end_is_in_the_log(
    db: Database, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit, "RETRY_S", 0.1)
    postgres.stop()

    async def body(writer: AuditWriter) -> None:
        writer.add(BY, "send.create", app="shop", object_id="lost", detail={"kind": "broadcast"})

    try:
        with caplog.at_level(logging.ERROR):
            write(db, body)
    finally:
        postgres.start()
    (record,) = [record for record in caplog.records if record.getMessage() == "audit_not_written"]
    fields = vars(record)
    assert [fields[name] for name in ("actor", "actor_id", "action", "app", "object_id", "remote")] == [
        BY.name,
        BY.id,
        "send.create",
        "shop",
        "lost",
        BY.remote,
    ]


@pytest.fixture
def door(_fleet: Fleet, ledger_url: str) -> Iterator[Door]:
    with opened_door(_fleet, ledger_url) as door:
        yield door


def test_nothing_is_done_that_cannot_be_put_on_record(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MOST_WAITING", 0)
    with door.client(door.key("admin")) as client:
        answer = client.post("/v1/broadcasts", json={})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert client.get("/v1/sends").status_code == 200, "one may still look"
