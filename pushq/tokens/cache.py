"""The hot cache in Redis: ``user:{user_id}:tokens:{platform}`` holds the user's active devices of that platform, over all apps.

A value is a compact JSON list of ``[device_id, app, environment, token, language, attributes or null]``. PostgreSQL is the truth; the
cache may vanish at any time. What it must never do is bring back what a later change has removed, so:

- A change first commits, then puts a *tombstone* (an empty value, one minute) in the entry's place. It reads as a miss. A reader that
  looked into PostgreSQL before the commit wants to fill what it found; it fills only keys that do not exist, so the tombstone wins.
- A registration writes through: it puts a tombstone with a nonce, reads PostgreSQL, and replaces the tombstone only while the nonce
  is still its own.
- A bulk change (an import) raises the *epoch* and unlinks the entries. Who read PostgreSQL under another epoch does not fill.
- A reader that took longer than half a tombstone's life does not fill either.
- When Redis cannot be reached, changes go on without it. The process remembers which entries it could not remove, up to a bound, and
  removes them before it uses the cache again; beyond the bound it clears the cache.

A device is looked up by its id as well as by its user, and ids come from the ledger: an entry that does not have the id is a miss.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Any, Final, cast

import orjson
import redis
from sqlalchemy import Row, text

from pushq import metrics
from pushq.database import Database
from pushq.tokens.entries import DeviceEntry, encode_entries, is_entry, tokens_at_once

logger = logging.getLogger("pushq.cache")

#: Seconds. Longer than any reader takes from its look into PostgreSQL to its fill.
TOMBSTONE_TTL: Final = 60
MAX_READ_TO_FILL_S: Final = 30.0
#: Seconds without a try after Redis failed: a batch must not wait for the time-out of a dead Redis each time.
RETRY_AFTER_S: Final = 5.0
#: Users seen more recently than this are kept; others would only push them out.
RECENT: Final = timedelta(days=30)
MAX_PENDING: Final = 100_000
KEYS_PER_CALL: Final = 1000
EPOCH_KEY: Final = "pushq:tokens:epoch"
KEY_PATTERN: Final = "user:*:tokens:*"

_OPEN_BRACKET: Final = ord("[")

# KEYS: epoch, entries. ARGV: epoch as read, TTL in seconds, values.
_FILL: Final = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
local filled = 0
for i = 2, #KEYS do
  if redis.call('SET', KEYS[i], ARGV[i + 1], 'NX', 'EX', ARGV[2]) then filled = filled + 1 end
end
return filled
"""

# KEYS: entries. ARGV: TTL in seconds.
_BURY: Final = """
for i = 1, #KEYS do redis.call('SET', KEYS[i], '', 'EX', ARGV[1]) end
"""

# KEYS: entry. ARGV: the nonce that must still be there, value ('' for none), TTL in seconds.
_REPLACE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end
return 1
"""

# OFFSET 0 keeps the planner from turning this into a hash join, which reads the whole table for a batch of a small one. As it stands,
# each user costs one descent in the one partition that can hold it (`= ANY` would try all sixteen for each).
_DEVICES: Final = text("""
SELECT d.user_id, d.id, d.app, d.environment, d.token, d.language, nullif(d.attributes, '{}') AS attributes,
       d.last_seen > now() - cast(:recent AS interval) AS recent
  FROM unnest(cast(:users AS bigint[])) AS u (user_id)
 CROSS JOIN LATERAL (
       SELECT * FROM device_tokens t WHERE t.user_id = u.user_id AND t.is_active AND t.platform = :platform OFFSET 0) d
 ORDER BY d.user_id, d.id
