"""The journal: outcomes of a running attempt, in Redis, one string per batch.

The string is the lease's token (16 bytes), the run id of the Redis process that began it (40 characters), the
holder's generation (16 hexadecimal digits), and then one byte per recipient. Every write is one script that fails unless the token is still the holder's, so a sleeper finds itself fenced. Losing
Redis loses no send: the guarantee says what follows then.

The run id tells a journal that Redis has held all along from one that came back with an old file or a replica that lagged: in that
one the latest claims may be missing, so it is as good as lost (Redis documentation, "INFO": run_id identifies the server process).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import redis

from pushq.ledger.batches import Fenced, Lease

#: A journal outlives its lease by far; what nobody came back for in three days is settled by the row alone.
TTL_S: Final = 3 * 86_400
_TOKEN: Final = 16
_RUN: Final = _TOKEN + 40
_HEADER: Final = _RUN + 16

# Asked inside of the script: a fail-over between two commands would give a journal the run id of another process.
_RUN_ID: Final = "string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')"
# KEYS[1] journal; ARGV: what was read ('' = must not exist), own token, outcomes, ttl, own generation
# The whole of it is compared: its holder, if alive, may have claimed after it was read. Own: this was done, its answer was lost.
_OPEN: Final = f"""
local found = redis.call('GET', KEYS[1]) or ''
if string.sub(found, 1, 16) == ARGV[2] then return 1 end
if found ~= ARGV[1] then return 0 end
local generation = tonumber(string.sub(found, {_RUN + 1}, {_HEADER}), 16)
if generation and generation > tonumber(ARGV[5], 16) then return 0 end
redis.call('SET', KEYS[1], ARGV[2] .. {_RUN_ID} .. ARGV[5] .. ARGV[3], 'EX', ARGV[4])
return 1
"""
_READ: Final = f"return {{redis.call('GET', KEYS[1]), {_RUN_ID}}}"
# KEYS[1] journal; ARGV: token, then pairs of offset and bytes
_WRITE: Final = """
if redis.call('GETRANGE', KEYS[1], 0, 15) ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 2 do redis.call('SETRANGE', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
"""
_CLOSE: Final = """
for i = 1, #KEYS do
  if redis.call('GETRANGE', KEYS[i], 0, 15) == ARGV[i] then redis.call('DEL', KEYS[i]) end
end
"""
# KEYS journals; ARGV: ttl, then own token, own generation and outcomes of each. 1 for each that is begun, 0 where there is one.
_BEGIN: Final = f"""
local run, begun = {_RUN_ID}, {{}}
for i = 1, #KEYS do
  local at = 3 * i - 1
  local found = redis.call('GETRANGE', KEYS[i], 0, 15)
  begun[i] = (found == '' or found == ARGV[at]) and 1 or 0
  if found == '' then redis.call('SET', KEYS[i], ARGV[at] .. run .. ARGV[at + 1] .. ARGV[at + 2], 'EX', ARGV[1]) end
end
return begun
"""


@dataclass(frozen=True)
class Found:
    """A journal as it was found.

    Attributes:
        token: of the lease whose holder wrote it.
        whole: whether nothing that was written can be missing.
        raw: all of it, for :meth:`Journal.open`.
    """

    token: bytes
    outcomes: bytes
    whole: bool
    raw: bytes = field(default=b"", compare=False, repr=False)


class Journal:
    """Writes the journals of this process's batches. Safe for many greenlets."""

    def __init__(self, client: redis.Redis) -> None:
        self._open = client.register_script(_OPEN)
        self._read = client.register_script(_READ)
        self._write = client.register_script(_WRITE)
        self._close = client.register_script(_CLOSE)
        self._begin = client.register_script(_BEGIN)

    def read(self, send_id: uuid.UUID, batch_no: int) -> Found | None:
        """The journal of a batch, or None when there is none."""
        value, run_id = self._read(keys=[_key(send_id, batch_no)])
        if not value or len(value) <= _HEADER:
            return None
        return Found(value[:_TOKEN], value[_HEADER:], value[_TOKEN:_RUN] == run_id, value)

    def open(self, lease: Lease, outcomes: bytes, *, replaces: bytes) -> None:
        """Begin a journal, in the place of that of an earlier holder (``replaces``: ``raw`` as it was read, empty for none).

        Raises:
            Fenced: the journal in place is another one, was written to since, or is of a later holder: this one slept.
            redis.RedisError: Redis does not answer.
        """
        if not self._open(
            keys=[_key(*lease.key)],
            args=[replaces, lease.token.bytes, outcomes, TTL_S, f"{lease.generation:016x}"],
        ):
            raise Fenced(
                f"the journal of batch {lease.batch_no} of send {lease.send_id} belongs to another holder"
            )

    def begin(self, leases: Sequence[Lease], outcomes: Sequence[bytes]) -> list[bool]:
        """Begin the journals of batches that never had a holder. False for those that have a journal all the same.

        Raises:
            redis.RedisError: Redis does not answer.
        """
        args: list[bytes | str | int] = [TTL_S]
        for lease, values in zip(leases, outcomes, strict=True):
            args += [lease.token.bytes, f"{lease.generation:016x}", values]
        return [bool(one) for one in self._begin(keys=[_key(*lease.key) for lease in leases], args=args)]

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

    def close(self, *leases: Lease) -> None:
        """Remove the journals of settled attempts; another holder's is left alone."""
        self._close(keys=[_key(*lease.key) for lease in leases], args=[lease.token.bytes for lease in leases])


def _key(send_id: uuid.UUID, batch_no: int) -> str:
    return f"pushq:journal:{send_id}:{batch_no}"
