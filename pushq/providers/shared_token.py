"""A token that is fetched with a secret, lives about an hour, and is shared by the whole fleet through Redis."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from typing import Any, Final

import orjson
import redis

from pushq.providers.client import CredentialRefused, CredentialUnavailable

log = logging.getLogger("pushq.credentials")

#: Renewed this long before it ends, so that a request under way does not outlive it.
MARGIN_S: Final = 8 * 60
#: One fetch may take TIMEOUT_S; who waits for the holder waits a little longer.
TIMEOUT_S: Final = 15.0
LOCK_S: Final = 30
#: After a failure nobody asks again for so long: each would wait out the same time-out in turn.
RETRY_S: Final = 10.0
#: A token that could not be renewed is used until this long before its end.
LAST_USE_S: Final = 30.0
#: A token that was fetched because its predecessor was refused, and is refused within this time itself, proves the set-up wrong.
PROOF_S: Final = 60.0

#: The token itself, and the time in seconds since 1970 at which it ends.
Fetched = tuple[str, float]


class SharedToken:
    """Hands out the current token as an ``authorization`` header.

    Args:
        slot: the key in Redis; two secrets must not share one.
        fetch: asks for a new one; raises CredentialRefused or CredentialUnavailable.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        name: str,
        slot: str,
        fetch: Callable[[], Fetched],
        client: redis.Redis,
        clock: Callable[[], float],
    ) -> None:
        self._name, self._slot, self._fetch = name, slot, fetch
        self._redis, self._clock = client, clock
        self._lock = threading.Lock()
        self._token = b""
        self._ends = 0.0
        self._retry_at = 0.0
        self._failure = ""
        #: When a token was fetched in the place of a refused one.
        self._replaced_at = float("-inf")

    def __repr__(self) -> str:
        return f"SharedToken({self._name})"

    def authorization(self) -> bytes:
        """The value of the ``authorization`` header.

        Raises:
            CredentialRefused, CredentialUnavailable
        """
        if self._usable():
            return self._token
        with self._lock:
            if not self._usable():
                try:
                    self._renew(stale=None)
                except CredentialUnavailable as exc:
                    self._retry_at, self._failure = self._clock() + RETRY_S, str(exc)
                    if self._clock() >= self._ends - LAST_USE_S:
                        raise
                    log.warning("token_not_renewed", extra={"token": self._name, "error": str(exc)})
        return self._token

    def ends_at(self) -> float:
        """UNIX seconds at which the token ends; nan while nobody needs it renewed. Past, or soon: its renewal fails."""
        due = max(self._ends - MARGIN_S, 0.0)
        return self._ends if self._clock() < due or self._retry_at > due else math.nan

    def refused(self, stale: bytes, complaint: str) -> None:
        """The provider refused ``stale``: get another token, unless somebody already has.

        Args:
            complaint: for an operator, should the new token be refused as well.

        Raises:
            CredentialRefused: ``stale`` was itself fetched a moment ago in the place of a refused one.
            CredentialUnavailable
        """
        with self._lock:
            if self._token != stale:
                return
            if self._clock() - self._replaced_at < PROOF_S:
                raise CredentialRefused(complaint)
            self._renew(stale=stale)
            self._replaced_at = self._clock()

    def _usable(self) -> bool:
        """Whether the token will do without a renewal, or with the one that has just failed."""
        now = self._clock()
        if now < self._ends - MARGIN_S:
            return True
        if now >= self._retry_at:
            return False
        if now < self._ends - LAST_USE_S:
            return True
        raise CredentialUnavailable(self._failure)

    def _renew(self, stale: bytes | None) -> None:
        try:
            self._token, self._ends = self._shared(stale) or self._fetch_for_all(stale)
        except redis.RedisError as exc:
            log.warning("token_fetched_alone", extra={"token": self._name, "error": type(exc).__name__})
            self._token, self._ends = _bearer(self._fetch())

    def _shared(self, stale: bytes | None) -> tuple[bytes, float] | None:
        raw: Any = self._redis.get(self._slot)
        if not raw:
            return None
        found = orjson.loads(raw)
        token, ends = _bearer((found["token"], float(found["ends"])))
        return None if token == stale or self._clock() >= ends - MARGIN_S else (token, ends)

    def _fetch_for_all(self, stale: bytes | None) -> tuple[bytes, float]:
        with self._redis.lock(f"{self._slot}:lock", timeout=LOCK_S, blocking_timeout=LOCK_S):
            shared = self._shared(stale)
            if shared is not None:
                return shared
            text, ends = self._fetch()
            document = orjson.dumps({"token": text, "ends": ends})
            self._redis.set(self._slot, document, ex=max(int(ends - self._clock()), 1))
            log.info("token_fetched", extra={"token": self._name})
            return _bearer((text, ends))


def _bearer(fetched: Fetched) -> tuple[bytes, float]:
    text, ends = fetched
    return b"Bearer " + text.encode(), ends
