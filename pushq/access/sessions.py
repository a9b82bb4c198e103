"""Sessions of the console, kept in PostgreSQL: they end when somebody ends them, not when a signed cookie says so.

The browser holds a random token, the database its hash. From the token follows the CSRF token, which therefore needs no storage and
tells nothing about the token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import text

from pushq.access import audit
from pushq.access.principal import Principal
from pushq.access.users import UnknownUser, User, user_of
from pushq.database import Database

#: Without a request for so long a session is over, however long it might have lasted.
IDLE: Final = timedelta(hours=2)
#: The last request is written down once in so many seconds.
SEEN_EVERY_S: Final = 60
LINK_LIFE: Final = timedelta(minutes=15)
#: A user's oldest sessions end when there are more.
MOST_SESSIONS: Final = 20
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


@dataclass(frozen=True)
class Session:
    """An open session, and whose it is."""

    user: User
    ends_at: datetime


def well_formed(token: str) -> bool:
    """Whether this could be a session's or a link's token."""
    return _TOKEN.fullmatch(token) is not None


def new_token() -> str:
    return secrets.token_urlsafe(32)


def csrf_token_of(token: str) -> str:
    """What a form of this session must send."""
    digest = hmac.digest(token.encode(), b"pushq csrf", "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def start(database: Database, user: User, *, life: timedelta, remote: str | None) -> str:
    """Open a session. Returns its token, for the browser's cookie."""
    token = new_token()
    with database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO console_sessions (token_hash, user_name, ends_at)"
                " VALUES (:hash, :name, now() + make_interval(secs => :life))"
            ),
            {"hash": _hash(token), "name": user.name, "life": life.total_seconds()},
        )
        connection.execute(
            text(
                """
                DELETE FROM console_sessions WHERE token_hash IN (
                    SELECT token_hash FROM console_sessions WHERE user_name = :name
                    ORDER BY created_at DESC, token_hash OFFSET :most)
                """
            ),
            {"name": user.name, "most": MOST_SESSIONS},
        )
        audit.record(connection, user.principal(remote), "login", object_id=user.name)
    return token


def look_up(database: Database, token: str) -> Session | None:
    """The open session of this token; notes that it is in use."""
    with database.begin() as connection:
        row = connection.execute(
            text(
                """
                SELECT u.name, u.scopes, u.apps, u.created_at, u.password_at, s.ends_at,
                       s.seen_at < now() - make_interval(secs => :every) AS due
                FROM console_sessions s JOIN console_users u ON u.name = s.user_name
                WHERE s.token_hash = :hash AND s.ends_at > now() AND s.seen_at > now() - make_interval(secs => :idle)
                """
            ),
            {"hash": _hash(token), "every": SEEN_EVERY_S, "idle": IDLE.total_seconds()},
        ).first()
        if row is None:
            return None
        if row.due:
            connection.execute(
                text("UPDATE console_sessions SET seen_at = now() WHERE token_hash = :hash"),
                {"hash": _hash(token)},
            )
    return Session(user_of(row), row.ends_at)


def end(database: Database, by: Principal, token: str) -> None:
    """End the session of this token, if there is one."""
    with database.begin() as connection:
        gone = connection.execute(
            text("DELETE FROM console_sessions WHERE token_hash = :hash"), {"hash": _hash(token)}
        )
        if gone.rowcount:
            audit.record(connection, by, "logout", object_id=by.id)


def login_link(database: Database, by: Principal, name: str, *, life: timedelta = LINK_LIFE) -> str:
    """A token that signs the user in once, without the password: for the one who has the database's.

    Raises:
        UnknownUser: there is none of this name.
    """
    token = new_token()
    with database.begin() as connection:
        made = connection.execute(
            text(
                """
                INSERT INTO login_links (token_hash, user_name, ends_at)
                SELECT :hash, name, now() + make_interval(secs => :life) FROM console_users WHERE name = :name
                """
            ),
            {"hash": _hash(token), "name": name, "life": life.total_seconds()},
        )
        if not made.rowcount:
            raise UnknownUser(name)
        audit.record(connection, by, "user.link", object_id=name)
    return token


def redeem(database: Database, token: str) -> User | None:
    """The user whom this link signs in, now and never again."""
    with database.begin() as connection:
        row = connection.execute(
            text(
                """
                WITH used AS (DELETE FROM login_links WHERE token_hash = :hash RETURNING user_name, ends_at)
                SELECT u.name, u.scopes, u.apps, u.created_at, u.password_at
                FROM used JOIN console_users u ON u.name = used.user_name WHERE used.ends_at > now()
                """
            ),
            {"hash": _hash(token)},
        ).first()
    return None if row is None else user_of(row)
