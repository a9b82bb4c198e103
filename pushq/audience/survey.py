"""What a send would meet: how many devices on each platform, who lacks which value, and some devices to try it with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, text

from pushq.audience.request import Audience
from pushq.audience.sql import select_devices


@dataclass(frozen=True)
class Platform:
    """One platform's part of an audience.

    Attributes:
        devices: active ones.
        without: by a value's name, how many of them have none among their attributes.
    """

    devices: int
    without: dict[str, int] = field(default_factory=dict)


def survey(
    connection: Connection, app: str, audience: Audience, names: Sequence[str] = ()
) -> dict[str, Platform]:
    """Count the audience's devices by platform. Reads every active device of the app.

    Args:
        names: values that placeholders ask for, and have no default.

    Raises:
        InvalidRequest: a segment does not exist.
    """
    selection = select_devices(connection, app, audience)
    params: dict[str, object] = {**selection.params, "app": app}
    counts = ["count(*)"]
    for number, name in enumerate(names):
        params[f"name_{number}"] = name
        # As rendering sees it: texts and numbers are values, and an empty text is none.
        value = f"d.attributes -> :name_{number}"
        counts.append(
            f"count(*) FILTER (WHERE coalesce(jsonb_typeof({value}) NOT IN ('string', 'number') OR {value} = '\"\"', true))"
        )
    statement = (
        f"SELECT d.platform, {', '.join(counts)} FROM device_tokens d"  # noqa: S608
        f" WHERE d.is_active AND d.app = :app AND ({selection.where}) GROUP BY 1 ORDER BY 1"
    )
    return {
        row[0]: Platform(row[1], dict(zip(names, row[2:], strict=True)))
        for row in connection.execute(text(statement), params).all()
    }


def some_devices(
    connection: Connection, app: str, audience: Audience, platform: str, limit: int
) -> list[tuple[int, int]]:
    """(user id, device id) of some of the audience's devices, those first that were seen last among a thousand.

    Raises:
        InvalidRequest: a segment does not exist.
    """
    selection = select_devices(connection, app, audience)
    statement = (
        "SELECT user_id, id FROM (SELECT d.user_id, d.id, d.last_seen FROM device_tokens d WHERE d.is_active AND d.app = :app"  # noqa: S608
        f" AND d.platform = :platform AND ({selection.where}) LIMIT 1000) s ORDER BY last_seen DESC, id LIMIT :limit"
    )
    rows = connection.execute(
        text(statement), {**selection.params, "app": app, "platform": platform, "limit": limit}
    )
    return [(row.user_id, row.id) for row in rows]