""")


def cache_key(platform: str, user_id: int) -> str:
    return f"user:{user_id}:tokens:{platform}"


@dataclass(slots=True)
class Resolved:
    """What a batch needs to know of its devices; the lists are aligned with the ids asked for.

    Attributes:
        tokens: None where the device is no longer an active one of that user, app and platform.
        attributes: None where there are none.
        hits: positions answered by the cache.
        misses: positions that PostgreSQL had to answer.
    """

    tokens: list[bytes | None]
    environments: list[str | None]
    languages: list[str | None]
    attributes: list[dict[str, Any] | None]
    hits: int = 0
    misses: int = 0


@dataclass(slots=True)
class CacheCounts:
    """What the cache did since it was made, for metrics."""

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
    #: (platform, user_id) of entries that should be gone and may not be.
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
        self._fill = client.register_script(_FILL)
        self._bury = client.register_script(_BURY)
        self._replace = client.register_script(_REPLACE)
        self._outage = _Outage()
        self.counts = CacheCounts()

    @property
    def behind(self) -> bool:
        """Whether entries may be in Redis that this process could not remove while Redis was away."""
        return bool(self._outage.pending) or self._outage.overflowed

    # Reading

    def resolve(
        self,
        platform: str,
        user_ids: Sequence[int],
        device_ids: Sequence[int],
        app: str,
        *,
        tokens_only: bool = False,
    ) -> Resolved:
        """Find the tokens of devices: one MGET, one query for what it does not answer, one fill.

        Args:
            tokens_only: languages and attributes are of no interest, and may be missing.

        Raises:
            ServiceUnavailable: PostgreSQL is needed and cannot be reached. Redis may be down.
        """
        count = len(user_ids)
        tokens: list[bytes | None] = [None] * count
        environments: list[str | None] = [None] * count
        languages: list[str | None] = [None] * count
        attributes: list[dict[str, Any] | None] = [None] * count
        started = self._clock()
        raw, epoch = self._read(platform, user_ids)
        if raw is not None and tokens_only:
            plain = tokens_at_once(raw, device_ids, app)
            if plain is not None:
                resolved = Resolved(plain, ["production"] * count, [None] * count, [None] * count, count)
                self._count(platform, resolved)
                return resolved
        entries = None if raw is None else self._parse([raw[user_id] for user_id in user_ids])
        missing: list[int] = []
        if entries is None:
            missing = list(range(count))
        else:
            for position, (device_id, devices) in enumerate(zip(device_ids, entries, strict=True)):
                if devices is not None:
                    for device in devices:
                        if device[0] == device_id and device[1] == app:
                            tokens[position] = device[3].encode()
                            environments[position] = device[2]
                            languages[position] = device[4]
                            attributes[position] = device[5]
                            break
                    else:
                        missing.append(position)
                else:
                    missing.append(position)
        resolved = Resolved(tokens, environments, languages, attributes, count - len(missing), len(missing))
        if missing:
            known = {
                user_ids[position]
                for position in missing
                if entries is not None and entries[position] is not None
            }
            self._resolve_missing(
                resolved,
                platform=platform,
                user_ids=user_ids,
                device_ids=device_ids,
                app=app,
                missing=missing,
                known=known,
                epoch=epoch,
                started=started,
            )
        self._count(platform, resolved)
        return resolved

    def _count(self, platform: str, resolved: Resolved) -> None:
        metrics.token_cache_hits.labels(platform).inc(resolved.hits)
        metrics.token_cache_misses.labels(platform).inc(resolved.misses)
        self.counts.hits += resolved.hits
        self.counts.misses += resolved.misses

    def _resolve_missing(
        self,
        resolved: Resolved,
        *,
        platform: str,
        user_ids: Sequence[int],
        device_ids: Sequence[int],
        app: str,
        missing: list[int],
        known: set[int],
        epoch: bytes | None,
        started: float,
    ) -> None:
        rows = self._devices(platform, sorted({user_ids[position] for position in missing}))
        by_id = {row.id: row for row in rows}
        stale: set[int] = set()
        for position in missing:
            row = by_id.get(device_ids[position])
            if row is not None and row.user_id == user_ids[position] and row.app == app:
                resolved.tokens[position] = row.token.encode()
                resolved.environments[position] = row.environment
                resolved.languages[position] = row.language
                resolved.attributes[position] = row.attributes
                if row.user_id in known:
                    stale.add(row.user_id)
        if stale:
            # An entry without a device that is there: it says too little. A tombstone, and the next reader fills it.
            self.forget(platform, stale)
        if epoch is not None and self._clock() - started < MAX_READ_TO_FILL_S:
            self._fill_many(encode_entries(platform, rows, skip=known), epoch)

    def _devices(self, platform: str, user_ids: Sequence[int]) -> Sequence[Row[Any]]:
        with self._database.begin() as connection:
            return connection.execute(
                _DEVICES, {"users": list(user_ids), "platform": platform, "recent": RECENT}
            ).fetchall()

    def _read(self, platform: str, user_ids: Sequence[int]) -> tuple[dict[int, bytes] | None, bytes | None]:
        """The entries by user, ``null`` for a miss, and the epoch; (None, None) if Redis does not answer."""
        users = list(dict.fromkeys(user_ids))
        keys = [f"user:{user_id}:tokens:{platform}" for user_id in users]
        keys.append(EPOCH_KEY)

        def read() -> list[bytes | None]:
            return cast("list[bytes | None]", self._redis.mget(keys))

        values = self._try(read)
        if values is None:
            return None, None
        epoch = values.pop() or b""
        # Entries begin with a bracket, tombstones do not.
        raw = [value if value and value[0] == _OPEN_BRACKET else b"null" for value in values]
        return dict(zip(users, raw, strict=True)), epoch

    def _parse(self, raw: list[bytes]) -> list[list[DeviceEntry] | None]:
        """One parse for all; None for a miss."""
        try:
            parsed: list[list[DeviceEntry] | None] = orjson.loads(b"[%b]" % b",".join(raw))
            if len(parsed) == len(raw) and all(map(is_entry, parsed)):
                return parsed
        except orjson.JSONDecodeError:
            pass  # which of them is broken shows below, one by one
        return [self._parse_alone(value) for value in raw]

    def _parse_alone(self, value: bytes) -> list[DeviceEntry] | None:
        try:
            parsed = orjson.loads(value)
        except orjson.JSONDecodeError:
            parsed = 0
        if is_entry(parsed):
            return cast("list[DeviceEntry] | None", parsed)
        self.counts.malformed += 1
        logger.warning("cache_entry_malformed", extra={"bytes": len(value)})
        return None

    # Writing

    def forget(self, platform: str, user_ids: Iterable[int]) -> None:
        """Put tombstones in place of these users' entries. Call it after the change is committed."""
        users = list(dict.fromkeys(user_ids))
        for chunk in _chunks(users, KEYS_PER_CALL):
            keys = [cache_key(platform, user_id) for user_id in chunk]
            self._change(platform, chunk, lambda keys=keys: self._bury(keys=keys, args=[TOMBSTONE_TTL]))  # type: ignore[misc]

    def refresh(self, platform: str, user_id: int) -> None:
        """Write the user's entry anew from PostgreSQL, unless somebody else changes it meanwhile. Call it after the commit."""
        key = cache_key(platform, user_id)
        nonce = f"~{secrets.token_hex(8)}"
        if not self._change(platform, [user_id], lambda: self._redis.set(key, nonce, ex=TOMBSTONE_TTL)):
            return
        entries = encode_entries(platform, self._devices(platform, [user_id]))
        value = entries[0][1] if entries else b""
        self._try(lambda: self._replace(keys=[key], args=[nonce, value, self._some_ttl()]))

    def drop(self, platform: str, user_ids: Iterable[int]) -> None:
        """Remove many users' entries after a bulk change. Call :meth:`raise_epoch` between the commit and this."""
        users = list(dict.fromkeys(user_ids))
        for chunk in _chunks(users, KEYS_PER_CALL * 5):
            keys = [cache_key(platform, user_id) for user_id in chunk]
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
            keys = [EPOCH_KEY, *[key for key, _ in chunk]]
            args = [epoch, self._some_ttl(), *[value for _, value in chunk]]
            added = self._try(lambda keys=keys, args=args: self._fill(keys=keys, args=args))  # type: ignore[misc]
            if added is None:
                break
            filled += int(added)
        self.counts.filled += filled
        return filled

    def _some_ttl(self) -> int:
        return self._ttl - self._rng.randrange(self._ttl // 20 + 1)

    # Redis being away

    def _change(self, platform: str, user_ids: Sequence[int], command: Callable[[], Any]) -> bool:
        """Run a command that removes entries; if it cannot be run now, remember whose they are."""
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
        """Remove what could not be removed during an outage. Raises redis.RedisError if it is not over."""
        outage = self._outage
        self._redis.incr(EPOCH_KEY)
        if outage.overflowed:
            clear(self._redis)
            outage.overflowed = False
        while outage.pending:
            some = list(islice(outage.pending, KEYS_PER_CALL))
            self._bury(
                keys=[cache_key(platform, user_id) for platform, user_id in some], args=[TOMBSTONE_TTL]
            )
            outage.pending.difference_update(some)


def _chunks(items: Sequence[Any], size: int) -> Iterator[Any]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


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
