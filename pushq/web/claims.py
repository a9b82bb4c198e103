"""Calls that this door has taken and the ledger may not have yet: what tells a repeated idempotency key from a reused one at once.

Each call is noted in Redis for a while, before it is published: whose key it is, and of which app it is. The ledger knows the older ones.
It has the last word: with Redis or PostgreSQL away a call is taken without asking there, and the ledger keeps the first of two.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

import orjson
import redis

from pushq.database import Database
from pushq.errors import ServiceUnavailable
from pushq.ledger.sends import fingerprints
from pushq.submission import Submission

log = logging.getLogger("pushq.web")

_PREFIX: Final = "pushq:web:call:"
#: Seconds: of calls with a key, for the ledger to have them in the end; of the others, for who asks for the send at once.
KEYED_S: Final = 3600
UNKEYED_S: Final = 120


class Claim(Enum):
    """What a call is: new; a repetition of one that was taken; or another one under the same key."""

    NEW = auto()
    REPEATED = auto()
    CONFLICT = auto()


@dataclass(frozen=True)
class Noted:
    """A call that was taken a moment ago.

    Attributes:
        app: None where it was left to the only app there is.
    """

    send_id: uuid.UUID
    kind: str
    app: str | None


class Claims:
    """Notes of calls. Every method blocks."""

    def __init__(self, client: redis.Redis, database: Database) -> None:
        self._redis, self._database = client, database

    def claim(self, calls: Sequence[tuple[uuid.UUID, Submission]]) -> list[Claim]:
        """Note calls, and say what each is. One round trip, and one query where there are keys."""
        prints = [call.fingerprint() if call.idempotency_key is not None else "" for _, call in calls]
        found: list[Any] = [True, None] * len(calls)
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for (send_id, call), known in zip(calls, prints, strict=True):
                    note = orjson.dumps([known, call.kind, call.app])
                    pipeline.set(_key(send_id), note, nx=True, ex=KEYED_S if known else UNKEYED_S)
                    pipeline.get(_key(send_id))
                found = pipeline.execute()
        except redis.RedisError as error:
            log.warning("claims_without_redis", extra={"error": type(error).__name__})
        claims = [
            self._compared(own, note, known)
            for own, note, known in zip(found[::2], found[1::2], prints, strict=True)
        ]
        ask = [
            n
            for n, (claim, known) in enumerate(zip(claims, prints, strict=True))
            if known and claim is Claim.NEW
        ]
        try:
            ledger = fingerprints(self._database, [calls[n][0] for n in ask]) if ask else {}
        except ServiceUnavailable as error:
            log.warning("claims_without_ledger", extra={"error": error.detail})
            ledger = {}
        for n in ask:
            first = ledger.get(calls[n][0])
            if first is not None:
                claims[n] = Claim.REPEATED if first == prints[n] else Claim.CONFLICT
                if claims[n] is Claim.CONFLICT:
                    self.release([calls[n][0]])
        return claims

    @staticmethod
    def _compared(own: object, note: bytes | None, known: str) -> Claim:
        if own or note is None:
            return Claim.NEW
        return Claim.REPEATED if orjson.loads(note)[0] == known else Claim.CONFLICT

    def release(self, send_ids: Sequence[uuid.UUID]) -> None:
        """Forget calls that were not published after all."""
        try:
            self._redis.delete(*map(_key, send_ids))
        except redis.RedisError as error:
            log.warning("claims_without_redis", extra={"error": type(error).__name__})

    def noted(self, send_id: uuid.UUID) -> Noted | None:
        """A call that was taken and that the ledger does not have yet; None where nobody knows of one."""
        try:
            note = self._redis.get(_key(send_id))
        except redis.RedisError:
            return None
        if not isinstance(note, bytes):
            return None
        _, kind, app = orjson.loads(note)
        return Noted(send_id, kind, app)


def _key(send_id: uuid.UUID) -> str:
    return f"{_PREFIX}{send_id}"
