"""Where the hot cache keeps a user: together with the neighbours that a batch has as well. Pure.

A batch is a run of user ids of one hash partition of `device_tokens`, for that is how broadcasts are planned. So an entry holds the users of
one partition within 256 consecutive ids, some sixteen where ids are dense: one key for what is asked for together. With a key for
each user, names, expiry and Redis' own objects took 130 bytes a user beside 150 of data, and a batch of a thousand asked for a thousand keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from pushq.tokens.partitions import partition_of

#: (number of the partition, user id without its lowest bits).
Bucket: TypeAlias = "tuple[int, int]"

SHIFT: Final = 8
#: User ids that an entry spans, in all partitions.
SPAN: Final = 1 << SHIFT


def bucket_of(user_id: int) -> Bucket:
    return partition_of(user_id), user_id >> SHIFT


def buckets_of(user_ids: Iterable[int], partition: int | None = None) -> list[Bucket]:
    """The buckets of these users, each once.

    Args:
        partition: where all of them are known to be in one. Finding it out takes some microseconds a user.
    """
    if partition is None:
        return list(dict.fromkeys(map(bucket_of, user_ids)))
    return [(partition, page) for page in dict.fromkeys([user_id >> SHIFT for user_id in user_ids])]


def by_bucket(user_ids: Iterable[int]) -> list[tuple[Bucket, list[int]]]:
    """The buckets of these users, with whom of them each has."""
    users: dict[Bucket, list[int]] = {}
    for user_id in user_ids:
        users.setdefault(bucket_of(user_id), []).append(user_id)
    return list(users.items())


def first_user(bucket: Bucket) -> int:
    return bucket[1] << SHIFT


def cache_key(platform: str, bucket: Bucket) -> str:
    return f"users:{bucket[0]}:{bucket[1]}:tokens:{platform}"
