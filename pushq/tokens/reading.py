"""What the hot cache is filled from: the active devices of users and of their neighbours, read from PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Row, text

from pushq.database import Database
from pushq.tokens.buckets import SPAN, Bucket, first_user
from pushq.tokens.partitions import partition_names

#: Users seen more recently than this are kept; others would only push them out.
RECENT: Final = timedelta(days=30)

_COLUMNS: Final = """
t.user_id, t.id, t.app, t.environment, t.token, t.language, nullif(t.attributes, '{}') AS attributes,
t.last_seen > now() - cast(:recent AS interval) AS recent
"""

# OFFSET 0 keeps the planner from turning this into a hash join, which reads the whole table for a batch of a small one. As it stands,
# each user costs one descent in the one partition that can hold it (`= ANY` would try all sixteen for each).
_DEVICES: Final = """
SELECT d.*
  FROM unnest(cast(:users AS bigint[])) AS u (user_id)
 CROSS JOIN LATERAL (
       SELECT {columns} FROM device_tokens t
        WHERE t.user_id = u.user_id AND t.is_active AND t.platform = :platform OFFSET 0) d
 ORDER BY d.user_id, d.id
"""

# A branch for each partition, of which PostgreSQL runs the one that is asked for: a range of ids does not tell it the partition.
_BRANCH: Final = """
SELECT {columns} FROM {partition} t
 WHERE b.partition = {number} AND t.user_id BETWEEN b.first AND b.first + {last} AND t.is_active AND t.platform = :platform
"""
_NEIGHBOURS: Final = """
SELECT d.*, b.partition
  FROM unnest(cast(:partitions AS int[]), cast(:firsts AS bigint[])) AS b (partition, first)
 CROSS JOIN LATERAL ({branches} OFFSET 0) d
 ORDER BY b.partition, d.user_id, d.id
"""

_DEVICES_STATEMENT: Final = text(_DEVICES.format(columns=_COLUMNS))
_NEIGHBOURS_STATEMENT: Final = text(
    _NEIGHBOURS.format(
        branches="UNION ALL".join(
            _BRANCH.format(columns=_COLUMNS, partition=partition, number=number, last=SPAN - 1)
            for number, partition in enumerate(partition_names())
        )
    )
)

# A page never ends within a bucket: what has an entry already is not added to.
_END: Final = """
SELECT user_id | {last} FROM {partition}
 WHERE is_active AND user_id > :after ORDER BY user_id OFFSET cast(:limit AS bigint) - 1 LIMIT 1
"""
_PAGE: Final = """
SELECT {columns}, t.platform FROM {partition} t
 WHERE t.is_active AND t.user_id > :after AND t.user_id <= :end ORDER BY t.user_id, t.id
"""
#: The highest user id there can be.
LAST_USER: Final = 2**63 - 1


def devices_of(database: Database, platform: str, user_ids: Sequence[int]) -> Sequence[Row[Any]]:
    """user_id, id, app, environment, token, language, attributes, recent; ordered by the first two."""
    with database.begin() as connection:
        return connection.execute(
            _DEVICES_STATEMENT, {"users": list(user_ids), "platform": platform, "recent": RECENT}
        ).fetchall()


def neighbours(database: Database, platform: str, buckets: Sequence[Bucket]) -> Sequence[Row[Any]]:
    """The devices of everybody in these buckets: as :func:`devices_of`, and the partition, by which they are ordered first."""
    with database.begin() as connection:
        return connection.execute(
            _NEIGHBOURS_STATEMENT,
            {
                "partitions": [partition for partition, _ in buckets],
                "firsts": [first_user(bucket) for bucket in buckets],
                "platform": platform,
                "recent": RECENT,
            },
        ).fetchall()


def page_of(database: Database, partition: str, after: int, limit: int) -> tuple[Sequence[Row[Any]], int]:
    """Some ``limit`` devices of a partition, in whole buckets, of all platforms: as :func:`devices_of`, and the platform.

    Returns:
        The rows, and where the next page begins: ``LAST_USER`` if there is none.
    """
    with database.begin() as connection:
        end = connection.execute(
            text(_END.format(partition=partition, last=SPAN - 1)), {"after": after, "limit": limit}
        ).scalar()
        if end is None:
            end = LAST_USER
        rows = connection.execute(
            text(_PAGE.format(columns=_COLUMNS, partition=partition)),
            {"recent": RECENT, "after": after, "end": end},
        ).fetchall()
    return rows, end
