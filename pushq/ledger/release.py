"""The release window: how many batches of a send and platform are published at a time.

A batch that is planned is only a row. It is released when the window has room, and each batch that leaves the window releases
the next; so pausing, cancelling and fairness between sends act at once, and the broker never holds a backlog.
"""

from __future__ import annotations

import uuid

from sqlalchemy import Connection, text

#: When nobody has taken up a published batch for this long, the sweeper publishes it again (doubling each time, to 32 times).
REPUBLISH_AFTER_S = 30

_RELEASE = """
    UPDATE send_batches b
    SET state = 'queued', publishes = b.publishes + 1, due_at = now() + make_interval(secs => :after)
    FROM (
        SELECT send_id, batch_no FROM send_batches
        WHERE send_id = :send AND platform = :platform AND state = 'planned'
        ORDER BY batch_no LIMIT :room FOR UPDATE SKIP LOCKED
    ) next
    WHERE b.send_id = next.send_id AND b.batch_no = next.batch_no
    RETURNING b.batch_no
"""


def top_up(connection: Connection, send_id: uuid.UUID, platform: str, window: int) -> list[int]:
    """Release planned batches until ``window`` of them are published or running; returns their numbers."""
    # Two that count at the same time would both fill the same room.
    connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"),
        {"key": f"release:{send_id}:{platform}"},
    )
    in_flight = connection.execute(
        text(
            "SELECT count(*) FROM send_batches WHERE send_id = :send AND platform = :platform AND state IN ('queued', 'running')"
        ),
        {"send": send_id, "platform": platform},
    ).scalar_one()
    return _release(connection, send_id, platform, window - in_flight)


def release_next(connection: Connection, send_id: uuid.UUID, platform: str) -> list[int]:
    """Release one planned batch in the place of one that leaves the window."""
    return _release(connection, send_id, platform, 1)


def _release(connection: Connection, send_id: uuid.UUID, platform: str, room: int) -> list[int]:
    if room <= 0:
        return []
    rows = connection.execute(
        text(_RELEASE), {"send": send_id, "platform": platform, "room": room, "after": REPUBLISH_AFTER_S}
    ).scalars()
    return sorted(rows)
