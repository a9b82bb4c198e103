"""Segments: static ones have members, the others are a filter that is looked at when a send is planned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
import psycopg
from sqlalchemy import Connection, exc, text

from pushq.audience.members import CHUNK
from pushq.audience.request import EVERYBODY, Audience, parse_filter, parse_segment_name
from pushq.audience.sql import UnknownSegment, count, unknown_segment
from pushq.database import Database
from pushq.errors import InvalidRequest, ServiceUnavailable

#: Members of a replaced segment change in one statement: millions of them take longer than the pool's time limit for statements.
_LONG: Final = text("SET LOCAL statement_timeout = '15min'")

_LIST: Final = text("""
SELECT app, name, kind, filter, created_at, updated_at FROM segments
 WHERE (cast(:app AS text) IS NULL OR app = :app) AND (app, name) > (:after_app, :after_name)
 ORDER BY app, name LIMIT :limit
""")

_ONE: Final = text(
    "SELECT app, name, kind, filter, created_at, updated_at FROM segments WHERE app = :app AND name = :name"
)

_STAGE: Final = "CREATE TEMPORARY TABLE member_ids (user_id bigint) ON COMMIT DROP"
_ADD: Final = text("""
INSERT INTO segment_members (segment_id, user_id) SELECT DISTINCT cast(:id AS bigint), user_id FROM member_ids ON CONFLICT DO NOTHING
""")
_REMOVE: Final = text(
    "DELETE FROM segment_members m USING member_ids i WHERE m.segment_id = :id AND m.user_id = i.user_id"
)
_TOUCH: Final = text("UPDATE segments SET updated_at = now() WHERE id = :id")


__all__ = ["SegmentExists", "UnknownSegment"]


class SegmentExists(InvalidRequest):
    """The app has a segment of this name already."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as it is stored. ``filter`` is None for a static one."""

    app: str
    name: str
    kind: str
    filter: Mapping[str, Any] | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class SegmentCount:
    """How large a segment is now.

    Attributes:
        members: users of a static segment; None for a filter.
        devices: active devices by platform.
    """

    members: int | None
    devices: dict[str, int]


def create(database: Database, app: str, name: str, *, filter: Mapping[str, Any] | None = None) -> None:  # noqa: A002
    """Create a segment of the app: static without ``filter``.

    Raises:
        InvalidRequest: the name or the filter is wrong, or the segment exists.
    """
    parse_segment_name(name)
    if name == EVERYBODY:
        raise InvalidRequest("segment", "'all'", "another name: that segment is built in")
    conditions = None if filter is None else orjson.dumps(parse_filter(filter)).decode()
    try:
        with database.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO segments (app, name, kind, filter) VALUES (:app, :name, :kind, cast(:filter AS jsonb))"
                ),
                {
                    "app": app,
                    "name": name,
                    "kind": "static" if filter is None else "filter",
                    "filter": conditions,
                },
            )
    except exc.IntegrityError:
        raise SegmentExists(
            "segment", f"{name!r}, which exists", f"a name that app {app!r} does not have yet"
        ) from None


def delete(database: Database, app: str, name: str) -> None:
    """Delete a segment and its membership.

    Raises:
        InvalidRequest: there is no such segment.
    """
    with database.begin() as connection:
        connection.execute(_LONG)
        found = connection.execute(
            text("DELETE FROM segments WHERE app = :app AND name = :name"), {"app": app, "name": name}
        )
        if found.rowcount == 0:
            raise unknown_segment(connection, app, name, "segment")


def list_segments(database: Database, app: str | None = None, *, limit: int = 1000) -> list[Segment]:
    """The segments by app and name, all of them, read in pages."""
    segments: list[Segment] = []
    after = ("", "")
    while True:
        page = _page(database, app, after, limit)
        segments += page
        if len(page) < limit:
            return segments
        after = (page[-1].app, page[-1].name)


def page_of_segments(database: Database, app: str, after: str, limit: int) -> list[Segment]:
    """Segments of an app by name, those after the name ``after``."""
    return _page(database, app, (app, after), limit)


def _page(database: Database, app: str | None, after: tuple[str, str], limit: int) -> list[Segment]:
    with database.begin() as connection:
        rows = connection.execute(
            _LIST, {"app": app, "limit": limit, "after_app": after[0], "after_name": after[1]}
        ).all()
    return [Segment(*row) for row in rows]


