"""The APNs provider token (JWT): what it must be made of.

https://developer.apple.com/documentation/usernotifications/establishing-a-token-based-connection-to-apns
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

MAX_AGE_S = 3600
# One token may replace another on a connection once in this time.
UPDATE_INTERVAL_S = 1200
CLOCK_SKEW_S = 300
# A fleet uses a handful of tokens an hour; the bound only keeps a client that mints one per request from filling memory.
MAX_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class ProviderToken:
    """A token whose signature, key id and team are right. ``issued_at``: UNIX seconds."""

    text: str
    issued_at: float


class ProviderTokenVerifier:
    """Checks tokens against the keys of one team. A signature is verified once per distinct token."""

    def __init__(self, team_id: str, key_id: str, public_key: EllipticCurvePublicKey) -> None:
        self._team_id = team_id
        self._keys = {key_id: public_key}
        self._known: dict[str, ProviderToken | None] = {}

    def accept(self, key_id: str, public_key: EllipticCurvePublicKey) -> None:
        """Tokens signed by this key are good as well."""
        self._keys[key_id] = public_key
        self._known.clear()

    def refuse(self, key_id: str) -> bool:
        """Tokens signed by this key are good no more. False: they never were."""
        self._known.clear()
        return self._keys.pop(key_id, None) is not None

    def verify(self, text: str) -> ProviderToken | None:
        """The token, or None when it is not one of ours. Its age is not looked at."""
        if text not in self._known:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[text] = self._verify(text)
        return self._known[text]

    def _verify(self, text: str) -> ProviderToken | None:
        try:
            header = jwt.get_unverified_header(text)
            public_key = self._keys.get(str(header.get("kid")))
            if public_key is None:
                return None
            # Age and "not yet valid" are the caller's: it has the clock.
            claims: dict[str, Any] = jwt.decode(
                text,
                public_key,
                algorithms=["ES256"],
                options={"verify_iat": False, "verify_exp": False, "verify_nbf": False, "verify_aud": False},
            )
        except jwt.PyJWTError:
            return None
        issued_at = claims.get("iat")
        if claims.get("iss") != self._team_id:
            return None
        if isinstance(issued_at, bool) or not isinstance(issued_at, int | float):
            return None
        return ProviderToken(text, float(issued_at))
