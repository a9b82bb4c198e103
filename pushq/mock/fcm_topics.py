"""The service that subscribes registrations to FCM's topics, as pure rules.

firebase-admin (messaging, ``TopicManagementResponse``): a thousand tokens at most, one result for each, ``{}`` or ``{"error": ...}``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import orjson

from pushq.mock.exchange import Answer, AnswerSpec, Headers, Request, Session, StreamRule
from pushq.mock.fcm import well_formed

PATH = re.compile(r"/iid/v1:(batchAdd|batchRemove)")
TOPIC = re.compile(r"/topics/([a-zA-Z0-9\-_.~%]+)")
MAX_TOKENS = 1000
# Topics of one app instance.
MAX_TOPICS = 2000
JSON_TYPE: Headers = (("content-type", "application/json; charset=UTF-8"),)


class TopicRules:
    """Subscriptions of one Firebase project.

    Args:
        issued: as for :class:`pushq.mock.fcm.FcmRules`.
        dead_prefix: tokens that start with it are not found.

    Attributes:
        subscribed: tokens by topic.
    """

    platform = "topics"
    streams = StreamRule(100, 100, 1, b"exceeded_max_concurrent_streams")

    def __init__(
        self,
        issued: Callable[[str, float], float | None],
        dead_prefix: bytes,
        expire: Callable[[float], None],
    ) -> None:
        self.subscribed: dict[str, set[str]] = {}
        self._count: dict[str, int] = {}
        self._issued, self._dead_prefix, self._expire = issued, dead_prefix.decode(), expire

    def open_session(self) -> Session:
        return Session()

    def admit(self, request: Request, session: Session, now: float) -> Answer | None:
        if not PATH.fullmatch(request.path):
            return _refuse(404, "NOT_FOUND")
        if request.method != "POST":
            return _refuse(405, "METHOD_NOT_ALLOWED")
        scheme, _, text = (request.value("authorization") or "").partition(" ")
        good_until = self._issued(text, now) if scheme.lower() == "bearer" else None
        # Without this header the service takes the token for a legacy server key.
        if good_until is None or request.value("access_token_auth") != "true":
            return _refuse(401, "UNAUTHENTICATED")
        session.credential_accepted, session.good_until = True, good_until
        return None

    def target(self, request: Request) -> bytes:
        return b""

    def consider(self, request: Request, now: float) -> Answer:
        path = PATH.fullmatch(request.path)
        assert path is not None  # admit saw to it
        try:
            document = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            return _refuse(400, "INVALID_ARGUMENT")
        topic = TOPIC.fullmatch(str(document.get("to", "")))
        tokens = document.get("registration_tokens")
        if topic is None or not isinstance(tokens, list) or not all(isinstance(each, str) for each in tokens):
            return _refuse(400, "INVALID_ARGUMENT")
        if not tokens:
            return _refuse(400, "MISSING_REGISTRATION_TOKENS")
        if len(tokens) > MAX_TOKENS:
            return _refuse(400, "TOO_MANY_REGISTRATION_TOKENS")
        add = path[1] == "batchAdd"
        results = [
            {} if (error := self.change(topic[1], each, add=add)) is None else {"error": error}
            for each in tokens
        ]
        return Answer(200, JSON_TYPE, orjson.dumps({"results": results}))

    def word(self, spec: AnswerSpec, request: Request, now: float) -> Answer:
        plain = (
            self.consider(request, now)
            if spec.status == 200
            else _refuse(spec.status, spec.reason or "INTERNAL")
        )
        body = plain.body if spec.body is None else spec.body
        return Answer(plain.status, (*plain.headers, *spec.extra_headers()), body, plain.reason)

    def expire_credentials(self, now: float) -> None:
        self._expire(now)

    def change(self, topic: str, token: str, *, add: bool) -> str | None:
        """Subscribe the token, or end that; what is in the way, or None. Repeating it is fine."""
        if not well_formed(token.encode("utf-8", "replace")):
            return "INVALID_ARGUMENT"
        if token.startswith(self._dead_prefix):
            return "NOT_FOUND"
        members = self.subscribed.setdefault(topic, set())
        if add and token not in members:
            if self._count.get(token, 0) >= MAX_TOPICS:
                return "TOO_MANY_TOPICS"
            members.add(token)
            self._count[token] = self._count.get(token, 0) + 1
        elif not add and token in members:
            members.discard(token)
            self._count[token] -= 1
        return None


def _refuse(status: int, error: str) -> Answer:
    return Answer(status, JSON_TYPE, orjson.dumps({"error": error}), error)