def get(database: Database, app: str, name: str) -> Segment:
    """One segment.

    Raises:
        UnknownSegment: there is none of this name.
    """
    with database.begin() as connection:
        row = connection.execute(_ONE, {"app": app, "name": name}).first()
        if row is None:
            raise unknown_segment(connection, app, name, "segment")
    return Segment(*row)


def count_segment(database: Database, app: str, name: str) -> SegmentCount:
    """Members and active devices of a segment; ``all`` as well.

    Raises:
        InvalidRequest: there is no such segment.
    """
    with database.begin() as connection:
        connection.execute(_LONG)
        devices = count(connection, app, Audience(segments=(name,)))
        members = connection.execute(
            text("""
            SELECT (SELECT count(*) FROM segment_members m WHERE m.segment_id = s.id)
              FROM segments s WHERE s.app = :app AND s.name = :name AND s.kind = 'static'
            """),
            {"app": app, "name": name},
        ).scalar()
    return SegmentCount(members, devices)


def add_members(database: Database, app: str, name: str, chunks: Iterable[Sequence[int]]) -> int:
    """Add users to a static segment, a transaction per chunk; who is in it already stays. Returns how many were new."""
    return _change(database, app, name, chunks, _ADD)


def remove_members(database: Database, app: str, name: str, chunks: Iterable[Sequence[int]]) -> int:
    """Take users out of a static segment, a transaction per chunk. Returns how many were in it."""
    return _change(database, app, name, chunks, _REMOVE)


def replace_members(database: Database, app: str, name: str, chunks: Iterable[Sequence[int]]) -> int:
    """Give a static segment these members and no others, in one transaction: a send sees the old ones or the new ones.

    Returns how many there are.

    Raises:
        InvalidRequest: there is no such static segment, or ``chunks`` has nobody: an empty file is taken for a mistake.
    """
    with database.begin() as connection:
        connection.execute(_LONG)
        segment_id = _static_id(connection, app, name)
        connection.exec_driver_sql(_STAGE)
        for chunk in chunks:
            _copy(connection, chunk)
        connection.exec_driver_sql("ANALYZE member_ids")
        connection.execute(text("DELETE FROM segment_members WHERE segment_id = :id"), {"id": segment_id})
        added = connection.execute(_ADD, {"id": segment_id}).rowcount
        if not added:
            raise InvalidRequest(
                "file", "no user id", "at least one; to remove a segment: pushq segments delete"
            )
        connection.execute(_TOUCH, {"id": segment_id})
    return added


def _change(database: Database, app: str, name: str, chunks: Iterable[Sequence[int]], statement: Any) -> int:
    changed = 0
    with database.begin() as connection:
        _static_id(connection, app, name)
    for chunk in chunks:
        for start in range(0, len(chunk), CHUNK):
            with database.begin() as connection:
                segment_id = _static_id(connection, app, name)
                connection.exec_driver_sql(_STAGE)
                _copy(connection, chunk[start : start + CHUNK])
                connection.exec_driver_sql("ANALYZE member_ids")
                changed += connection.execute(statement, {"id": segment_id}).rowcount
                connection.execute(_TOUCH, {"id": segment_id})
    return changed


def _static_id(connection: Connection, app: str, name: str) -> int:
    # FOR NO KEY UPDATE: two changes of one segment take turns, so they cannot wait for each other's rows.
    row = connection.execute(
        text("SELECT id, kind FROM segments WHERE app = :app AND name = :name FOR NO KEY UPDATE"),
        {"app": app, "name": name},
    ).first()
    if row is None:
        raise unknown_segment(connection, app, name, "segment")
    if row.kind != "static":
        raise InvalidRequest("segment", f"{name!r}, which is a filter", "a static segment, which has members")
    return int(row.id)


def _copy(connection: Connection, user_ids: Sequence[int]) -> None:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    try:
        with driver.cursor().copy("COPY member_ids FROM STDIN") as copy:
            copy.write("".join([f"{user_id}\n" for user_id in user_ids]))
    except psycopg.OperationalError as error:
        raise ServiceUnavailable(
            "PostgreSQL", "PUSHQ_DATABASE_URL", str(error).strip().partition("\n")[0][:300]
        ) from error
