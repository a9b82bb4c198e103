"""Which partition holds a user, asked of PostgreSQL itself."""

from __future__ import annotations

import random

from sqlalchemy import text

from pushq.database import Database
from pushq.service_urls import ServiceUrl
from pushq.tokens.partitions import PARTITIONS, partition_names, partition_of

EDGES = [0, 1, -1, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, -(2**32) - 1, 2**63 - 1, -(2**63)]


def test_a_user_is_where_postgresql_says(database: str) -> None:
    rng = random.Random(7)
    users = [*EDGES, *range(1, 2000), *(rng.randrange(-(2**63), 2**63) for _ in range(2000))]
    opened = Database(ServiceUrl(database), pool_size=1)
    try:
        with opened.begin() as connection:
            rows = connection.execute(
                text(
                    "SELECT user_id, remainder FROM unnest(cast(:users AS bigint[])) AS u (user_id),"
                    " generate_series(0, :last) AS remainder"
                    " WHERE satisfies_hash_partition('device_tokens'::regclass, :last + 1, remainder, user_id)"
                ),
                {"users": users, "last": PARTITIONS - 1},
            )
            found = {row.user_id: row.remainder for row in rows}
            names = list(
                connection.execute(
                    text(
                        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'device_tokens'::regclass"
                    )
                ).scalars()
            )
    finally:
        opened.close()
    assert {user: partition_of(user) for user in users} == found
    assert set(found.values()) == set(range(PARTITIONS))
    assert partition_names() == sorted(names)
