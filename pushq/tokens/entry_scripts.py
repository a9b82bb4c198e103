"""What changes entries of the hot cache within Redis, each in one step: Lua, and how it is called.

Why they do what they do is in :mod:`pushq.tokens.cache`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import redis

from pushq.tokens.buckets import Bucket, cache_key
from pushq.tokens.keyspace import EPOCH_KEY

#: Seconds. Longer than any reader takes from its look into PostgreSQL to its fill.
TOMBSTONE_TTL: Final = 60
#: Bytes of names before a list. Beyond it the entry is worth less than its place.
MAX_STRUCK: Final = 256

# KEYS: epoch, entries. ARGV: epoch as read, TTL in seconds, values.
_FILL: Final = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
local filled = 0
for i = 2, #KEYS do
  if redis.call('SET', KEYS[i], ARGV[i + 1], 'NX', 'EX', ARGV[2]) then filled = filled + 1 end
end
return filled
"""

# KEYS: entries. ARGV: a tombstone's TTL, bytes allowed for names, and for each entry whom to strike out. A list that is about to expire
# becomes a tombstone: once it is gone, nothing would keep an early reader from filling it. So does one with too many names before it, and
# then nobody's name is left: no registration may write over that.
_STRIKE: Final = """
for i = 1, #KEYS do
  local value = redis.call('GET', KEYS[i])
  local names = ARGV[i + 2] .. (value and value:match('^!?%x*([~%d%-]*)') or '')
  local start = value and value:find('[', 1, true)
  if value == '' or #names > tonumber(ARGV[2]) then
    redis.call('SET', KEYS[i], '', 'EX', ARGV[1])
  elseif start and redis.call('TTL', KEYS[i]) > tonumber(ARGV[1]) then
    redis.call('SET', KEYS[i], names .. value:sub(start), 'KEEPTTL')
  else
    redis.call('SET', KEYS[i], names, 'EX', ARGV[1])
  end
end
"""

# KEYS: entries. ARGV: a tombstone's TTL.
_BURY: Final = """
for i = 1, #KEYS do redis.call('SET', KEYS[i], '', 'EX', ARGV[1]) end
"""

# KEYS: entry. ARGV: nonce, a tombstone's TTL, the user. Returns who else is struck out, or nothing if the entry may not be written.
_BEGIN: Final = """
local value = redis.call('GET', KEYS[1])
if value == '' then return false end
local others = ''
for id in (value and value:match('^!?%x*([~%d%-]*)') or ''):gmatch('[%-%d]+') do
  if id ~= ARGV[3] then others = others .. '~' .. id end
end
redis.call('SET', KEYS[1], ARGV[1] .. others, 'EX', ARGV[2])
return others
"""

# KEYS: entry. ARGV: what must still be there, value, TTL in seconds.
_REPLACE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""


class EntryScripts:
    """The scripts, loaded into Redis when they are first called. Every call may raise ``redis.RedisError``."""

    def __init__(self, client: redis.Redis) -> None:
        self._fill = client.register_script(_FILL)
        self._strike = client.register_script(_STRIKE)
        self._bury = client.register_script(_BURY)
        self._begin = client.register_script(_BEGIN)
        self._replace = client.register_script(_REPLACE)

    def fill(self, entries: Sequence[tuple[str, bytes]], epoch: bytes, ttl: int) -> int:
        """Add (key, value) pairs where no entry is, if ``epoch`` still holds. Returns how many were added."""
        keys = [EPOCH_KEY, *[key for key, _ in entries]]
        return int(self._fill(keys=keys, args=[epoch, ttl, *[value for _, value in entries]]))

    def strike(self, platform: str, users: Sequence[tuple[Bucket, Sequence[int]]]) -> None:
        """Strike users out of their buckets' entries."""
        self._strike(
            keys=[cache_key(platform, bucket) for bucket, _ in users],
            args=[
                TOMBSTONE_TTL,
                MAX_STRUCK,
                *["".join([f"~{user_id}" for user_id in of_bucket]) for _, of_bucket in users],
            ],
        )

    def bury(self, keys: Sequence[str]) -> None:
        """Put tombstones in the place of entries."""
        self._bury(keys=keys, args=[TOMBSTONE_TTL])

    def begin(self, key: str, nonce: str, user_id: int) -> bytes | None:
        """Announce that an entry is being written anew for this user.

        Returns:
            Who else is struck out, to be kept before the list; None if the entry may not be written.
        """
        return cast("bytes | None", self._begin(keys=[key], args=[nonce, TOMBSTONE_TTL, user_id]))

    def replace(self, key: str, expected: bytes, value: bytes, ttl: int) -> bool:
        """Write an entry if it still is ``expected``. Returns whether it was."""
        return bool(self._replace(keys=[key], args=[expected, value, ttl]))
