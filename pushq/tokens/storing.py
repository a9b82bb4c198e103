"""Store windows of checked rows: the PostgreSQL side of an import."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self

import psycopg
from sqlalchemy import Connection

from pushq.database import Database
from pushq.errors import ServiceUnavailable
from pushq.tokens.cache import TokenCache
from pushq.tokens.locks import lock_gate
from pushq.tokens.rows import COPY_COLUMNS, NO_ATTRIBUTES, NO_TAGS

#: Connections that copy at once.
LANES: Final = 2
#: Fewer new rows than this are copied over one connection.
_WORTH_TWO_LANES: Final = 2000
#: Lines joined for one message to PostgreSQL.
_LINES_PER_WRITE: Final = 500

_PREPARE: Final = """
SET LOCAL work_mem = '64MB';
SET LOCAL default_statistics_target = 1;
CREATE TEMPORARY TABLE import_hashes (token_hash uuid) ON COMMIT DROP
"""

# ANALYZE, because the look-up goes by hash join or by index depending on how many there are on either side.
_KNOWN: Final = """
SELECT DISTINCT replace(h.token_hash::text, '-', '') FROM import_hashes h JOIN device_tokens d ON d.token_hash = h.token_hash
"""

_STAGING: Final = """
CREATE TEMPORARY TABLE import_rows (
    user_id bigint, app text, platform text, environment text, token text, token_hash uuid PRIMARY KEY,
    registered_at timestamptz, last_seen timestamptz,
    language text, country text, timezone text, app_version text, tags text, attributes text
) ON COMMIT DROP
"""

# A record speaks of the time it carries. Active rows, of whatever user, count from their registration; an inactive row of the same
# user was taken out of use when it says.
_SUPERSEDED: Final = """
DELETE FROM import_rows s USING device_tokens d
 WHERE d.token_hash = s.token_hash
   AND CASE WHEN d.is_active THEN d.registered_at > s.registered_at
            ELSE d.user_id = s.user_id AND d.deactivated_at > s.registered_at END
"""

_MOVE: Final = """
UPDATE device_tokens d
   SET is_active = false, deactivated_at = clock_timestamp(), deactivation_reason = 'moved'
  FROM import_rows s
 WHERE d.token_hash = s.token_hash AND d.user_id <> s.user_id AND d.is_active
RETURNING d.user_id, d.platform
"""

_UPDATE: Final = f"""
UPDATE device_tokens d
   SET registered_at = s.registered_at,
       last_seen = greatest(d.last_seen, s.last_seen),
       is_active = true,
       deactivated_at = NULL,
       deactivation_reason = NULL,
       language = coalesce(s.language, d.language),
       country = coalesce(s.country, d.country),
       timezone = coalesce(s.timezone, d.timezone),
       app_version = coalesce(s.app_version, d.app_version),
       tags = CASE WHEN s.tags = '{NO_TAGS}' THEN d.tags ELSE s.tags::jsonb END,
       attributes = CASE WHEN s.attributes = '{NO_ATTRIBUTES}' THEN d.attributes ELSE s.attributes::jsonb END
  FROM import_rows s
 WHERE d.token_hash = s.token_hash AND d.user_id = s.user_id
"""  # noqa: S608 - constants of this package

_INSERT: Final = f"""
INSERT INTO device_tokens ({COPY_COLUMNS})
SELECT {COPY_COLUMNS.replace("tags, attributes", "tags::jsonb, attributes::jsonb")}
  FROM import_rows s
 WHERE NOT EXISTS (SELECT FROM device_tokens d WHERE d.token_hash = s.token_hash AND d.user_id = s.user_id)
