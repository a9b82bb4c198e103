"""Look at the devices of one user."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import text

from pushq.database import Database
from pushq.tokens.identity import short_hash

_DEVICES = text("""
SELECT id, app, platform, environment, token, is_active, deactivation_reason, registered_at, last_seen, deactivated_at,
       language, country, timezone, app_version, tags, attributes
  FROM device_tokens WHERE user_id = :user_id ORDER BY is_active DESC, registered_at DESC, id LIMIT :limit
""")

_ADDRESSED = """
SELECT id, user_id, platform, environment, token, language, attributes
  FROM device_tokens WHERE is_active AND app = :app AND {which} ORDER BY user_id, id LIMIT :limit
"""
_OF_USER = text(_ADDRESSED.format(which="user_id = :user_id"))
_ONE = text(_ADDRESSED.format(which="user_id = :user_id AND id = :device_id"))


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """A stored device, without its token. ``token`` is what logs show of it."""

    id: int
    app: str
    platform: str
    environment: str
    token: str
    is_active: bool
    deactivation_reason: str | None
    registered_at: datetime
    last_seen: datetime
    deactivated_at: datetime | None
    language: str | None
    country: str | None
    timezone: str | None
    app_version: str | None
    tags: list[str]
    attributes: dict[str, Any]


def devices_of(database: Database, user_id: int, *, limit: int = 1000) -> list[KnownDevice]:
    """The user's devices, active ones first. Inactive ones have no index: this reads one partition."""
    with database.begin() as connection:
        rows = connection.execute(_DEVICES, {"user_id": user_id, "limit": limit}).mappings().all()
    return [KnownDevice(**{**row, "token": short_hash(row["token"])}) for row in rows]


@dataclass(frozen=True, slots=True)
class AddressedDevice:
    """An active device with all that a message to it needs. ``token`` is a secret; it is not part of ``repr``."""

    id: int
    user_id: int
    platform: str
    environment: str
    token: str = field(repr=False)
    language: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


def addressed(
    database: Database, app: str, user_id: int, device_id: int | None = None, *, limit: int = 100
) -> list[AddressedDevice]:
    """The user's active devices in an app, or the one with this id."""
    with database.begin() as connection:
        rows = connection.execute(
            _OF_USER if device_id is None else _ONE,
            {"app": app, "user_id": user_id, "limit": limit}
            | ({} if device_id is None else {"device_id": device_id}),
        ).mappings()
        return [AddressedDevice(**row) for row in rows]
