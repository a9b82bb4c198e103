"""The hot cache in Redis: the active devices of users, over all apps, those of neighbouring users in one entry.

Which entry has a user is in :mod:`pushq.tokens.buckets`, what it looks like in :mod:`pushq.tokens.entries`. PostgreSQL is the truth; the
cache may vanish at any time. What it must never do is bring back what a later change has removed, so:

- A change first commits, then *strikes out* the users it concerns: their names are put before the list, and who reads the entry takes
  nothing about them from it. Their neighbours stay. Where there is no list, the names stand alone, for a minute: a *tombstone*. A reader that
  looked into PostgreSQL before the commit wants to fill what it found; it fills only keys that do not exist, so the tombstone wins.
- A registration writes through: it puts a nonce into the entry, reads PostgreSQL, and writes the entry anew only while the nonce is still
  there. Who is struck out stays so, but for the user who registers: the change of another one may not be committed yet.
- A bulk change (an import) raises the *epoch* and unlinks the entries. Who read PostgreSQL under another epoch does not fill.
- A reader that took longer than half a tombstone's life does not fill either.
- When Redis cannot be reached, changes go on without it. The process remembers whom it could not strike out, up to a bound, and
  does so before it uses the cache again; beyond the bound it clears the cache.

A device is looked up by its id and its user, and both come from the ledger: an entry that does not have the device is a miss.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby, islice
from operator import attrgetter, itemgetter
from typing import Any, Final, cast

import redis
from sqlalchemy import Row

from pushq import metrics
from pushq.database import Database
from pushq.tokens.buckets import Bucket, bucket_of, buckets_of, by_bucket, cache_key
from pushq.tokens.entries import Contents, DeviceEntry, encode, parse, sort_out, tokens_at_once
from pushq.tokens.entry_scripts import TOMBSTONE_TTL, EntryScripts
from pushq.tokens.keyspace import EPOCH_KEY, clear
from pushq.tokens.reading import devices_of, neighbours
from pushq.tokens.resolved import Resolved

logger = logging.getLogger("pushq.cache")

#: Half of a tombstone's life.
MAX_READ_TO_FILL_S: Final = TOMBSTONE_TTL / 2
#: Seconds without a try after Redis failed: a batch must not wait for the time-out of a dead Redis each time.
RETRY_AFTER_S: Final = 5.0
MAX_PENDING: Final = 100_000
KEYS_PER_CALL: Final = 1000


@dataclass(slots=True)
class CacheCounts:
    """What the cache did since it was made, for metrics.

    Attributes:
        hits, misses: recipients.
        filled, malformed: entries.
        failures: commands that Redis did not answer.
    """

    hits: int = 0
    misses: int = 0
    filled: int = 0
    failures: int = 0
    malformed: int = 0


@dataclass(slots=True)
class _Outage:
    """What is known of Redis being away."""

    since: float | None = None
    retry_at: float = 0.0
    #: (platform, user_id) of those who should be struck out and may not be.
    pending: set[tuple[str, int]] = field(default_factory=set)
    overflowed: bool = False


class TokenCache:
    """Resolves devices to tokens. Safe for many greenlets or threads.

    Args:
        client: from :func:`pushq.redis_client.open_redis`.
        ttl: how long an entry lives; shortened at random by up to a twentieth, so that entries made together do not end together.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        client: redis.Redis,
        database: Database,
        ttl: timedelta,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._redis = client
        self._database = database
        self._ttl = max(int(ttl.total_seconds()), 1)
        self._clock = clock
        self._rng = rng or random.Random()
        self._scripts = EntryScripts(client)
        self._outage = _Outage()
        self.counts = CacheCounts()

    @property
    def behind(self) -> bool:
        """Whether entries may be in Redis that this process could not change while Redis was away."""
        return bool(self._outage.pending) or self._outage.overflowed

    # Reading

    def resolve(
        self,
        platform: str,
        user_ids: Sequence[int],
        device_ids: Sequence[int],
        app: str,
        *,
        partition: int | None = None,
        tokens_only: bool = False,
    ) -> Resolved:
        """Find the tokens of devices: one MGET, a query for what it does not answer, one fill.

        With users far apart each has an entry to himself, whose other users are read for nothing: of more than a thousand entries
        a thousand are read at a time.

        Args:
            partition: the one that holds all these users, if that is known.
            tokens_only: languages and attributes are of no interest, and may be missing.

        Raises:
            ServiceUnavailable: PostgreSQL is needed and cannot be reached. Redis may be down.
        """
        count = len(user_ids)
        buckets = buckets_of(user_ids, partition)
        if len(buckets) > KEYS_PER_CALL:
            step = count * KEYS_PER_CALL // len(buckets)
            return Resolved.joined(
                self.resolve(platform, users, devices, app, partition=partition, tokens_only=tokens_only)
                for users, devices in zip(_chunks(user_ids, step), _chunks(device_ids, step), strict=True)
            )
        started = self._clock()
        contents, epoch = self._read(platform, buckets)
        if tokens_only and contents.struck.isdisjoint(user_ids):
            plain = tokens_at_once(contents.lists, device_ids, app)
            if plain is not None:
                resolved = Resolved(plain, ["production"] * count, [None] * count, [None] * count, count)
                self._count(platform, resolved)
                return resolved
        resolved = Resolved([None] * count, [None] * count, [None] * count, [None] * count)
        devices = self._parse(contents)
        missing: list[int] = []
        for position, (user_id, device_id) in enumerate(zip(user_ids, device_ids, strict=True)):
            device = devices.get(device_id)
            if (
                device is not None
                and device[0] == user_id
                and device[2] == app
                and user_id not in contents.struck
            ):
                resolved.tokens[position] = device[4].encode()
                resolved.environments[position] = device[3]
                resolved.languages[position] = device[5]
                resolved.attributes[position] = device[6]
            else:
                missing.append(position)
        resolved.hits, resolved.misses = count - len(missing), len(missing)
        if missing:
            rows = self._rows(
                platform, {user_ids[position] for position in missing}, partition, contents, epoch, started
            )
            found = {row.id: row for row in rows}
            for position in missing:
                row = found.get(device_ids[position])
                if row is not None and row.user_id == user_ids[position] and row.app == app:
                    resolved.tokens[position] = row.token.encode()
                    resolved.environments[position] = row.environment
                    resolved.languages[position] = row.language
                    resolved.attributes[position] = row.attributes
        self._count(platform, resolved)
        return resolved

    def _count(self, platform: str, resolved: Resolved) -> None:
        metrics.token_cache_hits.labels(platform).inc(resolved.hits)
        metrics.token_cache_misses.labels(platform).inc(resolved.misses)
        self.counts.hits += resolved.hits
        self.counts.misses += resolved.misses

    def _read(self, platform: str, buckets: list[Bucket]) -> tuple[Contents, bytes | None]:
        """What the cache has of these buckets, and the epoch: None, beside nothing, if Redis does not answer."""
        keys = [cache_key(platform, bucket) for bucket in buckets]
        values = self._try(lambda: self._redis.mget([*keys, EPOCH_KEY]))
        if values is None:
            return Contents(), None
        epoch = values.pop() or b""
        return sort_out(buckets, values), epoch

    def _parse(self, contents: Contents) -> dict[int, DeviceEntry]:
        devices, broken = parse(contents.lists)
        for bucket in broken:
            self.counts.malformed += 1
            logger.warning("cache_entry_malformed", extra={"bytes": len(contents.lists[bucket])})
        return devices

    def _rows(
        self,
        platform: str,
        users: set[int],
        partition: int | None,
        contents: Contents,
        epoch: bytes | None,
        started: float,
    ) -> list[Row[Any]]:
        """The devices of users whom the cache does not know; with those of their neighbours where that makes an entry."""
        rows: list[Row[Any]] = []
        absent = [bucket for bucket in buckets_of(users, partition) if bucket in contents.absent]
        if absent and epoch is not None:
            rows += neighbours(self._database, platform, absent)
            if self._clock() - started < MAX_READ_TO_FILL_S:
                self._fill_many(_entries(platform, rows), epoch)
        # Also those who were not where they were looked for: what is sent does not hang on how PostgreSQL shares users out.
        left = users.difference(row.user_id for row in rows)
        if left:
            alone = devices_of(self._database, platform, sorted(left))
            # A list that lacks who was seen lately says too little: a tombstone, and after it somebody fills it.
            stale = {
                row.user_id: bucket
                for row in alone
                if row.recent and (bucket := bucket_of(row.user_id)) in contents.lists
            }
            if stale:
                keys = [cache_key(platform, bucket) for bucket in dict.fromkeys(stale.values())]
                self._change(platform, stale, lambda: self._scripts.bury(keys))
            rows += alone
        return rows

    # Writing

    def forget(self, platform: str, user_ids: Iterable[int]) -> None:
        """Strike these users out. Call it after the change is committed."""
        for chunk in _chunks(by_bucket(dict.fromkeys(user_ids)), KEYS_PER_CALL):
            concerned = [user_id for _, of_bucket in chunk for user_id in of_bucket]
            self._change(platform, concerned, lambda chunk=chunk: self._scripts.strike(platform, chunk))  # type: ignore[misc]

    def refresh(self, platform: str, user_id: int) -> None:
        """Write the user's entry anew from PostgreSQL, unless somebody else changes it meanwhile. Call it after the commit."""
        bucket = bucket_of(user_id)
        key, nonce = cache_key(platform, bucket), f"!{secrets.token_hex(8)}"
        struck: list[bytes | None] = []
        begun = self._change(
            platform,
            [user_id],
            lambda: struck.append(self._scripts.begin(key, nonce, user_id)),
        )
        if not begun or struck[0] is None:
            return
        others = struck[0]
        lists = [value for _, value in _entries(platform, neighbours(self._database, platform, [bucket]))]
        # Without a list the tombstone stays one, for its minute.
        value, ttl = (others + lists[0], self._some_ttl()) if lists else (others, TOMBSTONE_TTL)
        self._try(lambda: self._scripts.replace(key, nonce.encode() + others, value, ttl))

    def drop(self, platform: str, user_ids: Iterable[int]) -> None:
        """Remove the entries of many users after a bulk change. Call :meth:`raise_epoch` between the commit and this."""
        users = list(dict.fromkeys(user_ids))
        for chunk in _chunks(users, KEYS_PER_CALL * 5):
            keys = [cache_key(platform, bucket) for bucket in buckets_of(chunk)]
            self._change(platform, chunk, lambda keys=keys: self._redis.unlink(*keys))  # type: ignore[misc]

    def raise_epoch(self) -> bool:
        """Make everybody who has read PostgreSQL until now fill nothing. Returns False if Redis holds nothing but the epoch."""

        def step() -> int:
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.incr(EPOCH_KEY)
            pipeline.dbsize()
            return int(pipeline.execute()[1])

        size = self._try(step)
        return size is None or size > 1

    def fill(self, entries: Sequence[tuple[str, bytes]], epoch: bytes) -> int:
        """Add (key, value) pairs where no entry is, if ``epoch`` still holds. Returns how many were added."""
        return self._fill_many(entries, epoch)

    def epoch(self) -> bytes | None:
        """The epoch to read before PostgreSQL; None if Redis does not answer."""
        return cast("bytes | None", self._try(lambda: self._redis.get(EPOCH_KEY) or b""))

    def _fill_many(self, entries: Sequence[tuple[str, bytes]], epoch: bytes) -> int:
        filled = 0
        for chunk in _chunks(entries, KEYS_PER_CALL):
            added = self._try(lambda chunk=chunk: self._scripts.fill(chunk, epoch, self._some_ttl()))  # type: ignore[misc]
            if added is None:
                break
            filled += added
        self.counts.filled += filled
        return filled

    def _some_ttl(self) -> int:
        return self._ttl - self._rng.randrange(self._ttl // 20 + 1)

    # Redis being away

    def _change(self, platform: str, user_ids: Collection[int], command: Callable[[], Any]) -> bool:
        """Run a command that takes these users out of their entries; if it cannot be run now, remember them."""
        if self._try(lambda: (command(), True)) is not None:
            return True
        outage = self._outage
        if not outage.overflowed:
            outage.pending.update((platform, user_id) for user_id in user_ids)
            if len(outage.pending) > MAX_PENDING:
                outage.pending.clear()
                outage.overflowed = True
        return False

    def _try(self, command: Callable[[], Any]) -> Any:
        """The command's answer, or None while Redis cannot be reached."""
        outage = self._outage
        if outage.since is not None and self._clock() < outage.retry_at:
            return None
        try:
            if outage.pending or outage.overflowed:
                self._catch_up()
            answer = command()
        except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError) as error:
            # ResponseError as well: LOADING, READONLY after a failover, OOM. The cache is of no use then, and a send must go on.
            self.counts.failures += 1
            outage.retry_at = self._clock() + RETRY_AFTER_S
            if outage.since is None:
                outage.since = self._clock()
                logger.warning(
                    "cache_unavailable", extra={"error": type(error).__name__, "detail": str(error)[:200]}
                )
            return None
        if outage.since is not None:
            logger.warning("cache_available", extra={"seconds": round(self._clock() - outage.since, 1)})
            outage.since = None
        return answer

    def _catch_up(self) -> None:
        """Strike out who could not be struck out during an outage. Raises redis.RedisError if it is not over."""
        outage = self._outage
        self._redis.incr(EPOCH_KEY)
        if outage.overflowed:
            clear(self._redis)
            outage.overflowed = False
        while outage.pending:
            some = list(islice(outage.pending, KEYS_PER_CALL))
            for platform, of_platform in groupby(sorted(some), itemgetter(0)):
                self._scripts.strike(platform, by_bucket(user_id for _, user_id in of_platform))
            outage.pending.difference_update(some)


def _chunks(items: Sequence[Any], size: int) -> Iterator[Any]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _entries(platform: str, rows: Sequence[Row[Any]]) -> list[tuple[str, bytes]]:
    """The (key, value) pairs of what :func:`~pushq.tokens.reading.neighbours` read."""
    return [
        entry
        for partition, of_partition in groupby(rows, attrgetter("partition"))
        for entry in encode(platform, partition, of_partition)
    ]
