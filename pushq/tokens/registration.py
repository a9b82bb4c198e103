"""Register and unregister one device. Both may be repeated without harm."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
from sqlalchemy import text

from pushq import metrics
from pushq.database import Database
from pushq.errors import InvalidRequest
from pushq.tokens.cache import TokenCache
from pushq.tokens.device import (
    Device,
    parse_app,
    parse_app_version,
    parse_attributes,
    parse_country,
    parse_environment,
    parse_language,
    parse_platform,
    parse_tags,
    parse_time,
    parse_timezone,
    parse_token,
)
from pushq.tokens.identity import short_hash, token_hash
from pushq.tokens.locks import lock_token

logger = logging.getLogger("pushq.tokens")

_OWNERS = text("SELECT DISTINCT user_id FROM device_tokens WHERE token_hash = :hash AND is_active")

_MOVE = text("""
UPDATE device_tokens SET is_active = false, deactivated_at = clock_timestamp(), deactivation_reason = 'moved'
 WHERE token_hash = :hash AND user_id <> :user_id AND is_active
RETURNING user_id
""")

# clock_timestamp(), not now(): the transaction began before it waited for the token's lock, and who comes last must be the newest.
_UPSERT = text("""
INSERT INTO device_tokens AS d (user_id, app, platform, environment, token, token_hash, registered_at, last_seen,
                                language, country, timezone, app_version, tags, attributes)
VALUES (:user_id, :app, :platform, :environment, :token, :hash, clock_timestamp(),
        coalesce(cast(:last_seen AS timestamptz), clock_timestamp()),
        :language, :country, :timezone, :app_version,
        coalesce(cast(:tags AS jsonb), '[]'), coalesce(cast(:attributes AS jsonb), '{}'))
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
    tags                = coalesce(cast(:tags AS jsonb), d.tags),
    attributes          = coalesce(cast(:attributes AS jsonb), d.attributes)
RETURNING d.id, d.created_at = now() AS created
""")

_UNREGISTER = text("""
UPDATE device_tokens SET is_active = false, deactivated_at = clock_timestamp(), deactivation_reason = 'unregistered'
 WHERE token_hash = :hash AND is_active AND (cast(:user_id AS bigint) IS NULL OR user_id = :user_id)
RETURNING user_id
""")


_CHANGEABLE: Final = {
    "language": parse_language,
    "country": parse_country,
    "timezone": parse_timezone,
    "app_version": parse_app_version,
    "tags": parse_tags,
    "attributes": parse_attributes,
}

#: By the device's id, which has an index only together with its user.
_UPDATE = """
UPDATE device_tokens SET {changes}
 WHERE user_id = :user_id AND id = :device_id AND is_active AND (cast(:apps AS text[]) IS NULL OR app = ANY(cast(:apps AS text[])))