"""  # noqa: S608 - constants of this package


class Storage:
    """Stores one window after the other in a thread of its own; at most one is under way while the next one is made.

    Attributes:
        inserted, updated, superseded, moved: sums over the windows stored, see :class:`~pushq.tokens.importing.ImportReport`.
    """

    def __init__(self, database: Database, cache: TokenCache | None) -> None:
        self._database = database
        self._cache = cache
        self._threads = ThreadPoolExecutor(LANES + 1, thread_name_prefix="import")
        self._under_way: Future[None] | None = None
        self.inserted = self.updated = self.superseded = self.moved = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Also after Ctrl-C: the window under way is finished or rolled back; the server's statement timeout bounds the wait.
        self._threads.shutdown(wait=True, cancel_futures=True)

    def submit(self, rows: dict[str, str]) -> None:
        """Store a window: COPY lines by token hash. Waits for the window before; raises what went wrong with it."""
        self.finish()
        self._under_way = self._threads.submit(self._store, rows)

    def finish(self) -> None:
        """Wait until everything submitted is stored; raises what went wrong."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def _store(self, rows: dict[str, str]) -> None:
        moved: list[tuple[int, str]] = []
        try:
            with self._database.begin() as connection:
                cursor = _cursor(connection)
                lock_gate(connection)
                cursor.execute(_PREPARE)
                _copy(cursor, "import_hashes (token_hash)", [f"{identity}\n" for identity in rows])
                cursor.execute("ANALYZE import_hashes")
                known = [row[0] for row in cursor.execute(_KNOWN)]
                there = [rows.pop(identity) for identity in known]
                # The gate holds until this transaction ends, so what was not there stays away while the lanes copy.
                lanes = self._copy_new(list(rows.values()))
                try:
                    superseded, updated, added = self._merge(cursor, there, moved) if there else (0, 0, 0)
                finally:
                    for lane in lanes:
                        lane.result()
        except psycopg.OperationalError as error:
            detail = str(error).strip().partition("\n")[0][:300]
            raise ServiceUnavailable("PostgreSQL", "PUSHQ_DATABASE_URL", detail) from error
        self.inserted += len(rows) + added
        self.updated += updated
        self.superseded += superseded
        self.moved += len(moved)
        if self._cache is not None and self._cache.raise_epoch():
            _drop(self._cache, [*rows.values(), *there], moved)

    def _copy_new(self, lines: list[str]) -> list[Future[None]]:
        if not lines:
            return []
        lanes = LANES if len(lines) >= _WORTH_TWO_LANES else 1
        share = -(-len(lines) // lanes)
        return [
            self._threads.submit(self._copy_lane, lines[start : start + share])
            for start in range(0, len(lines), share)
        ]

    def _copy_lane(self, lines: list[str]) -> None:
        with self._database.begin() as connection:
            _copy(_cursor(connection), f"device_tokens ({COPY_COLUMNS})", lines)

    @staticmethod
    def _merge(
        cursor: psycopg.Cursor[Any], lines: Sequence[str], moved: list[tuple[int, str]]
    ) -> tuple[int, int, int]:
        """Rows whose token is in the table already: how many were superseded, updated, inserted for another user."""
        cursor.execute(_STAGING)
        _copy(cursor, f"import_rows ({COPY_COLUMNS})", lines)
        cursor.execute("ANALYZE import_rows (token_hash, user_id)")
        superseded = cursor.execute(_SUPERSEDED).rowcount
        moved += cursor.execute(_MOVE).fetchall()
        updated = cursor.execute(_UPDATE).rowcount
        # After the update: its rows are there, the others are the new owners of moved tokens.
        added = cursor.execute(_INSERT).rowcount
        return superseded, updated, added


def _cursor(connection: Connection) -> psycopg.Cursor[Any]:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver.cursor()


def _copy(cursor: psycopg.Cursor[Any], target: str, lines: Sequence[str]) -> None:
    with cursor.copy(f"COPY {target} FROM STDIN") as copy:
        for start in range(0, len(lines), _LINES_PER_WRITE):
            copy.write("".join(lines[start : start + _LINES_PER_WRITE]))


def _drop(cache: TokenCache, lines: Iterable[str], moved: Iterable[tuple[int, str]]) -> None:
    users: dict[str, list[int]] = {}
    for line in lines:
        user_id, _, platform, _ = line.split("\t", 3)
        users.setdefault(platform, []).append(int(user_id))
    for user, platform in moved:
        users.setdefault(platform, []).append(user)
    for platform, of_platform in users.items():
        cache.drop(platform, of_platform)
