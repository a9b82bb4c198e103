"""The cache's keys as a whole: count them, and empty the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast

import redis

EPOCH_KEY: Final = "pushq:tokens:epoch"
KEY_PATTERN: Final = "users:*:tokens:*"


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What is in the cache.

    Attributes:
        entries: by platform, tombstones included.
        sampled_bytes: mean memory of the entries that were looked at; 0 if there are none.
    """

    entries: dict[str, int]
    sampled_bytes: int


def clear(client: redis.Redis) -> int:
    """Remove every entry; other keys of the database stay. Returns how many there were."""
    removed = 0
    client.incr(EPOCH_KEY)
    for keys in _scan(client):
        removed += client.unlink(*keys)
    return removed


def stats(client: redis.Redis, *, samples: int = 200) -> CacheStats:
    """Count the entries (SCAN: nobody waits for it) and look at the memory of some."""
    entries: dict[str, int] = {}
    sampled: list[int] = []
    for keys in _scan(client):
        for key in keys:
            platform = key.rpartition(b":")[2].decode(errors="replace")
            entries[platform] = entries.get(platform, 0) + 1
        for key in keys[: max(samples - len(sampled), 0)]:
            usage = client.memory_usage(key)
            if usage is not None:
                sampled.append(int(usage))
    return CacheStats(dict(sorted(entries.items())), sum(sampled) // len(sampled) if sampled else 0)


def _scan(client: redis.Redis) -> Iterator[list[bytes]]:
    cursor = 0
    while True:
        cursor, keys = cast("tuple[int, list[bytes]]", client.scan(cursor, match=KEY_PATTERN, count=5000))
        if keys:
            yield keys
        if cursor == 0:
            return
