"""Google's token endpoint for service accounts: a signed JWT in, an access token out.

https://developers.google.com/identity/protocols/oauth2/service-account
"""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import parse_qs

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from pushq.mock.credentials import FIRST_KEY_ID
from pushq.mock.exchange import Answer, AnswerSpec, Headers, Request, Session, StreamRule

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SCOPES = frozenset(
    {
        "https://www.googleapis.com/auth/firebase.messaging",
        "https://www.googleapis.com/auth/cloud-platform",
    }
)
TOKEN_PATH = "/token"  # noqa: S105
MAX_ASSERTION_LIFE_S = 3600
CLOCK_SKEW_S = 300
# An hour of a fleet's refreshes is far below this; beyond it the oldest are forgotten.
MAX_ISSUED = 10_000
JSON_TYPE: Headers = (("content-type", "application/json; charset=utf-8"),)
# google-auth (2.62, oauth2/service_account.py) writes this into every assertion, whatever the token_uri of the account file.
GOOGLE_AUDIENCE = "https://oauth2.googleapis.com/token"


class OAuthRules:
    """Issues access tokens to one service account, for whichever of its keys, and remembers them.

    Args:
        client_email: the account that must sign (``iss``).
        audience: the endpoint's own URL (``aud``), set when the port is known.
        lifetime_s: ``expires_in`` of what is issued.
    """

    platform = "oauth"
    streams = StreamRule(100, 100, 1, b"exceeded_max_concurrent_streams")

    def __init__(self, client_email: str, public_key: RSAPublicKey, lifetime_s: int = 3599) -> None:
        self.audience = ""
        self._client_email = client_email
        self._keys = {FIRST_KEY_ID: public_key}
        self._lifetime_s = lifetime_s
        self._good_until: dict[str, float] = {}

    def good_until(self, access_token: str, now: float) -> float | None:
        """Until when (UNIX seconds) a token that was issued here is good; None when it is not good now."""
        until = self._good_until.get(access_token)
        return until if until is not None and now < until else None

    def accept(self, key_id: str, public_key: RSAPublicKey) -> None:
        """What this key signs is good as well."""
        self._keys[key_id] = public_key

    def refuse(self, key_id: str) -> bool:
        """What this key signs is good no more. False: it never was."""
        return self._keys.pop(key_id, None) is not None

    def open_session(self) -> Session:
        return Session()

    def admit(self, request: Request, session: Session, now: float) -> Answer | None:
        if request.path != TOKEN_PATH:
            return Answer(404, (("content-type", "text/html"),), b"<title>Error 404 (Not Found)!!1</title>")
        if request.method != "POST":
            return _refuse(405, "invalid_request", "Use POST.")
        return None

    def target(self, request: Request) -> bytes:
        return b""

    def consider(self, request: Request, now: float) -> Answer:
        form = parse_qs(request.body.decode("latin-1"))
        if form.get("grant_type") != [GRANT_TYPE]:
            return _refuse(400, "unsupported_grant_type", "Invalid grant_type")
        assertion = form.get("assertion", [""])[0]
        claims = self._claims(assertion)
        if claims is None:
            return _refuse(400, "invalid_grant", "Invalid JWT Signature.")
        objection = self._objection(claims, now)
        if objection is not None:
            return objection
        token = f"ya29.{secrets.token_urlsafe(96)}"
        if len(self._good_until) >= MAX_ISSUED:
            del self._good_until[next(iter(self._good_until))]
        self._good_until[token] = now + self._lifetime_s
        body = {"access_token": token, "expires_in": self._lifetime_s, "token_type": "Bearer"}
        return Answer(200, JSON_TYPE, orjson.dumps(body))

    def _claims(self, assertion: str) -> dict[str, Any] | None:
        """What the assertion says, if one of the account's keys has signed it. Its ``kid`` is a hint that clients may leave out."""
        for public_key in self._keys.values():
            try:
                claims: dict[str, Any] = jwt.decode(
                    assertion,
                    public_key,
                    algorithms=["RS256"],
                    options={
                        "verify_iat": False,
                        "verify_exp": False,
                        "verify_nbf": False,
                        "verify_aud": False,
                    },
                )
            except jwt.PyJWTError:
                continue
            return claims
        return None

    def word(self, spec: AnswerSpec, request: Request, now: float) -> Answer:
        if spec.status == 200:
            plain = self.consider(request, now)
        else:
            plain = _refuse(spec.status, spec.reason or "server_error", "The mock was told to say so.")
        body = plain.body if spec.body is None else spec.body
        return Answer(plain.status, (*plain.headers, *spec.extra_headers()), body, plain.reason)

    def expire_credentials(self, now: float) -> None:
        self._good_until.clear()

    def _objection(self, claims: dict[str, Any], now: float) -> Answer | None:
        if claims.get("iss") != self._client_email:
            return _refuse(400, "invalid_grant", "Invalid grant: account not found")
        if claims.get("aud") not in {self.audience, GOOGLE_AUDIENCE}:
            return _refuse(
                400,
                "invalid_grant",
                "Invalid JWT: Failed audience check. The right audience is " + self.audience,
            )
        issued, expires = claims.get("iat"), claims.get("exp")
        if not _timely(issued, expires, now):
            text = (
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
                "Check your iat and exp values in the JWT claim."
            )
            return _refuse(400, "invalid_grant", text)
        if not SCOPES & set(str(claims.get("scope", "")).split()):
            return _refuse(400, "invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        return None


def _timely(issued: object, expires: object, now: float) -> bool:
    if not isinstance(issued, int | float) or not isinstance(expires, int | float):
        return False
    return expires - issued <= MAX_ASSERTION_LIFE_S and issued - CLOCK_SKEW_S <= now < expires


def _refuse(status: int, error: str, description: str) -> Answer:
    body = orjson.dumps({"error": error, "error_description": description})
    return Answer(status, JSON_TYPE, body, error)
