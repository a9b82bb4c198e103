"""API keys: ``pushq_<id>_<secret>``. The id is public and finds the row; of the secret only a hash is stored.

The secret has 256 random bits, so one round of SHA-256 is enough: there is nothing to guess. A slow hash, which passwords need, would
only let strangers spend our processor time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, text

from pushq.access import audit
from pushq.access.names import check_name
from pushq.access.principal import Forbidden, Principal, parse_apps, parse_scopes
from pushq.database import Database
from pushq.errors import InvalidRequest, PushqError

PREFIX: Final = "pushq"
_KEY: Final = re.compile(r"pushq_([0-9a-f]{16})_([0-9A-Za-z]{43})", re.ASCII)
_ID: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#: 62 ** 43 is a little more than 2 ** 256. Letters and digits only, so that a double click takes all of it.
_SECRET_LENGTH: Final = 43
MOST_RATE: Final = 1_000_000
#: The last use is written down once in so many seconds.
USED_EVERY_S: Final = 60
#: What an unknown key is compared with, so that the way of a wrong secret and of a wrong id are the same.
_NOBODY: Final = bytes(32)


class UnknownKey(PushqError):
    """There is no such key."""


@dataclass(frozen=True)
class ApiKey:
    """A key as it is stored, without what proves it.

    Attributes:
        apps: None is all apps.
        rate: requests per second; None is ``PUSHQ_WEB_KEY_RATE``.
        last_used_at: to the minute.
    """

    id: str
    name: str
    scopes: frozenset[str]
    apps: frozenset[str] | None
    rate: int | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    def principal(self, remote: str | None = None) -> Principal:
        return Principal("key", self.name, self.id, self.scopes, self.apps, remote)


@dataclass(frozen=True)
class CheckedKey:
    """A key that is neither revoked nor over, and the hash of its secret."""

    key: ApiKey
    secret_hash: bytes


def parse(text_: str) -> tuple[str, str] | None:
    """(id, secret) of a key as it came in; None when it is none."""
    found = _KEY.fullmatch(text_)
    return None if found is None else (found[1], found[2])


def proves(checked: CheckedKey | None, secret: str) -> bool:
    """Whether this is the key's secret, in a time that tells nothing about it; False without a key, after the same time."""
    stored = _NOBODY if checked is None else checked.secret_hash
    same = hmac.compare_digest(_hash(secret), stored)
    return same and checked is not None


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def issue(
    database: Database,
    by: Principal,
    *,
    name: str,
    scopes: Collection[str],
    apps: Collection[str] | None = None,
    rate: int | None = None,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Make a key. Returns it and its text, which nobody can ever read again.

    Args:
        by: who makes it; the key may not do more than that one.
        name: what people call it, such as the service that will hold it.
        rate: requests per second.

    Raises:
        InvalidRequest: name, scopes, apps, rate or time are wrong.
        Forbidden: ``by`` has not got such a scope or app.
    """
    check_name(name)
    granted, limited = parse_scopes(scopes), parse_apps(apps)
    for scope in sorted(granted):
        by.check(scope)
    _check_apps(by, limited)
    if rate is not None and not 1 <= rate <= MOST_RATE:
        raise InvalidRequest("rate", str(rate), f"1 to {MOST_RATE:,} requests a second")
    if expires_at is not None and expires_at.tzinfo is None:
        raise InvalidRequest("expires_at", "a time without a zone", "a time with its zone")
    key_id = secrets.token_hex(8)
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))
    with database.begin() as connection:
        row = connection.execute(
            text(
                f"""
                INSERT INTO api_keys (id, name, secret_hash, scopes, apps, rate, expires_at)
                VALUES (:id, :name, :hash, :scopes, :apps, :rate, :expires_at) RETURNING {_COLUMNS}
                """  # noqa: S608
            ),
            {
                "id": key_id,
                "name": name,
                "hash": _hash(secret),
                "scopes": sorted(granted),
                "apps": None if limited is None else sorted(limited),
                "rate": rate,
                "expires_at": expires_at,
            },
        ).one()
        audit.record(
            connection,
            by,
            "key.create",
            object_id=key_id,
            detail={
                "name": name,
                "scopes": sorted(granted),
                "apps": None if limited is None else sorted(limited),
            },
        )
    return _key(row), f"{PREFIX}_{key_id}_{secret}"


def _check_apps(by: Principal, apps: frozenset[str] | None) -> None:
    """Raise Forbidden unless ``by`` may touch all of these apps."""
    if by.apps is not None and (apps is None or not apps <= by.apps):
        raise Forbidden("all apps" if apps is None else f"app {min(apps - by.apps)}")


_COLUMNS: Final = "id, name, scopes, apps, rate, created_at, expires_at, last_used_at, revoked_at"


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        row.id,
        row.name,
        frozenset(row.scopes),
        None if row.apps is None else frozenset(row.apps),
        row.rate,
        row.created_at,
        row.expires_at,
        row.last_used_at,
        row.revoked_at,
    )


def look_up(database: Database, key_id: str) -> CheckedKey | None:
    """The key of this id, unless it is revoked or over; notes that it was used."""
    with database.begin() as connection:
        row = connection.execute(
            text(
                f"""
                SELECT {_COLUMNS}, secret_hash,
                       last_used_at IS NULL OR last_used_at < now() - make_interval(secs => :every) AS due
                FROM api_keys WHERE id = :id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
                """  # noqa: S608
            ),
            {"id": key_id, "every": USED_EVERY_S},
        ).first()
        if row is None:
            return None
        if row.due:
            connection.execute(
                text("UPDATE api_keys SET last_used_at = now() WHERE id = :id"), {"id": key_id}
            )
    return CheckedKey(_key(row), bytes(row.secret_hash))


def list_keys(
    database: Database, *, revoked: bool = False, apps: frozenset[str] | None = None
) -> list[ApiKey]:
    """The keys, newest first. At most 1,000.

    Args:
        revoked: also those that let nobody in any more.
        apps: only keys for no others than these. None: all keys.
    """
    with database.begin() as connection:
        rows = connection.execute(
            text(
                f"""
                SELECT {_COLUMNS} FROM api_keys
                WHERE (:revoked OR revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()))
                  AND (CAST(:apps AS text[]) IS NULL OR apps <@ CAST(:apps AS text[]))
                ORDER BY created_at DESC, id LIMIT 1000
                """  # noqa: S608
            ),
            {"revoked": revoked, "apps": None if apps is None else sorted(apps)},
        ).all()
    return [_key(row) for row in rows]


def revoke(database: Database, by: Principal, key_id: str) -> bool:
    """Let the key in no more, within a few seconds. False when it was revoked before.

    Raises:
        UnknownKey: there is none of this id.
        Forbidden: it is for apps that ``by`` may not touch.
    """
    if not _ID.fullmatch(key_id):
        raise InvalidRequest(
            "key", repr(key_id[:20]), "a key's id: 16 hex digits, as `pushq keys list` shows"
        )
    with database.begin() as connection:
        key = connection.execute(
            text("SELECT name, apps FROM api_keys WHERE id = :id"), {"id": key_id}
        ).first()
        if key is None:
            raise UnknownKey(f"No key has the id {key_id}. See: pushq keys list")
        _check_apps(by, None if key.apps is None else frozenset(key.apps))
        changed = connection.execute(
            text("UPDATE api_keys SET revoked_at = now() WHERE id = :id AND revoked_at IS NULL"),
            {"id": key_id},
        ).rowcount
        if changed:
            audit.record(connection, by, "key.revoke", object_id=key_id, detail={"name": key.name})
    return bool(changed)
