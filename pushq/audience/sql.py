"""The SQL that an audience becomes: a condition on one row ``d`` of `device_tokens`. Callers' values are parameters, always."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from pushq.audience.request import EVERYBODY, Audience, parse_filter
from pushq.errors import InvalidRequest

#: How many names an error lists.
_SHOWN = 10

_BY_NAME = text(
    "SELECT id, name, kind, filter FROM segments WHERE app = :app AND name = ANY(cast(:names AS text[]))"
)
_NAMES = text("SELECT name FROM segments WHERE app = :app ORDER BY name LIMIT 500")

# OFFSET 0 keeps it a look-up per row. Where it may, PostgreSQL would join instead, and a page would then read the whole segment.
_MEMBER = "EXISTS (SELECT FROM segment_members m WHERE m.segment_id = ANY(cast(:{ids} AS bigint[])) AND m.user_id = d.user_id OFFSET 0)"


@dataclass(frozen=True)
class Selection:
    """A condition on the row ``d``.

    Attributes:
        where: SQL; it may be null for a row, which means no.
        params: its parameters; every name begins with ``a_``.
    """

    where: str
    params: dict[str, Any]


class _Builder:
    """Collects conditions and names their parameters."""

    def __init__(self, at: datetime | None) -> None:
        self.params: dict[str, Any] = {}
        self._at = at

    def bind(self, value: object) -> str:
        name = f"a_{len(self.params)}"
        self.params[name] = value
        return name

    def now(self) -> str:
        return "now()" if self._at is None else f"cast(:{self.bind(self._at)} AS timestamptz)"

    def array(self, values: Sequence[Any], kind: str) -> str:
        return f"cast(:{self.bind(list(values))} AS {kind}[])"

    def members(self, segment_ids: Sequence[int]) -> str:
        return _MEMBER.format(ids=self.bind(list(segment_ids)))

    def filter(self, conditions: Mapping[str, Any]) -> str:
        return (
            "(" + " AND ".join(getattr(self, f"_{name}")(value) for name, value in conditions.items()) + ")"
        )

    def _platform(self, names: list[str]) -> str:
        return f"d.platform = ANY({self.array(names, 'text')})"

    def _language(self, tags: list[str]) -> str:
        # RFC 4647 section 3.3.1: a range matches itself and everything that goes on after a hyphen.
        varieties = self.array([f"{tag}-%" for tag in tags], "text")
        return f"(lower(d.language) = ANY({self.array(tags, 'text')}) OR lower(d.language) LIKE ANY({varieties}))"

    def _country(self, codes: list[str]) -> str:
        return f"d.country = ANY({self.array(codes, 'text')})"

    def _app_version(self, bounds: Mapping[str, str]) -> str:
        # Arrays compare like versions, but a longer one is greater: 4.2.0 > 4.2. So zeros are taken off the lower bound and put
        # behind the upper one.
        conditions = []
        if "min" in bounds:
            low = [int(part) for part in bounds["min"].split(".")]
            while len(low) > 1 and low[-1] == 0:
                low.pop()
            conditions.append(f"pushq_version(d.app_version) >= {self.array(low, 'integer')}")
        if "max" in bounds:
            high = [int(part) for part in bounds["max"].split(".")] + [0] * 10
            conditions.append(f"pushq_version(d.app_version) <= {self.array(high, 'integer')}")
        return " AND ".join(conditions)

    def _tags(self, tags: Mapping[str, list[str]]) -> str:
        conditions = []
        if "any" in tags:
            conditions.append(f"jsonb_exists_any(d.tags, {self.array(tags['any'], 'text')})")
        if "all" in tags:
            conditions.append(f"jsonb_exists_all(d.tags, {self.array(tags['all'], 'text')})")
        if "none" in tags:
            conditions.append(f"NOT jsonb_exists_any(d.tags, {self.array(tags['none'], 'text')})")
        return " AND ".join(conditions)

    def _last_seen(self, days: Mapping[str, int]) -> str:
        conditions = []
        for name, comparison in (("within_days", ">="), ("before_days", "<")):
            if name in days:
                conditions.append(
                    f"d.last_seen {comparison} {self.now()} - make_interval(days => :{self.bind(days[name])})"
                )
        return " AND ".join(conditions)


def select_devices(
    connection: Connection, app: str, audience: Audience, *, at: datetime | None = None
) -> Selection:
    """The condition for the audience's devices, to be combined with the caller's own on ``d.is_active``, ``d.app`` and platform.

    Args:
        at: what ``last_seen`` counts from; None: the transaction's time.

    Raises:
        InvalidRequest: a segment does not exist.
    """
    build = _Builder(at)
    conditions = []
    if audience.target is not None:
        # Only the provider knows the devices; none of ours may be taken for them.
        return Selection("false", {})
    if audience.segments and EVERYBODY not in audience.segments:
        conditions.append(_in_segments(connection, app, audience.segments, "audience.segments", build))
    elif audience.segments:
        # Everybody, but the other names must exist all the same: a typo is a typo.
        _load(connection, app, [name for name in audience.segments if name != EVERYBODY], "audience.segments")
    if audience.user_ids is not None:
        conditions.append(f"d.user_id = ANY({build.array(audience.user_ids, 'bigint')})")
    if audience.platforms:
        conditions.append(f"d.platform = ANY({build.array(audience.platforms, 'text')})")
    if audience.filter:
        conditions.append(build.filter(audience.filter))
    if audience.exclude_segments:
        excluded = _in_segments(
            connection, app, audience.exclude_segments, "audience.exclude_segments", build
        )
        # Who cannot be told to be in a segment is not in it.
        conditions.append(f"NOT coalesce({excluded}, false)")
    if audience.exclude_user_ids:
        conditions.append(f"NOT d.user_id = ANY({build.array(audience.exclude_user_ids, 'bigint')})")
    return Selection(" AND ".join(conditions) or "true", build.params)


def _in_segments(connection: Connection, app: str, names: Sequence[str], field: str, build: _Builder) -> str:
    rows = _load(connection, app, names, field)
    static = [row.id for row in rows if row.kind == "static"]
    conditions = [build.members(static)] if static else []
    conditions += [
        build.filter(parse_filter(row.filter, f"segment {row.name}")) for row in rows if row.kind == "filter"
    ]
    return f"({' OR '.join(conditions)})"


def _load(connection: Connection, app: str, names: Sequence[str], field: str) -> list[Any]:
    if not names:
        return []
    rows = {row.name: row for row in connection.execute(_BY_NAME, {"app": app, "names": list(names)})}
    for name in names:
        if name not in rows:
            raise unknown_segment(connection, app, name, field)
    return [rows[name] for name in names]


class UnknownSegment(InvalidRequest):
    """The app has no segment of this name."""


def unknown_segment(connection: Connection, app: str, name: str, field: str) -> UnknownSegment:
    """The error for a name that the app has no segment of: with the nearest names, or some."""
    known = [EVERYBODY, *connection.execute(_NAMES, {"app": app}).scalars()]
    near = difflib.get_close_matches(name, known, n=3)
    if near:
        expected = f"did you mean {' or '.join(near)}?"
    else:
        shown = ", ".join(known[:_SHOWN])
        expected = f"one of the segments of app {app!r}: {shown}{', ...' if len(known) > _SHOWN else ''}"
    return UnknownSegment(field, f"the segment {name!r}", expected)


def count(connection: Connection, app: str, audience: Audience) -> dict[str, int]:
    """Active devices of the audience by platform; a topic, condition or channel counts as one. Reads every active device of the app.

    Raises:
        InvalidRequest: a segment does not exist.
    """
    if audience.target is not None:
        return {audience.target.platform: 1}
    selection = select_devices(connection, app, audience)
    statement = (
        f"SELECT d.platform, count(*) AS devices FROM device_tokens d WHERE d.is_active AND d.app = :app AND ({selection.where})"  # noqa: S608
        " GROUP BY 1 ORDER BY 1"
    )
    rows = connection.execute(text(statement), {**selection.params, "app": app}).all()
    return {row.platform: row.devices for row in rows}
