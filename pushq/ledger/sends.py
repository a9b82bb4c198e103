"""Sends: accepting a call, reading what is known of it, and finishing it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from pushq import tracing
from pushq.app_settings import AppSettings
from pushq.audience.request import parse_audience
from pushq.audience.sql import select_devices
from pushq.database import Database
from pushq.errors import InvalidRequest, PushqError
from pushq.ledger.orders import Order, PlanShard
from pushq.notification import Notification, parse_notification
from pushq.providers.apns import request as apns_request
from pushq.providers.target import Target, parse_target
from pushq.settings import RetrySettings, Settings
from pushq.submission import Submission, lifetime

log = logging.getLogger("pushq.sends")

SHARDS = 16
#: The pseudo shard of a send to explicit users: one walk over all partitions.
EXPLICIT_SHARD = SHARDS
#: Batch numbers of the shards interleave: batch_no = seq * STRIDE + shard_no.
STRIDE = SHARDS + 1


def partition_of_batch(batch_no: int) -> int | None:
    """The number of the hash partition that holds all users of the batch; None if they are of several."""
    shard = batch_no % STRIDE
    return None if shard == EXPLICIT_SHARD else shard


FINAL_STATES = ("done", "failed", "cancelled")

#: Why a send failed whose audience is empty.
NOBODY = "audience: found no active device; expected at least one. See: pushq tokens stats, pushq segments count NAME"


class UnknownSend(PushqError):
    """No send has this id."""


class WrongState(PushqError):
    """A send's state does not allow what was asked for; nothing was changed.

    Attributes:
        state: what was found.
    """

    def __init__(self, send_id: uuid.UUID, state: str, wanted: str, expected: str) -> None:
        super().__init__(f"Send {send_id} cannot be {wanted}: it is {state}; expected {expected}")
        self.send_id = send_id
        self.state = state


@dataclass(frozen=True)
class Send:
    """What delivering needs to know of a send; it stays as it is as long as ``version`` does.

    Attributes:
        rate: requests per second when it was read; it may be changed at any time, without a new version.
        retry: what differs from the configured retry policy (see :meth:`policy`).
        trust_rejections: an operator says that mass rejections of this send's tokens are true.
        values: by user id, what the call says of him, for placeholders.
        target: whom it goes to, if not to devices: then there is one batch, with the one recipient (0, 0).
    """

    id: uuid.UUID
    kind: str
    app: str
    guarantee: str
    notification: Notification
    called_at: datetime
    expires_at: datetime
    rate: int | None = None
    retry: Mapping[str, float] = field(default_factory=dict)
    trust_rejections: bool = False
    version: int = 0
    values: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    target: Target | None = None

    @property
    def starts_at(self) -> datetime:
        """When it was due: when it was called, or the time it was called for."""
        return self.expires_at - lifetime(self.notification)

    @property
    def at_most_once(self) -> bool:
        return self.guarantee == "at_most_once"

    @property
    def transactional(self) -> bool:
        return self.kind == "transactional"

    def policy(self, configured: RetrySettings) -> RetrySettings:
        """The retry policy of this send."""
        return configured.model_copy(update=dict(self.retry)) if self.retry else configured


def resolve_app(app: str | None, apps: Mapping[str, AppSettings]) -> str:
    """The app a call means: the one it names, or the only one there is."""
    if app is None:
        if len(apps) != 1:
            raise InvalidRequest("app", "nothing", f"one of the configured apps: {', '.join(sorted(apps))}")
        return next(iter(apps))
    if app not in apps:
        raise InvalidRequest(
            "app", repr(app), f"one of the configured apps: {', '.join(sorted(apps)) or 'none'}"
        )
    return app


def sendable_platforms(submission: Submission, app: AppSettings, name: str) -> tuple[str, ...]:
    """Platforms to plan for: those asked for, or all that the app is configured for."""
    configured = tuple(app.platforms())
    for platform in submission.audience.platforms:
        if platform not in configured:
            raise InvalidRequest(
                "audience.platforms",
                repr(platform),
                f"platforms with a table in the configuration of app {name!r}: {configured}",
            )
    platforms = submission.audience.platforms or configured
    apns = app.apns
    if "apns" in platforms and apns is not None and apns.certificate_file is not None:
        apns_request.check_certificate(submission.notification.for_platform("apns"))
    return platforms


def accept(
    database: Database, settings: Settings, send_id: uuid.UUID, submission: Submission
) -> tuple[list[Order], str | None]:
    """Write a call into the ledger and say what to plan. Safe to repeat.

    Returns:
        the plan orders (none when the send is known, scheduled or refused), and why it was refused, or None.
    """
    error: str | None = None
    app, platforms = submission.app or "", submission.audience.platforms
    try:
        app = resolve_app(submission.app, settings.apps)
        platforms = sendable_platforms(submission, settings.apps[app], app)
        with database.begin() as connection:
            select_devices(connection, app, submission.audience)
    except InvalidRequest as refusal:
        error = str(refusal)
    try:
        with database.begin() as connection:
            inserted = _insert(connection, send_id, submission, app, platforms, error)
            if not inserted:
                _check_same(connection, send_id, submission)
                return [], None
            if error is not None:
                log.error("send_refused", extra={"send_id": str(send_id), "error": error})
                return [], error
            if submission.send_at is not None and submission.send_at > _now(connection):
                return [], None
            return start_planning(connection, settings, send_id), None
    except IntegrityError:
        # The key belongs to a send that was called with another spelling of the app: still the same call.
        log.warning(
            "send_repeated", extra={"send_id": str(send_id), "idempotency_key": submission.idempotency_key}
        )
        return [], None


def _now(connection: Connection) -> datetime:
    now: datetime = connection.execute(text("SELECT now()")).scalar_one()
    return now


def _insert(
    connection: Connection,
    send_id: uuid.UUID,
    submission: Submission,
    app: str,
    platforms: tuple[str, ...],
    error: str | None,
) -> bool:
    document = submission.as_json()
    row = connection.execute(
        text(
            """
            INSERT INTO sends (id, kind, app, guarantee, idempotency_key, fingerprint, notification, audience, options, rate,
                               state, error, called_at, send_at, expires_at, finished_at)
            VALUES (:id, :kind, :app, :guarantee, :key, :fingerprint, CAST(:notification AS jsonb), CAST(:audience AS jsonb),
                    CAST(:options AS jsonb), :rate, :state, :error, :called_at, :send_at, :expires_at,
                    CASE WHEN :state = 'failed' THEN now() END)
            ON CONFLICT (id) DO NOTHING
            RETURNING id
            """
        ),
        {
            "id": send_id,
            "kind": submission.kind,
            "app": app,
            "guarantee": submission.guarantee,
            "key": submission.idempotency_key,
            "fingerprint": submission.fingerprint(document),
            "notification": _json(document["notification"]),
            "audience": _json(document["audience"]),
            "options": _json(options_of(submission, platforms)),
            "rate": submission.rate,
            "state": "failed" if error else "scheduled",
            "error": error,
            "called_at": submission.called_at,
            "send_at": submission.send_at,
            "expires_at": submission.expires_at,
        },
    ).first()
    return row is not None


def options_of(submission: Submission, platforms: tuple[str, ...]) -> dict[str, Any]:
    """What the row of a send says besides message, audience and times."""
    values = submission.as_json()["values"] if submission.values else None
    return (
        {"platforms": list(platforms)}
        | ({"retry": submission.retry} if submission.retry else {})
        | ({"trace": trace} if (trace := tracing.send_headers()) else {})
        | ({"values": values} if values else {})
    )


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _check_same(connection: Connection, send_id: uuid.UUID, submission: Submission) -> None:
    known = connection.execute(
        text("SELECT fingerprint FROM sends WHERE id = :id"), {"id": send_id}
    ).scalar_one()
    if known != submission.fingerprint():
        log.error(
            "idempotency_key_reused",
            extra={
                "send_id": str(send_id),
                "idempotency_key": submission.idempotency_key,
                "effect": "the first call stands",
            },
        )


def start_planning(connection: Connection, settings: Settings, send_id: uuid.UUID) -> list[Order]:
    """Turn a scheduled send into one that is planned; no orders when somebody else did."""
    row = connection.execute(
        text(
            "UPDATE sends SET state = 'planning' WHERE id = :id AND state = 'scheduled'"
            " RETURNING kind, audience ?| array['user_ids', 'topic', 'condition', 'channel'] AS explicit"
        ),
        {"id": send_id},
    ).first()
    if row is None:
        return []
    shards = [EXPLICIT_SHARD] if row.explicit else list(range(SHARDS))
    connection.execute(
        text(
            "INSERT INTO send_shards (send_id, shard_no, scan_limit) SELECT :id, unnest(CAST(:shards AS smallint[])), :scan"
        ),
        {"id": send_id, "shards": shards, "scan": settings.plan_page},
    )
    return [PlanShard(send_id, shard, transactional=row.kind == "transactional") for shard in shards]


#: Columns of ``sends s`` that :func:`from_row` reads.
SEND_COLUMNS = (
    "s.kind, s.app, s.guarantee, s.notification, s.called_at, s.expires_at, s.rate, s.options, s.version,"
    " CASE WHEN s.audience ?| array['topic', 'condition', 'channel'] THEN s.audience END AS target"
)


def load(connection: Connection, send_id: uuid.UUID) -> Send:
    """Raises UnknownSend when there is none."""
    row = connection.execute(
        text(f"SELECT {SEND_COLUMNS} FROM sends s WHERE s.id = :id"),  # noqa: S608
        {"id": send_id},
    ).first()
    if row is None:
        raise _unknown(send_id)
    return from_row(send_id, row)


def from_row(send_id: uuid.UUID, row: Any) -> Send:
    """A send from the columns of :data:`SEND_COLUMNS`."""
    return Send(
        send_id,
        row.kind,
        row.app,
        row.guarantee,
        parse_notification(row.notification),
        row.called_at,
        row.expires_at,
        row.rate,
        row.options.get("retry", {}),
        row.options.get("trust_rejections", False),
        row.version,
        {int(user_id): values for user_id, values in row.options.get("values", {}).items()},
        target=None if row.target is None else parse_target(row.target),
    )


def accepted_by(connection: Connection, send_id: uuid.UUID, platform: str) -> bool:
    """Whether the platform has taken the send's message for anybody, as far as its batches are settled."""
    found: bool = connection.execute(
        text(
            "SELECT EXISTS (SELECT FROM send_batches WHERE send_id = :id AND platform = :platform AND accepted > 0)"
        ),
        {"id": send_id, "platform": platform},
    ).scalar_one()
    return found


