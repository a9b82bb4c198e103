"""The audit log: who did what to which send, key or user. Rows are added, and removed by age; nothing changes one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
from sqlalchemy import Connection, text

from pushq.access.principal import Principal
from pushq.database import Database
from pushq.errors import InvalidRequest
from pushq.redaction import Redactor

MOST_ROWS: Final = 1000
#: Characters of a text, and of a whole detail.
LONGEST_TEXT: Final = 200
LONGEST_DETAIL: Final = 4_000
_ACTION: Final = re.compile(r"[a-z]+(?:[._][a-z]+)*", re.ASCII)
_CLEAN: Final = Redactor()


@dataclass(frozen=True)
class Entry:
    """A row that is to be written. ``at`` is None for the database's clock."""

    actor_kind: str
    actor: str
    actor_id: str
    action: str
    app: str | None
    object_id: str | None
    remote: str | None
    detail: Mapping[str, Any]
    at: datetime | None = None


@dataclass(frozen=True)
class Row:
    """A row as it was written; ids grow, with gaps."""

    id: int
    at: datetime
    actor_kind: str
    actor: str
    actor_id: str
    action: str
    app: str | None
    object_id: str | None
    remote: str | None
    detail: Mapping[str, Any]


def entry(
    principal: Principal,
    action: str,
    *,
    app: str | None = None,
    object_id: str | None = None,
    detail: Mapping[str, Any] | None = None,
    at: datetime | None = None,
) -> Entry:
    """A row for what ``principal`` did.

    Args:
        action: lower case with dots, such as ``send.pause``; a name of the code's, never a caller's text.
        object_id: what it was done to.
        detail: numbers, names and states. No secret, push token, title or text of a message: what looks like a secret is masked, but
            nothing recognises a title.
    """
    if not _ACTION.fullmatch(action):
        raise ValueError(f"action: found {action!r}; expected lower case words with dots")
    shown = orjson.dumps(_clean({} if detail is None else detail))
    return Entry(
        principal.kind,
        _text(principal.name) or "",
        _text(principal.id) or "",
        action,
        _text(app),
        _text(object_id),
        _text(principal.remote),
        orjson.loads(shown) if len(shown) <= LONGEST_DETAIL else {"left_out": f"{len(shown)} bytes"},
        at,
    )


def _text(value: str | None) -> str | None:
    return None if value is None else str(_clean(value))


def _clean(value: object) -> Any:
    """A value that PostgreSQL can store and that masks what looks like a secret."""
    if isinstance(value, str):
        # Neither NUL nor half a character can be stored.
        storable = value[: 4 * LONGEST_TEXT].replace("\0", "").encode("utf-8", "replace").decode()
        return _CLEAN.text(storable)[:LONGEST_TEXT]
    if isinstance(value, Mapping):
        return {str(_clean(str(key))): _clean(item) for key, item in list(value.items())[:100]}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in list(value)[:100]]
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else str(value)[:LONGEST_TEXT]
    return _clean(str(value))


_INSERT: Final = text("""
INSERT INTO audit_log (at, actor_kind, actor, actor_id, action, app, object_id, remote, detail)
SELECT coalesce(r.at, now()), r.actor_kind, r.actor, r.actor_id, r.action, r.app, r.object_id, r.remote, r.detail
  FROM jsonb_to_recordset(cast(:rows AS jsonb)) AS r (at timestamptz, actor_kind text, actor text, actor_id text, action text,
                                                      app text, object_id text, remote text, detail jsonb)
""")


def record_all(connection: Connection, entries: Iterable[Entry]) -> None:
    """Add rows in one statement, in the caller's transaction."""
    rows = orjson.dumps(list(entries)).decode()
    connection.execute(_INSERT, {"rows": rows})


def record(
    connection: Connection,
    principal: Principal,
    action: str,
    *,
    app: str | None = None,
    object_id: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Add one row, in the caller's transaction: what was done and that it is on record succeed or fail together."""
    record_all(connection, [entry(principal, action, app=app, object_id=object_id, detail=detail)])


def read(
    database: Database,
    *,
    limit: int = 50,
    before: int | None = None,
    actor: str | None = None,
    action: str | None = None,
    app: str | None = None,
    object_id: str | None = None,
    since: datetime | None = None,
    apps: frozenset[str] | None = None,
) -> Sequence[Row]:
    """Rows, newest first.

    Args:
        limit: at most 1,000.
        before: only rows with a smaller id: the last one's of the page before.
        actor: name or id.
        action: whole, or a beginning up to a dot: ``send`` finds ``send.pause`` as well.
        apps: what the reader may see: only rows of these apps. None: all rows, and those of no app.

    Raises:
        InvalidRequest: the limit is wrong.
    """
    if not 1 <= limit <= MOST_ROWS:
        raise InvalidRequest("limit", str(limit), f"1 to {MOST_ROWS}")
    conditions = {
        "before": "id < :before",
        "actor": "(actor = :actor OR actor_id = :actor)",
        "action": "(action = :action OR starts_with(action, :action || '.'))",
        "app": "app = :app",
        "object_id": "object_id = :object_id",
        "since": "at >= :since",
        "apps": "app = ANY(CAST(:apps AS text[]))",
    }
    values: dict[str, Any] = {
        "before": before,
        "actor": actor,
        "action": action,
        "app": app,
        "object_id": object_id,
        "since": since,
        "apps": None if apps is None else sorted(apps),
    }
    given = {
        name: value.replace("\0", "") if isinstance(value, str) else value
        for name, value in values.items()
        if value is not None
    }
    where = " AND ".join(conditions[name] for name in given) or "true"
    with database.begin() as connection:
        rows = connection.execute(
            text(
                f"""
                SELECT id, at, actor_kind, actor, actor_id, action, app, object_id, remote, detail
                FROM audit_log WHERE {where} ORDER BY id DESC LIMIT :limit
                """  # noqa: S608
            ),
            {**given, "limit": limit},
        ).all()
    return [Row(*row) for row in rows]
