"""Planning: one page of a shard becomes batches, inside the database.

One transaction locks the shard, reads the next devices by keyset, groups them into batches, inserts these and advances the
cursor. A crash can neither lose nor repeat a page, and Python never holds the audience.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from sqlalchemy import Connection, text

from pushq.audience.request import Audience
from pushq.audience.sql import select_devices
from pushq.database import Database
from pushq.ledger import brake, sends
from pushq.ledger.orders import DeliverBatch, Order
from pushq.ledger.release import top_up
from pushq.platforms import PLATFORMS
from pushq.settings import Settings

#: A page never reads more devices than this, however few of them belong to the audience.
MAX_SCAN = 200_000


@dataclass(frozen=True)
class Page:
    """What one step of planning did. ``done``: this shard needs no further step."""

    orders: list[Order]
    done: bool
    scanned: int = 0
    matched: int = 0
    transactional: bool = False


def next_scan_limit(scan_limit: int, scanned: int, matched: int, *, floor: int, batch_size: int) -> int:
    """How many devices the next page reads: more when few of them matched, so that a thin audience still fills batches.

    Pure. ``floor`` is the configured page.
    """
    if scanned == 0:
        return scan_limit
    if matched < batch_size:
        return min(max(scan_limit * 2, floor), MAX_SCAN)
    wanted = scanned * 4 * batch_size // matched
    return min(max(wanted, floor), MAX_SCAN)


def plan_page(database: Database, settings: Settings, send_id: uuid.UUID, shard_no: int) -> Page:
    """Plan the next page of one shard. Safe to run twice at once: the second finds the shard locked and leaves."""
    with database.begin() as connection:
        shard = connection.execute(
            text(
                """
                SELECT h.after_user, h.after_device, h.next_seq, h.scan_limit, h.done, s.state, s.kind
                FROM send_shards h JOIN sends s ON s.id = h.send_id
                WHERE h.send_id = :send AND h.shard_no = :shard FOR UPDATE OF h SKIP LOCKED
                """
            ),
            {"send": send_id, "shard": shard_no},
        ).first()
        if shard is None or shard.done or shard.state != "planning":
            return Page([], done=True)
        app, audience, platforms = sends.audience_of(connection, send_id)
        if audience.target is not None:
            scanned, matched, found = _insert_target(connection, send_id, shard_no, audience.target.platform)
        else:
            scanned, matched, found = _insert_page(
                connection, settings, send_id, shard_no, shard, app, audience, platforms
            )
        done = scanned < shard.scan_limit
        connection.execute(
            text(
                "UPDATE send_shards SET done = :done, scan_limit = :scan, updated_at = now()"
                " WHERE send_id = :send AND shard_no = :shard"
            ),
            {
                "send": send_id,
                "shard": shard_no,
                "done": done,
                "scan": next_scan_limit(
                    shard.scan_limit,
                    scanned,
                    matched,
                    floor=settings.plan_page,
                    batch_size=settings.batch_size,
                ),
            },
        )
        transactional = shard.kind == "transactional"
        window, orders = settings.release_window, list[Order]()
        alone = shard_no == sends.EXPLICIT_SHARD
        if alone:
            # Nobody else plans this send: all of it in one transaction, for a transactional call waits for each.
            for platform in found:
                released = top_up(connection, send_id, platform, window)
                orders += [DeliverBatch(send_id, no, platform, transactional) for no in released]
            if done:
                finish_planning(connection, send_id)
    if not alone:
        # In transactions of their own, and not in a queue: sixteen shards that hold the window's lock until their page is on disk
        # keep every batch waiting that wants to settle. A shard's last page waits, so that nothing planned is overlooked.
        for platform in platforms if done else found:
            with database.begin() as connection:
                released = top_up(connection, send_id, platform, window, wait=done)
            orders += [DeliverBatch(send_id, no, platform, transactional) for no in released]
        if done:
            with database.begin() as connection:
                finish_planning(connection, send_id)
    return Page(orders, done, scanned, matched, transactional)


def _arrays(name: str, condition: str) -> str:
    return (
        f"array_agg(user_id) FILTER (WHERE {condition}) AS {name}_users, "
        f"array_agg(id) FILTER (WHERE {condition}) AS {name}_devices"
    )


def _insert_page(
    connection: Connection,
    settings: Settings,
    send_id: uuid.UUID,
    shard_no: int,
    shard: object,
    app: str,
    audience: Audience,
    platforms: list[str],
) -> tuple[int, int, list[str]]:
    """How many devices were read, how many of them belong to the audience, and on which platforms."""
    selection = select_devices(connection, app, audience)
    explicit = shard_no == sends.EXPLICIT_SHARD
    # The table's name is one of sixteen made here; everything that a caller can influence is a parameter.
    table = "device_tokens" if explicit else f"device_tokens_p{shard_no:02d}"
    only_users = "AND d.user_id = ANY(CAST(:only_users AS bigint[]))" if explicit else ""
    groups: dict[str, str] = {name: f"platform = '{name}'" for name in PLATFORMS if name in platforms}
    groups["nobody"] = "platform IS NULL"
    statement = f"""
        WITH arrays AS MATERIALIZED (
            -- All of it in one pass: nobody's platform is that of who was looked at and is not of the audience. Without GROUP BY, for whose
            -- sake PostgreSQL may sort the page by platform, and then users who belong together are far apart. Cut up afterwards, for
            -- numbering the rows costs three times as much.
            SELECT {", ".join(_arrays(name, condition) for name, condition in groups.items())}
            FROM (SELECT d.user_id, d.id,
                         CASE WHEN d.platform = ANY(CAST(:platforms AS text[])) AND ({selection.where}) THEN d.platform END AS platform
                  FROM {table} d
                  WHERE d.is_active AND d.app = :app AND (d.user_id, d.id) > (:after_user, :after_device) {only_users}
                  ORDER BY d.user_id, d.id LIMIT :scan) AS scanned
        ), found AS (
            SELECT nullif(name, 'nobody') AS platform, user_ids, device_ids, cardinality(user_ids) AS devices
            FROM arrays, LATERAL (VALUES {", ".join(f"('{name}', {name}_users, {name}_devices)" for name in groups)})
                         AS of_platform (name, user_ids, device_ids)
            WHERE user_ids IS NOT NULL
        ), placed AS (
            SELECT platform, least(devices - n, :batch_size) AS recipients, user_ids[n + 1:n + :batch_size] AS user_ids,
                   device_ids[n + 1:n + :batch_size] AS device_ids, row_number() OVER (ORDER BY n, platform) - 1 AS seq
            FROM found, generate_series(0, devices - 1, :batch_size) AS n WHERE platform IS NOT NULL
        ), inserted AS (
            INSERT INTO send_batches (send_id, batch_no, platform, recipients, user_ids, device_ids)
            SELECT :send, (:next_seq + seq) * :stride + :shard, platform, recipients, user_ids, device_ids FROM placed
            RETURNING recipients, platform
        ), last AS (
            SELECT user_ids[devices] AS user_id, device_ids[devices] AS id FROM found ORDER BY 1 DESC, 2 DESC LIMIT 1
        ), totals AS (
            SELECT (SELECT coalesce(sum(devices), 0) FROM found) AS scanned, count(*) AS batches, coalesce(sum(recipients), 0) AS matched,
                   coalesce(array_agg(DISTINCT platform), ARRAY[]::text[]) AS platforms
            FROM inserted
        )
        UPDATE send_shards h
        SET after_user = coalesce((SELECT user_id FROM last), h.after_user),
            after_device = coalesce((SELECT id FROM last), h.after_device),
            next_seq = h.next_seq + totals.batches, scanned = h.scanned + totals.scanned,
            matched = h.matched + totals.matched
        FROM totals WHERE h.send_id = :send AND h.shard_no = :shard
        RETURNING totals.scanned, totals.matched, totals.platforms
    """  # noqa: S608
    row = connection.execute(
        text(statement),
        {
            **selection.params,
            "platforms": platforms,
            "app": app,
            "only_users": list(audience.user_ids or ()) if explicit else None,
            "after_user": shard.after_user,  # type: ignore[attr-defined]
            "after_device": shard.after_device,  # type: ignore[attr-defined]
            "scan": shard.scan_limit,  # type: ignore[attr-defined]
            "next_seq": shard.next_seq,  # type: ignore[attr-defined]
            "batch_size": settings.batch_size,
            "stride": sends.STRIDE,
            "shard": shard_no,
            "send": send_id,
        },
    ).one()
    return int(row.scanned), int(row.matched), list(row.platforms)


def _insert_target(
    connection: Connection, send_id: uuid.UUID, shard_no: int, platform: str
) -> tuple[int, int, list[str]]:
    """The one batch of a send to a topic, condition or channel. Its recipient has the ids 0, which no user and no device has."""
    connection.execute(
        text(
            """
            WITH inserted AS (
                INSERT INTO send_batches (send_id, batch_no, platform, recipients, user_ids, device_ids)
                VALUES (:send, :shard, :platform, 1, '{0}', '{0}')
            )
            UPDATE send_shards SET next_seq = 1, matched = 1 WHERE send_id = :send AND shard_no = :shard
            """
        ),
        {"send": send_id, "shard": shard_no, "platform": platform},
    )
    return 0, 1, [platform]


def finish_planning(connection: Connection, send_id: uuid.UUID) -> None:
    """Once no shard is open: from now on the send can finish.

    Where there are several shards, it must run in a transaction of its own, after that of the last page: of two last shards the later
    one sees both. Safe to repeat.
    """
    planned = connection.execute(
        text(
            """
            UPDATE sends s SET planned_at = now(), state = CASE WHEN state = 'planning' THEN 'sending' ELSE state END
            WHERE s.id = :id AND s.planned_at IS NULL AND s.state IN ('planning', 'paused')
              AND NOT EXISTS (SELECT FROM send_shards h WHERE h.send_id = s.id AND NOT h.done)
            RETURNING (SELECT count(*) FROM (SELECT FROM send_batches b WHERE b.send_id = s.id LIMIT 1) AS any_batch)
            """
        ),
        {"id": send_id},
    ).scalar()
    if planned == 0:
        brake.stop(
            connection,
            send_id,
            state="failed",
            error=sends.NOBODY,
        )
    elif planned:
        sends.finish_complete(connection, send_id)