def lock(connection: Connection, send_id: uuid.UUID) -> Any:
    """The row of a send, which nobody else changes until this transaction ends. Raises UnknownSend when there is none."""
    row = connection.execute(text("SELECT * FROM sends WHERE id = :id FOR UPDATE"), {"id": send_id}).first()
    if row is None:
        raise _unknown(send_id)
    return row


def state_of(connection: Connection, send_id: uuid.UUID) -> str:
    """Raises UnknownSend when there is none."""
    state = connection.execute(text("SELECT state FROM sends WHERE id = :id"), {"id": send_id}).scalar()
    if state is None:
        raise _unknown(send_id)
    return str(state)


def app_of(connection: Connection, send_id: uuid.UUID) -> str:
    """Raises UnknownSend when there is none."""
    app = connection.execute(text("SELECT app FROM sends WHERE id = :id"), {"id": send_id}).scalar()
    if app is None:
        raise _unknown(send_id)
    return str(app)


def _unknown(send_id: uuid.UUID) -> UnknownSend:
    return UnknownSend(f"No send has the id {send_id}. See: pushq sends")


def audience_of(connection: Connection, send_id: uuid.UUID) -> tuple[str, Any, list[str]]:
    """The app, the audience and the platforms a send is planned for."""
    row = connection.execute(
        # Not all options: values for thousands of recipients may be among them.
        text("SELECT app, audience, options -> 'platforms' AS platforms FROM sends WHERE id = :id"),
        {"id": send_id},
    ).one()
    return row.app, parse_audience(row.audience), list(row.platforms)


