"""What the ledger holds, row by row and open or ended: for measurements, which compare it with what others counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from sqlalchemy import text

from pushq.database import Database

TABLES: Final = (
    "device_tokens",
    "segments",
    "segment_members",
    "sends",
    "send_shards",
    "send_batches",
    "dead_letters",
)
_PAGE: Final = 200


class Work(NamedTuple):
    """What is not over.

    Attributes:
        leases: batches that somebody holds, or held when the lease ran out.
    """

    sends: int
    batches: int
    running: int
    leases: int
    letters: int


class Ended(NamedTuple):
    """A batch as the ledger has it. ``outcomes``: a byte per device; empty when nobody has begun."""

    kind: str
    guarantee: str
    platform: str
    device_ids: list[int]
    outcomes: bytes


def rows(database: Database) -> dict[str, int]:
    """Rows of each table, counted one by one."""
    with database.begin() as connection:
        return {
            table: int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())  # noqa: S608
            for table in TABLES
        }


def open_work(database: Database) -> Work:
    """Sends and batches that have no end, and dead letters that nobody has looked at."""
    with database.begin() as connection:
        row = connection.execute(
            text(
                """
                SELECT (SELECT count(*) FROM sends WHERE state IN ('scheduled', 'planning', 'sending', 'paused')) AS sends,
                       count(*) AS batches, count(*) FILTER (WHERE state = 'running') AS running, count(lease_token) AS leases,
                       (SELECT count(*) FROM dead_letters WHERE processed_at IS NULL) AS letters
                  FROM send_batches WHERE state NOT IN ('done', 'parked')
                """
            )
        ).one()
    return Work(*(int(value) for value in row))


def held_sends(database: Database, limit: int = 20) -> list[tuple[str, str]]:
    """State and reason of sends that are paused or failed, and batches that were put aside."""
    with database.begin() as connection:
        found = connection.execute(
            text(
                """
                SELECT state, coalesce(error, '') AS error FROM sends WHERE state = 'paused' OR (state = 'failed' AND kind = 'broadcast')
                UNION ALL SELECT 'parked', coalesce(error, '') FROM send_batches WHERE state = 'parked' LIMIT :limit
                """
            ),
            {"limit": limit},
        ).all()
    return [(row.state, row.error) for row in found]


def server_connections(database: Database) -> int:
    """Connections to PostgreSQL, of everybody."""
    with database.begin() as connection:
        return int(
            connection.execute(
                text("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
            ).scalar_one()
        )


def batches(database: Database) -> Iterator[Ended]:
    """All batches of all sends, in no order that means anything; a page is in memory at a time."""
    after: tuple[object, int] | None = None
    while True:
        with database.begin() as connection:
            found = connection.execute(
                text(
                    f"""
                    SELECT s.kind, s.guarantee, b.send_id, b.batch_no, b.platform, b.device_ids, b.outcomes
                      FROM send_batches b JOIN sends s ON s.id = b.send_id
                     {"" if after is None else "WHERE (b.send_id, b.batch_no) > (:send, :batch)"}
                     ORDER BY b.send_id, b.batch_no LIMIT :page
                    """  # noqa: S608
                ),
                {"page": _PAGE} | ({} if after is None else {"send": after[0], "batch": after[1]}),
            ).all()
        for row in found:
            yield Ended(
                row.kind, row.guarantee, row.platform, list(row.device_ids), bytes(row.outcomes or b"")
            )
        if len(found) < _PAGE:
            return
        after = found[-1].send_id, found[-1].batch_no


def device_tokens(database: Database) -> Iterator[tuple[int, str, str]]:
    """Id, platform and token of every device, active or not; meant for the few that a measurement makes."""
    with database.begin() as connection:
        for row in connection.execute(text("SELECT id, platform, token FROM device_tokens")):
            yield int(row.id), row.platform, row.token


def inactive_tokens(database: Database, limit: int) -> list[tuple[str, str]]:
    """Platform and token of devices that were taken out of use, oldest first."""
    with database.begin() as connection:
        found = connection.execute(
            text(
                "SELECT platform, token FROM device_tokens WHERE NOT is_active ORDER BY deactivated_at LIMIT :limit"
            ),
            {"limit": limit},
        ).all()
    return [(row.platform, row.token) for row in found]
