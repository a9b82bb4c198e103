"""Dead letters for people: how many there were of each reason, over time, and the newest of them one by one.

Everything reads by time, so of the monthly partitions only those of the span are touched.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, exc, text

from pushq.database import Database
from pushq.errors import InvalidRequest
from pushq.platforms import PLATFORMS

#: What can be asked for, by name: how far it reaches back, and how much of it one column of a chart stands for.
SPANS: Final[Mapping[str, tuple[timedelta, timedelta]]] = {
    "hour": (timedelta(hours=1), timedelta(minutes=2)),
    "day": (timedelta(days=1), timedelta(minutes=30)),
    "week": (timedelta(days=7), timedelta(hours=4)),
    "month": (timedelta(days=30), timedelta(days=1)),
}
#: Reasons that are told apart; those after them are summed up as ``other``.
REASONS: Final = 7
OTHER: Final = "other"
#: A look that takes longer than this is not worth its price.
STATEMENT_TIMEOUT_S: Final = 15
#: PostgreSQL's query_canceled.
_CANCELED: Final = "57014"


@dataclass(frozen=True)
class Filter:
    """Which dead letters are meant; None and empty are no condition.

    Attributes:
        apps: those that the asker may see; None for all.
    """

    apps: Collection[str] | None = None
    platform: str | None = None
    reason: str | None = None
    send_id: uuid.UUID | None = None

    def __post_init__(self) -> None:
        if self.platform is not None and self.platform not in PLATFORMS:
            raise InvalidRequest("platform", repr(self.platform)[:60], f"some of: {', '.join(PLATFORMS)}")

    def _where(self) -> tuple[str, dict[str, Any]]:
        given = {"platform": self.platform, "reason": self.reason, "send_id": self.send_id}
        params: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        parts = [f"{name} = :{name}" for name in params]
        if self.apps is not None:
            parts.append("app = ANY(:apps)")
            params["apps"] = sorted(self.apps)
        return " AND ".join(["true", *parts]), params


@dataclass(frozen=True)
class Reason:
    """One reason.

    Attributes:
        recipients: in all.
        deactivated: tokens that were taken out of use for it.
        platforms: recipients by platform.
        series: recipients by column of the chart, as many as :attr:`History.times`.
    """

    reason: str
    recipients: int
    deactivated: int
    platforms: Mapping[str, int]
    series: Sequence[int]


@dataclass(frozen=True)
class History:
    """Dead letters over a span of time.

    Attributes:
        times: when each column begins, UTC.
        step: how long a column is.
        reasons: the most frequent first, with :data:`OTHER` at the end where there are many.
    """

    span: str
    times: Sequence[datetime]
    step: timedelta
    reasons: Sequence[Reason] = field(default=())

    @property
    def recipients(self) -> int:
        return sum(each.recipients for each in self.reasons)


@dataclass(frozen=True)
class DeadLetter:
    """One recipient that a message did not reach."""

    created_at: datetime
    send_id: uuid.UUID
    app: str
    platform: str
    user_id: int
    device_id: int
    outcome: str
    status: int | None
    reason: str
    attempt: int
    invalidated: bool | None


def history(
    database: Database, span: str, *, now: datetime, only: Filter | None = None, reasons: int = REASONS
) -> History:
    """Count by reason over a span that ends now.

    Args:
        now: UTC.
        reasons: how many are told apart.

    Raises:
        InvalidRequest: there is no such span, or too much in it.
        ServiceUnavailable
    """
    if span not in SPANS:
        raise InvalidRequest("span", repr(span)[:60], f"one of: {', '.join(SPANS)}")
    reach, step = SPANS[span]
    first = _floor(now - reach, step)
    columns = int((now - first) / step) + 1
    where, params = (only or Filter())._where()
    with _bounded(database, span) as connection:
        rows = connection.execute(
            text(
                f"""
                SELECT reason, platform, floor(extract(epoch FROM created_at - :first) / :step)::int AS place,
                       count(*) AS recipients, count(*) FILTER (WHERE invalidated) AS deactivated
                FROM dead_letters WHERE created_at >= :first AND {where} GROUP BY 1, 2, 3
                """  # noqa: S608 - conditions of this module, values as parameters
            ),
            {"first": first, "step": step.total_seconds(), **params},
        ).all()
    return History(
        span,
        [first + step * place for place in range(columns)],
        step,
        _summed([tuple(row) for row in rows], columns, reasons),
    )


@contextmanager
def _bounded(database: Database, span: str) -> Iterator[Connection]:
    """A transaction whose statements end in time; who asks for too much is told so."""
    try:
        with database.begin() as connection:
            connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_S}s'"))
            yield connection
    except exc.OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _CANCELED:
            raise
        raise InvalidRequest(
            "span",
            f"{span!r}, with more dead letters than can be counted within {STATEMENT_TIMEOUT_S} s",
            "a shorter span, or one platform, reason or send",
        ) from error


def _floor(moment: datetime, step: timedelta) -> datetime:
    seconds = int(step.total_seconds())
    return moment - timedelta(seconds=moment.timestamp() % seconds)


def _summed(rows: Sequence[tuple[Any, ...]], columns: int, keep: int) -> list[Reason]:
    totals: dict[str, int] = {}
    for reason, _, _, recipients, _ in rows:
        totals[reason] = totals.get(reason, 0) + recipients
    ranked = sorted(totals, key=lambda reason: (-totals[reason], reason))
    own = set(ranked if len(ranked) <= keep else ranked[: keep - 1])
    names = [reason for reason in ranked if reason in own] + ([OTHER] if len(own) < len(ranked) else [])
    series = {name: [0] * columns for name in names}
    platforms: dict[str, dict[str, int]] = {name: {} for name in names}
    deactivated = dict.fromkeys(names, 0)
    for reason, platform, place, recipients, gone in rows:
        name = reason if reason in own else OTHER
        series[name][min(max(place, 0), columns - 1)] += recipients
        platforms[name][platform] = platforms[name].get(platform, 0) + recipients
        deactivated[name] += gone
    return [
        Reason(name, sum(series[name]), deactivated[name], platforms[name], series[name]) for name in names
    ]


def newest(
    database: Database, span: str, *, now: datetime, only: Filter | None = None, limit: int = 50
) -> list[DeadLetter]:
    """The newest dead letters of a span, newest first.

    Raises:
        InvalidRequest: there is no such span, or too much in it.
        ServiceUnavailable
    """
    if span not in SPANS:
        raise InvalidRequest("span", repr(span)[:60], f"one of: {', '.join(SPANS)}")
    where, params = (only or Filter())._where()
    with _bounded(database, span) as connection:
        rows = connection.execute(
            text(
                f"""
                SELECT created_at, send_id, app, platform, user_id, device_id, outcome, status, reason, attempt, invalidated
                FROM dead_letters WHERE created_at >= :first AND {where} ORDER BY created_at DESC, id DESC LIMIT :limit
                """  # noqa: S608 - as above
            ),
            {"first": now - SPANS[span][0], "limit": limit, **params},
        ).all()
    return [DeadLetter(*row) for row in rows]