def fingerprints(database: Database, send_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
    """What the sends among these ids were called with (see :meth:`pushq.submission.Submission.fingerprint`)."""
    with database.begin() as connection:
        rows = connection.execute(
            text("SELECT id, fingerprint FROM sends WHERE id = ANY(CAST(:ids AS uuid[]))"),
            {"ids": list(send_ids)},
        )
        return {row.id: row.fingerprint for row in rows}


def trace_of(connection: Connection, send_id: uuid.UUID) -> dict[str, str]:
    """The trace that the send was accepted in, as headers (see :mod:`pushq.tracing`); empty where there is none."""
    found = connection.execute(
        text("SELECT options -> 'trace' FROM sends WHERE id = :id"), {"id": send_id}
    ).scalar()
    return dict(found or {})


def finish_if_complete(database: Database, send_id: uuid.UUID) -> bool:
    """Mark a send done once everything is planned and settled.

    Runs in a transaction of its own, after the settlement's: of two last settlements at least the later one sees both.
    """
    with database.begin() as connection:
        return finish_complete(connection, send_id)


def finish_complete(connection: Connection, send_id: uuid.UUID) -> bool:
    row = connection.execute(
        text(
            """
            UPDATE sends s SET state = 'done', finished_at = now()
            WHERE s.id = :id AND s.state = 'sending' AND s.planned_at IS NOT NULL
              AND NOT EXISTS (SELECT FROM send_batches b WHERE b.send_id = s.id AND b.state NOT IN ('done', 'parked'))
            RETURNING s.id
            """
        ),
        {"id": send_id},
    ).first()
    return row is not None
