"""Transactional calls in one statement: written, planned and released, however many came at the same time.

A broadcast is accepted, planned shard by shard and released window by window (:mod:`pushq.ledger.sends`, ``planner``, ``release``).
A call to a handful of users needs none of that, and somebody waits for it: its devices are few, so its batches are made and published
at once. What is out of the ordinary is left to the long way, which is the same but slower.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import orjson
from sqlalchemy import text

from pushq.database import Database
from pushq.errors import InvalidRequest
from pushq.ledger import sends
from pushq.ledger.orders import DeliverBatch
from pushq.ledger.release import REPUBLISH_AFTER_S
from pushq.settings import Settings
from pushq.submission import Submission

#: Users of a call; one with more is a small broadcast, and goes page by page.
MOST_USERS: Final = 50

# The users of all calls are looked up one by one, in the one partition that can hold each (OFFSET 0: see pushq.tokens.cache).
_TAKE_IN: Final = text(
    """
    WITH calls AS MATERIALIZED (
        SELECT * FROM unnest(
            CAST(:ids AS uuid[]), CAST(:apps AS text[]), CAST(:guarantees AS text[]), CAST(:keys AS text[]),
            CAST(:fingerprints AS text[]), CAST(:notifications AS text[]), CAST(:audiences AS text[]), CAST(:options AS text[]),
            CAST(:rates AS integer[]), CAST(:called AS timestamptz[]), CAST(:expires AS timestamptz[]))
        AS c (id, app, guarantee, idempotency_key, fingerprint, notification, audience, options, rate, called_at, expires_at)
    ), devices AS MATERIALIZED (
        SELECT w.id AS send_id, d.platform, d.user_id, d.id,
               (row_number() OVER (PARTITION BY w.id, d.platform ORDER BY d.user_id, d.id) - 1) / :batch_size AS chunk
        FROM unnest(CAST(:wanted AS uuid[]), CAST(:users AS bigint[])) AS w (id, user_id)
        JOIN calls c ON c.id = w.id
        CROSS JOIN LATERAL (
            SELECT t.platform, t.user_id, t.id FROM device_tokens t
            WHERE t.user_id = w.user_id AND t.is_active AND t.app = c.app
              AND jsonb_exists(CAST(c.options AS jsonb) -> 'platforms', t.platform) OFFSET 0
        ) d
    ), grouped AS (
        SELECT send_id, platform, chunk, array_agg(user_id ORDER BY user_id, id) AS user_ids,
               array_agg(id ORDER BY user_id, id) AS device_ids, count(*)::integer AS recipients,
               row_number() OVER (PARTITION BY send_id ORDER BY chunk, platform) - 1 AS seq
        FROM devices GROUP BY 1, 2, 3
    ), accepted AS (
        INSERT INTO sends (id, kind, app, guarantee, idempotency_key, fingerprint, notification, audience, options, rate,
                           state, error, called_at, expires_at, planned_at, finished_at)
        SELECT c.id, 'transactional', c.app, c.guarantee, c.idempotency_key, c.fingerprint, CAST(c.notification AS jsonb),
               CAST(c.audience AS jsonb), CAST(c.options AS jsonb), c.rate,
               CASE WHEN reached THEN 'sending' ELSE 'failed' END, CASE WHEN NOT reached THEN :nobody END,
               c.called_at, c.expires_at, now(), CASE WHEN NOT reached THEN now() END
        FROM calls c CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM grouped g WHERE g.send_id = c.id)) AS r (reached)
        ON CONFLICT DO NOTHING
        RETURNING id
    ), released AS (
        INSERT INTO send_batches (send_id, batch_no, platform, recipients, user_ids, device_ids, state, publishes, due_at)
        SELECT g.send_id, g.seq * :stride + :shard, g.platform, g.recipients, g.user_ids, g.device_ids,
               CASE WHEN g.chunk < :window THEN 'queued' ELSE 'planned' END, CASE WHEN g.chunk < :window THEN 1 ELSE 0 END,
               CASE WHEN g.chunk < :window THEN now() + make_interval(secs => :after) END
        FROM grouped g JOIN accepted a ON a.id = g.send_id
        RETURNING send_id, batch_no, platform, state
    )
    SELECT a.id, r.batch_no, r.platform FROM accepted a LEFT JOIN released r ON r.send_id = a.id AND r.state = 'queued'
    """
)


@dataclass(frozen=True)
class Call:
    """A valid call to a few users, as it is written."""

    send_id: uuid.UUID
    app: str
    guarantee: str
    idempotency_key: str | None
    fingerprint: str
    notification: str
    audience: str
    options: str
    rate: int | None
    called_at: datetime
    expires_at: datetime
    users: tuple[int, ...]


@dataclass(frozen=True)
class Taken:
    """What became of some calls.

    Attributes:
        orders: batches to deliver.
        known: ids of calls that were not written: their id or key is in the ledger. :func:`pushq.ledger.sends.accept` says more.
    """

    orders: list[DeliverBatch]
    known: set[uuid.UUID]


def prepare(settings: Settings, send_id: uuid.UUID, submission: Submission) -> Call | None:
    """What is written of a call, or None when it has to go the long way: it is out of the ordinary, or will be refused."""
    audience = submission.audience
    users = audience.user_ids
    if (
        submission.kind != "transactional"
        or submission.send_at is not None
        or audience.target is not None
        or users is None
        or not 1 <= len(users) <= MOST_USERS
        or audience.segments
        or audience.filter
        or audience.exclude_segments
        or audience.exclude_user_ids
    ):
        return None
    try:
        app = sends.resolve_app(submission.app, settings.apps)
        platforms = sends.sendable_platforms(submission, settings.apps[app], app)
    except InvalidRequest:
        return None
    document = submission.as_json()
    return Call(
        send_id,
        app,
        submission.guarantee,
        submission.idempotency_key,
        submission.fingerprint(document),
        orjson.dumps(document["notification"]).decode(),
        orjson.dumps(document["audience"]).decode(),
        orjson.dumps(sends.options_of(submission, platforms)).decode(),
        submission.rate,
        submission.called_at,
        submission.expires_at,
        tuple(sorted(set(users))),
    )


def take_in(database: Database, settings: Settings, calls: Sequence[Call]) -> Taken:
    """Write calls with their batches; all of them or, on an exception, none. Safe to repeat.

    Raises:
        ServiceUnavailable: PostgreSQL cannot be reached.
    """
    # The same call twice in one statement would violate its own key.
    own = {call.send_id: call for call in calls}
    given = list(own.values())
    with database.alone() as connection:
        rows = connection.execute(
            _TAKE_IN,
            {
                "ids": list(own),
                "apps": [call.app for call in given],
                "guarantees": [call.guarantee for call in given],
                "keys": [call.idempotency_key for call in given],
                "fingerprints": [call.fingerprint for call in given],
                "notifications": [call.notification for call in given],
                "audiences": [call.audience for call in given],
                "options": [call.options for call in given],
                "rates": [call.rate for call in given],
                "called": [call.called_at for call in given],
                "expires": [call.expires_at for call in given],
                "wanted": [call.send_id for call in given for _ in call.users],
                "users": [user for call in given for user in call.users],
                "batch_size": settings.batch_size,
                "window": settings.release_window,
                "stride": sends.STRIDE,
                "shard": sends.EXPLICIT_SHARD,
                "after": REPUBLISH_AFTER_S,
                "nobody": sends.NOBODY,
            },
        ).all()
    orders = [
        DeliverBatch(row.id, row.batch_no, row.platform, transactional=True)
        for row in rows
        if row.batch_no is not None
    ]
    return Taken(orders, own.keys() - {row.id for row in rows})
