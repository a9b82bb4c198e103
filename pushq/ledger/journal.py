"""The journal: outcomes of a running attempt, in Redis, one string per batch.

The string is the lease's token (16 bytes) and then one byte per recipient. Every write is one script that fails unless the token
is still the holder's, so a sleeper finds itself fenced. Losing Redis loses no send: the guarantee says what follows then.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

import redis

from pushq.ledger.batches import Fenced, Lease

#: A journal outlives its lease by far; what nobody came back for in three days is settled by the row alone.
TTL_S: Final = 3 * 86_400
_HEADER: Final = 16

# KEYS[1] journal; ARGV: expected token ('' = must not exist), new content, ttl
_OPEN: Final = """
local found = redis.call('GETRANGE', KEYS[1], 0, 15)
if found ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""
# KEYS[1] journal; ARGV: token, then pairs of offset and bytes
_WRITE: Final = """
if redis.call('GETRANGE', KEYS[1], 0, 15) ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 2 do redis.call('SETRANGE', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
"""
_CLOSE: Final = """
if redis.call('GETRANGE', KEYS[1], 0, 15) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""


class Journal:
    """Writes the journals of this process's batches. Safe for many greenlets."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._open = client.register_script(_OPEN)
        self._write = client.register_script(_WRITE)
        self._close = client.register_script(_CLOSE)

    def read(self, send_id: uuid.UUID, batch_no: int) -> tuple[bytes, bytes] | None:
        """The token and the outcomes of a journal, or None when there is none."""
        value: Any = self._redis.get(_key(send_id, batch_no))
        return (value[:_HEADER], value[_HEADER:]) if value and len(value) > _HEADER else None

    def open(self, lease: Lease, outcomes: bytes, *, replaces: bytes) -> None:
        """Begin a journal, in the place of that of an earlier holder (``replaces``: its token, empty for none).

        Raises:
            Fenced: the journal in place is another one.
            redis.RedisError: Redis does not answer.
        """
        content = lease.token.bytes + outcomes
        if not self._open(keys=[_key(*lease.key)], args=[replaces, content, TTL_S]):
            raise Fenced(
                f"the journal of batch {lease.batch_no} of send {lease.send_id} belongs to another holder"
            )

    def write(self, lease: Lease, spans: list[tuple[int, bytes]]) -> None:
        """Write outcomes by position.

        Raises:
            Fenced: the batch has another holder, or the journal is gone.
        """
        args: list[bytes | int] = [lease.token.bytes]
        for first, values in spans:
            args += [_HEADER + first, values]
        if not self._write(keys=[_key(*lease.key)], args=args):
            raise Fenced(
                f"the journal of batch {lease.batch_no} of send {lease.send_id} is gone or has another holder"
            )

    def close(self, lease: Lease) -> None:
        """Remove the journal of a settled attempt."""
        self._close(keys=[_key(*lease.key)], args=[lease.token.bytes])


def _key(send_id: uuid.UUID, batch_no: int) -> str:
    return f"pushq:journal:{send_id}:{batch_no}"
