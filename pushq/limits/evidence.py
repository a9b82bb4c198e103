"""What the fleet knows of each set-up, in Redis: how a provider answered in the last 24 hours.

The key carries a fingerprint of the set-up: after a topic or a project was changed, what was accepted before proves nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import redis

from pushq.app_settings import AppSettings, LimitSettings, ProviderSettings
from pushq.limits.guard import Counts, Evidence

BUCKET_S: Final = 600
KEPT_S: Final = 86_400
#: Settings that cannot make a token look dead.
_IMMATERIAL: Final = frozenset({*LimitSettings.model_fields, "ca_file", "min_connections", "max_connections"})

# KEYS[1] the set-up's hash; ARGV: bucket, answered, accepted, guarded, life of the hash in seconds
_RECORD: Final = """
local key, bucket = KEYS[1], ARGV[1]
redis.call('HINCRBY', key, bucket .. ':answered', ARGV[2])
redis.call('HINCRBY', key, bucket .. ':accepted', ARGV[3])
redis.call('HINCRBY', key, bucket .. ':guarded', ARGV[4])
if tonumber(ARGV[3]) > 0 then redis.call('HSET', key, 'streak', 0)
else redis.call('HINCRBY', key, 'streak', ARGV[4]) end
redis.call('EXPIRE', key, ARGV[5])
return 1
"""


class EvidenceStore:
    """Records and reads how providers answered. Raises ``redis.RedisError`` without Redis.

    Args:
        clock: the time in seconds since 1970.
    """

    def __init__(
        self, apps: Mapping[str, AppSettings], client: redis.Redis, *, clock: Callable[[], float]
    ) -> None:
        self._redis, self._clock = client, clock
        self._script = client.register_script(_RECORD)
        self._keys = {
            (app, platform): f"pushq:guard:{app}:{platform}:{_fingerprint(settings)}"
            for app, providers in apps.items()
            for platform, settings in providers.platforms().items()
        }

    def record(self, app: str, platform: str, counts: Counts) -> None:
        """Add the answers of a batch."""
        args = [self._bucket(), counts.answered, counts.accepted, counts.guarded, KEPT_S + 2 * BUCKET_S]
        self._script(keys=[self._keys[app, platform]], args=args)

    def read(self, app: str, platform: str) -> Evidence:
        """What was recorded within the last 24 hours; older counts are removed."""
        key = self._keys[app, platform]
        found: Any = self._redis.hgetall(key)
        oldest = self._bucket() - KEPT_S // BUCKET_S
        sums = {"answered": 0, "accepted": 0, "guarded": 0}
        old = []
        for field, value in found.items():
            bucket, _, name = field.decode().partition(":")
            if name and int(bucket) < oldest:
                old.append(field)
            elif name:
                sums[name] += int(value)
        if old:
            self._redis.hdel(key, *old)
        return Evidence(Counts(**sums), int(found.get(b"streak", 0)))

    def _bucket(self) -> int:
        return int(self._clock()) // BUCKET_S


def _fingerprint(settings: ProviderSettings) -> str:
    parts = settings.model_dump(exclude=set(_IMMATERIAL))
    text = "\n".join(f"{name}={value}" for name, value in sorted(parts.items()))
    secret = settings.secret_file.read_bytes()
    return hashlib.sha256(text.encode() + b"\n" + secret).hexdigest()[:16]
