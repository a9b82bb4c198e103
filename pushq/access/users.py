"""Users of the console: a name, a password, and what they may do."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, exc, text

from pushq.access import audit, passwords
from pushq.access.names import check_name
from pushq.access.principal import ADMIN, SCOPES, Principal, parse_apps, parse_scopes
from pushq.database import Database
from pushq.errors import InvalidRequest, PushqError

#: What a user may do unless told otherwise: everything but to administrate.
DEFAULT_SCOPES: Final = frozenset(SCOPES) - {ADMIN, "audit:read"}


class UnknownUser(PushqError):
    """There is no such user."""

    def __init__(self, name: str) -> None:
        super().__init__(f"No user is called {name[:64]!r}. See: pushq users list")


@dataclass(frozen=True)
class User:
    """A user, without the password.

    Attributes:
        apps: None is all apps.
        password_at: when the password was set.
        sessions: how many are open; 0 where nobody counted.
    """

    name: str
    scopes: frozenset[str]
    apps: frozenset[str] | None
    created_at: datetime
    password_at: datetime
    sessions: int = 0

    def principal(self, remote: str | None = None) -> Principal:
        return Principal("user", self.name, self.name, self.scopes, self.apps, remote)


_COLUMNS: Final = "u.name, u.scopes, u.apps, u.created_at, u.password_at"


def user_of(row: Row[Any], sessions: int = 0) -> User:
    apps = None if row.apps is None else frozenset(row.apps)
    return User(row.name, frozenset(row.scopes), apps, row.created_at, row.password_at, sessions)


def create(
    database: Database,
    by: Principal,
    *,
    name: str,
    password: str,
    scopes: Collection[str] = DEFAULT_SCOPES,
    apps: Collection[str] | None = None,
) -> User:
    """Make a user.

    Raises:
        InvalidRequest: name, password, scopes or apps are wrong, or the name is taken.
    """
    check_name(name)
    passwords.check_password(password, name)
    granted, limited = parse_scopes(scopes), parse_apps(apps)
    listed = None if limited is None else sorted(limited)
    stored = passwords.hashed(password)
    try:
        with database.begin() as connection:
            row = connection.execute(
                text(
                    f"""
                    INSERT INTO console_users AS u (name, password_hash, scopes, apps) VALUES (:name, :hash, :scopes, :apps)
                    RETURNING {_COLUMNS}
                    """  # noqa: S608
                ),
                {"name": name, "hash": stored, "scopes": sorted(granted), "apps": listed},
            ).one()
            audit.record(
                connection,
                by,
                "user.create",
                object_id=name,
                detail={"scopes": sorted(granted), "apps": listed},
            )
    except exc.IntegrityError:
        raise InvalidRequest("name", f"{name!r}, which exists", "a name that no user has yet") from None
    return user_of(row)


def list_users(database: Database, *, apps: frozenset[str] | None = None) -> list[User]:
    """The users by name, with their open sessions. At most 1,000.

    Args:
        apps: only users who may touch no others. None: all users.
    """
    with database.begin() as connection:
        rows = connection.execute(
            text(
                f"""
                SELECT {_COLUMNS}, (SELECT count(*) FROM console_sessions s WHERE s.user_name = u.name AND s.ends_at > now()) AS sessions
                FROM console_users u WHERE CAST(:apps AS text[]) IS NULL OR u.apps <@ CAST(:apps AS text[])
                ORDER BY u.name LIMIT 1000
                """  # noqa: S608
            ),
            {"apps": None if apps is None else sorted(apps)},
        ).all()
    return [user_of(row, row.sessions) for row in rows]


def set_password(database: Database, by: Principal, name: str, password: str) -> None:
    """Give the user another password; whoever is signed in as this user no longer is.

    Raises:
        InvalidRequest: the password is too weak.
        UnknownUser: there is none of this name.
    """
    passwords.check_password(password, name)
    stored = passwords.hashed(password)
    with database.begin() as connection:
        changed = connection.execute(
            text("UPDATE console_users SET password_hash = :hash, password_at = now() WHERE name = :name"),
            {"hash": stored, "name": name},
        ).rowcount
        if not changed:
            raise UnknownUser(name)
        connection.execute(text("DELETE FROM console_sessions WHERE user_name = :name"), {"name": name})
        audit.record(connection, by, "user.password", object_id=name)


def delete(database: Database, by: Principal, name: str) -> None:
    """Remove the user and end every session.

    Raises:
        UnknownUser: there is none of this name.
    """
    with database.begin() as connection:
        gone = connection.execute(text("DELETE FROM console_users WHERE name = :name"), {"name": name})
        if not gone.rowcount:
            raise UnknownUser(name)
        audit.record(connection, by, "user.delete", object_id=name)


def sign_out(database: Database, by: Principal, name: str) -> int:
    """End every session of the user. Returns how many there were.

    Raises:
        UnknownUser: there is none of this name.
    """
    with database.begin() as connection:
        if (
            connection.execute(text("SELECT 1 FROM console_users WHERE name = :name"), {"name": name}).first()
            is None
        ):
            raise UnknownUser(name)
        ended: int = connection.execute(
            text("DELETE FROM console_sessions WHERE user_name = :name"), {"name": name}
        ).rowcount
        audit.record(connection, by, "user.sign_out", object_id=name, detail={"sessions": ended})
    return ended


@dataclass(frozen=True)
class Attempt:
    """What came of a name and a password.

    Attributes:
        user: None when they are not right.
        known: whether there is a user of this name; for the audit log, never for an answer.
    """

    user: User | None
    known: bool


def authenticate(database: Database, name: str, password: str) -> Attempt:
    """Check name and password. Takes as long for a name that does not exist."""
    with database.begin() as connection:
        row = connection.execute(
            text(f"SELECT {_COLUMNS}, u.password_hash FROM console_users u WHERE u.name = :name"),  # noqa: S608
            {"name": name.replace("\0", "")},
        ).first()
    # Outside of the transaction: no connection waits for scrypt.
    right = passwords.matches(password, passwords.NOBODY if row is None else row.password_hash)
    return Attempt(user_of(row) if row is not None and right else None, row is not None)


def _exists(connection: Connection, name: str) -> bool:
    found = connection.execute(text("SELECT 1 FROM console_users WHERE name = :name"), {"name": name})
    return found.first() is not None
