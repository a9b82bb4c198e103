"""The release window: how many batches of a send and platform are published at a time.

A batch that is planned is only a row. It is released when the window has room, and each batch that leaves the window makes room
for the next; so pausing, cancelling and fairness between sends act at once, and the broker never holds a backlog. A batch that waits
for its retry leaves the window too, or a few slow recipients would hold up all others; but only so many may wait, or an outage
would pull the whole audience in and use up everybody's attempts.
"""

from __future__ import annotations

import uuid

from sqlalchemy import Connection, text

#: When nobody has taken up a published batch for this long, the sweeper publishes it again (doubling each time, to 32 times;
#: who takes it up sets that back).
REPUBLISH_AFTER_S = 30
#: Batches published, running or waiting for a retry, in windows.
OPEN_WINDOWS = 4

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


def top_up(
    connection: Connection, send_id: uuid.UUID, platform: str, window: int, *, wait: bool = True
) -> list[int]:
    """Release planned batches until ``window`` of them are published or running; returns the numbers of those released.

    Args:
        wait: False releases nothing while somebody else is at it, who may not see what was planned just now.
    """
    # Two that count at the same time would both fill the same room.
    lock = "pg_advisory_xact_lock" if wait else "pg_try_advisory_xact_lock"
    locked = connection.execute(
        text(f"SELECT {lock}(hashtextextended(:key, 0))"),
        {"key": f"release:{send_id}:{platform}"},
    ).scalar()
    if locked is False:
        return []
    found = connection.execute(
        text(
            """
            SELECT count(*) FILTER (WHERE state <> 'retry') AS in_flight, count(*) AS open FROM send_batches
            WHERE send_id = :send AND platform = :platform AND state IN ('queued', 'running', 'retry')
            """
        ),
        {"send": send_id, "platform": platform},
    ).one()
    room = min(window - found.in_flight, OPEN_WINDOWS * window - found.open)
    if room <= 0:
        return []
    rows = connection.execute(
        text(_RELEASE), {"send": send_id, "platform": platform, "room": room, "after": REPUBLISH_AFTER_S}
    ).scalars()
    return sorted(rows)