RETURNING app, platform
"""
_DEACTIVATE = _UPDATE.format(
    changes="is_active = false, deactivated_at = clock_timestamp(), deactivation_reason = 'unregistered'"
)


@dataclass(frozen=True, slots=True)
class Registration:
    """What a registration did.

    Attributes:
        device_id: the same for every registration of this token by this user.
        created: whether the user had never registered this token before.
        moved_from: users who had the token until now.
    """

    device_id: int
    created: bool
    moved_from: tuple[int, ...]


def register(database: Database, device: Device, *, cache: TokenCache | None = None) -> Registration:
    """Store the device as the user's, active and registered now; whoever else had the token loses it in the same transaction.

    Raises:
        ServiceUnavailable: PostgreSQL cannot be reached. Redis may be down: the cache is told when it is back.
    """
    identity = token_hash(device.app, device.platform, device.environment, device.token)
    if cache is not None:
        # Before the commit as well as after it: if this process dies in between, no entry speaks of the old owner any more.
        with database.begin() as connection:
            owners = [row.user_id for row in connection.execute(_OWNERS, {"hash": identity})]
        cache.forget(device.platform, [owner for owner in owners if owner != device.user_id])
    with database.begin() as connection:
        lock_token(connection, identity)
        moved = [
            row.user_id for row in connection.execute(_MOVE, {"hash": identity, "user_id": device.user_id})
        ]
        row = connection.execute(
            _UPSERT,
            {
                "user_id": device.user_id,
                "app": device.app,
                "platform": device.platform,
                "environment": device.environment,
                "token": device.token,
                "hash": identity,
                "last_seen": device.last_seen,
                "language": device.language,
                "country": device.country,
                "timezone": device.timezone,
                "app_version": device.app_version,
                "tags": None if device.tags is None else orjson.dumps(device.tags).decode(),
                "attributes": None if device.attributes is None else orjson.dumps(device.attributes).decode(),
            },
        ).one()
    metrics.push_tokens_deactivated.labels(device.app, device.platform, "moved").inc(len(moved))
    if cache is not None:
        cache.forget(device.platform, moved)
        cache.refresh(device.platform, device.user_id)
    logger.info(
        "token_registered",
        extra={
            "app": device.app,
            "platform": device.platform,
            "user_id": device.user_id,
            "device_id": row.id,
            "token": short_hash(device.token),
            "moved_from": moved,
        },
    )
    return Registration(row.id, row.created, tuple(moved))


def unregister(
    database: Database,
    *,
    app: str,
    platform: str,
    token: str,
    environment: str = "production",
    user_id: int | None = None,
    cache: TokenCache | None = None,
) -> int:
    """Deactivate the token, of that user only if one is given. Returns how many rows changed: 0 if it was not active.

    Raises:
        InvalidRequest: a field is wrong.
        ServiceUnavailable: PostgreSQL cannot be reached.
    """
    platform = parse_platform(platform)
    token = parse_token(platform, token)
    identity = token_hash(parse_app(app), platform, parse_environment(environment), token)
    with database.begin() as connection:
        lock_token(connection, identity)
        users = [
            row.user_id for row in connection.execute(_UNREGISTER, {"hash": identity, "user_id": user_id})
        ]
    metrics.push_tokens_deactivated.labels(app, platform, "unregistered").inc(len(users))
    if cache is not None:
        cache.forget(platform, users)
    if users:
        logger.info(
            "token_unregistered",
            extra={"app": app, "platform": platform, "user_id": users[0], "token": short_hash(token)},
        )
    return len(users)


def update(
    database: Database,
    user_id: int,
    device_id: int,
    changes: Mapping[str, object],
    *,
    now: datetime,
    apps: Collection[str] | None = None,
    cache: TokenCache | None = None,
) -> bool:
    """Change what is known of an active device; its token and its user stay. False when there is none of this user with this id.

    Args:
        changes: some of language, country, timezone, app_version (None: not known any more), tags, attributes (None: none), last_seen.
        apps: only a device of one of these; None: of any.

    Raises:
        InvalidRequest: a field is wrong, or there is none.
        ServiceUnavailable: PostgreSQL cannot be reached.
    """
    known = (*_CHANGEABLE, "last_seen")
    for name in changes:
        if name not in known:
            raise InvalidRequest(name[:60], "a field that cannot be changed", f"some of: {', '.join(known)}")
    if not changes:
        raise InvalidRequest("body", "no field", f"some of: {', '.join(known)}")
    values: dict[str, Any] = {
        name: _CHANGEABLE[name](changes[name]) for name in changes if name != "last_seen"
    }
    if "last_seen" in changes:
        seen = parse_time("last_seen", changes["last_seen"], now)
        if seen is None:
            raise InvalidRequest("last_seen", "nothing", "an ISO 8601 time such as 2026-11-01T12:00:00Z")
        values["last_seen"] = seen
    assignments = []
    for name, value in list(values.items()):
        if name in ("tags", "attributes"):
            values[name] = orjson.dumps(value or ([] if name == "tags" else {})).decode()
            assignments.append(f"{name} = cast(:{name} AS jsonb)")
        elif name == "last_seen":
            assignments.append("last_seen = greatest(last_seen, :last_seen)")
        else:
            assignments.append(f"{name} = :{name}")
    return _changed(
        database, _UPDATE.format(changes=", ".join(assignments)), user_id, device_id, apps, cache, values
    )


def unregister_device(
    database: Database,
    user_id: int,
    device_id: int,
    *,
    apps: Collection[str] | None = None,
    cache: TokenCache | None = None,
) -> bool:
    """Deactivate an active device by its id. False when there is none of this user with this id."""
    return _changed(database, _DEACTIVATE, user_id, device_id, apps, cache, {}, unregistered=True)


def _changed(
    database: Database,
    statement: str,
    user_id: int,
    device_id: int,
    apps: Collection[str] | None,
    cache: TokenCache | None,
    values: Mapping[str, Any],
    *,
    unregistered: bool = False,
) -> bool:
    given = {
        **values,
        "user_id": user_id,
        "device_id": device_id,
        "apps": None if apps is None else sorted(apps),
    }
    with database.begin() as connection:
        row = connection.execute(text(statement), given).first()
    if row is None:
        return False
    if unregistered:
        metrics.push_tokens_deactivated.labels(row.app, row.platform, "unregistered").inc()
    if cache is not None:
        cache.forget(row.platform, [user_id])
    fields = {"app": row.app, "platform": row.platform, "user_id": user_id, "device_id": device_id}
    if unregistered:
        logger.info("token_unregistered", extra=fields)
    else:
        logger.info("device_changed", extra=fields)
    return True
