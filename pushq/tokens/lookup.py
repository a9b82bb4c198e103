"""Look at the devices of one user."""

from __future__ import annotations

from dataclasses import dataclass
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
