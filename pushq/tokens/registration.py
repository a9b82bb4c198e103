"""Register and unregister one device. Both may be repeated without harm."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import orjson
from sqlalchemy import text

from pushq import metrics
from pushq.database import Database
from pushq.tokens.cache import TokenCache
from pushq.tokens.device import Device, parse_app, parse_environment, parse_platform, parse_token
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
