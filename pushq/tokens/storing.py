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
CREATE TEMPORARY TABLE import_hashes (token_hash uuid) ON COMMIT DROP;
CREATE TEMPORARY TABLE import_there (
    token_hash uuid, user_id bigint, platform text, is_active boolean,
    registered_at timestamptz, deactivated_at timestamptz, tags jsonb, attributes jsonb
) ON COMMIT DROP
"""

# The one look-up in the big table. ANALYZE goes before it: by hash join or by index, depending on how many there are on either side.
_LOOK_UP: Final = """
INSERT INTO import_there
SELECT d.token_hash, d.user_id, d.platform, d.is_active, d.registered_at, d.deactivated_at, d.tags, d.attributes
  FROM import_hashes h JOIN device_tokens d ON d.token_hash = h.token_hash
"""

_KNOWN: Final = "SELECT DISTINCT replace(token_hash::text, '-', '') FROM import_there"

_STAGING: Final = """
CREATE TEMPORARY TABLE import_rows (
    user_id bigint, app text, platform text, environment text, token text, token_hash uuid,
    registered_at timestamptz, last_seen timestamptz,
    language text, country text, timezone text, app_version text, tags text, attributes text
) ON COMMIT DROP
"""

# A record speaks of the time it carries. Active rows, of whatever user, count from their registration; an inactive row of the same
# user was taken out of use when it says.
_SUPERSEDED: Final = """
DELETE FROM import_rows s USING import_there t
 WHERE t.token_hash = s.token_hash
   AND CASE WHEN t.is_active THEN t.registered_at > s.registered_at
            ELSE t.user_id = s.user_id AND t.deactivated_at > s.registered_at END
"""

# A table of its own with statistics of its own: for the few that move, the update then goes by index.
_MOVING: Final = """
CREATE TEMPORARY TABLE import_moving ON COMMIT DROP AS
SELECT t.token_hash, t.user_id, t.platform
  FROM import_rows s JOIN import_there t ON t.token_hash = s.token_hash AND t.user_id <> s.user_id AND t.is_active
"""

_MOVE: Final = """
UPDATE device_tokens d
   SET is_active = false, deactivated_at = clock_timestamp(), deactivation_reason = 'moved'
  FROM import_moving m
 WHERE d.token_hash = m.token_hash AND d.user_id = m.user_id AND d.is_active
RETURNING d.user_id, d.platform
"""

_UPDATES: Final = "SELECT count(*) FROM import_rows JOIN import_there USING (token_hash, user_id)"

# ON CONFLICT finds each row by the primary key in its own partition. An UPDATE would join with all of them.
_UPSERT: Final = f"""
INSERT INTO device_tokens AS d ({COPY_COLUMNS})
SELECT s.user_id, s.app, s.platform, s.environment, s.token, s.token_hash, s.registered_at, s.last_seen,
       s.language, s.country, s.timezone, s.app_version,
       CASE WHEN s.tags = '{NO_TAGS}' THEN coalesce(t.tags, '[]') ELSE s.tags::jsonb END,
       CASE WHEN s.attributes = '{NO_ATTRIBUTES}' THEN coalesce(t.attributes, '{{}}') ELSE s.attributes::jsonb END
  FROM import_rows s LEFT JOIN import_there t USING (token_hash, user_id)
ON CONFLICT (token_hash, user_id) DO UPDATE SET
    registered_at       = excluded.registered_at,
    last_seen           = greatest(d.last_seen, excluded.last_seen),
    is_active           = true,
    deactivated_at      = NULL,
    deactivation_reason = NULL,
    language            = coalesce(excluded.language, d.language),
    country             = coalesce(excluded.country, d.country),
    timezone            = coalesce(excluded.timezone, d.timezone),
    app_version         = coalesce(excluded.app_version, d.app_version),
    tags                = excluded.tags,
    attributes          = excluded.attributes
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
                cursor.execute(_LOOK_UP)
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
        cursor.execute("ANALYZE import_there")
        cursor.execute(_STAGING)
        _copy(cursor, f"import_rows ({COPY_COLUMNS})", lines)
        cursor.execute("ANALYZE import_rows")
        superseded = cursor.execute(_SUPERSEDED).rowcount
        if cursor.execute(_MOVING).rowcount:
            cursor.execute("ANALYZE import_moving")
            moved += cursor.execute(_MOVE).fetchall()
        counted = cursor.execute(_UPDATES).fetchone()
        updated = counted[0] if counted else 0
        return superseded, updated, cursor.execute(_UPSERT).rowcount - updated


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
