"""Huawei's token endpoint for client credentials.

Huawei, "Obtaining an app-level access token": the errors by number, and 1,000 requests in five minutes.
"""

from __future__ import annotations

import secrets
from collections import deque
from urllib.parse import parse_qs

import orjson

from pushq.mock.credentials import FIRST_KEY_ID
from pushq.mock.exchange import Answer, AnswerSpec, Headers, Request, Session, StreamRule

TOKEN_PATH = "/oauth2/v3/token"  # noqa: S105
JSON_TYPE: Headers = (("content-type", "application/json"),)
MAX_ISSUED = 10_000
QUOTA, QUOTA_S = 1000, 300.0


class HmsOAuthRules:
    """Issues access tokens to one client and remembers them.

    Args:
        lifetime_s: ``expires_in`` of what is issued; Huawei's is always 3,600.
    """

    platform = "hms_oauth"
    streams = StreamRule(100, 100, 1, b"exceeded_max_concurrent_streams")

    def __init__(self, client_id: str, client_secret: str, lifetime_s: int = 3600) -> None:
        self._client_id, self._lifetime_s = client_id, lifetime_s
        self._secrets = {FIRST_KEY_ID: client_secret}
        self._good_until: dict[str, float] = {}
        self._asked: deque[float] = deque()

    def accept(self, key_id: str, client_secret: str) -> None:
        """This secret is good as well."""
        self._secrets[key_id] = client_secret

    def refuse(self, key_id: str) -> bool:
        """This secret is good no more. False: it never was."""
        return self._secrets.pop(key_id, None) is not None

    def good_until(self, access_token: str) -> float | None:
        """Until when (UNIX seconds) a token that was issued here is, or was, good; None when it never was one."""
        return self._good_until.get(access_token)

    def open_session(self) -> Session:
        return Session()

    def admit(self, request: Request, session: Session, now: float) -> Answer | None:
        if request.path != TOKEN_PATH:
            return Answer(404, (("content-type", "text/html"),), b"<html><body>404 Not Found</body></html>")
        if request.method != "POST":
            return Answer(405)
        while self._asked and now - self._asked[0] >= QUOTA_S:
            self._asked.popleft()
        if len(self._asked) >= QUOTA:
            return Answer(503, reason="flow_control")
        self._asked.append(now)
        return None

    def target(self, request: Request) -> bytes:
        return b""

    def consider(self, request: Request, now: float) -> Answer:
        # A plus that was not percent-encoded arrives as a space: the secret is then another one.
        form = {name: values[0] for name, values in parse_qs(request.body.decode("latin-1")).items()}
        if form.get("grant_type") != "client_credentials":
            return _refuse(1101, 20182, "invalid grant_type")
        if "client_id" not in form or "client_secret" not in form:
            return _refuse(1102, 20001, "missing required field")
        if form["client_id"] != self._client_id:
            return _refuse(1203, 12303, "app not found")
        given = form["client_secret"].encode()
        if not any(secrets.compare_digest(given, known.encode()) for known in self._secrets.values()):
            return _refuse(1101, 12304, "invalid client_secret")
        # Real ones have slashes, too, which Huawei's JSON escapes.
        token = f"DQEBA/{secrets.token_urlsafe(72)}+/="
        if len(self._good_until) >= MAX_ISSUED:
            del self._good_until[next(iter(self._good_until))]
        self._good_until[token] = now + self._lifetime_s
        body = {"access_token": token, "expires_in": self._lifetime_s, "token_type": "Bearer"}
        return Answer(200, JSON_TYPE, orjson.dumps(body).replace(b"/", b"\\/"))

    def word(self, spec: AnswerSpec, request: Request, now: float) -> Answer:
        if spec.status == 200:
            plain = self.consider(request, now)
        else:
            plain = Answer(spec.status, JSON_TYPE, b"", spec.reason)
        body = plain.body if spec.body is None else spec.body
        return Answer(plain.status, (*plain.headers, *spec.extra_headers()), body, plain.reason)

    def expire_credentials(self, now: float) -> None:
        for token in self._good_until:
            self._good_until[token] = min(self._good_until[token], now)


def _refuse(error: int, sub_error: int, description: str) -> Answer:
    document = {"error": error, "sub_error": sub_error, "error_description": description}
    return Answer(400, JSON_TYPE, orjson.dumps(document), f"{error}/{sub_error}")
