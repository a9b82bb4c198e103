"""What FCM HTTP v1 accepts and what it says, as pure rules.

https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages/send
https://firebase.google.com/docs/cloud-messaging/send/v1-api

Order: access token, project, JSON, schema, size, then the recipient.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote

import orjson

from pushq.mock.exchange import Answer, AnswerSpec, Headers, Request, Session, StreamRule
from pushq.mock.fcm_errors import MESSAGES, SHAPES, error_body, error_code, violation
from pushq.mock.fcm_schema import objections

# A Firebase installation id: 22 characters, of which the first is one of four (firebase-js-sdk, installations).
FID = re.compile(rb"[cdef][A-Za-z0-9_-]{21}")
SEND_PATH = re.compile(r"/v1/projects/([^/]+)/messages:send")
# How firebase-admin subscribes since 7.7 (messaging, ``_make_topic_management_request_v1``); older ones use iid.googleapis.com.
SUBSCRIPTION_PATH = re.compile(
    r"/v1/projects/([^/?]+)/registrations/([^/?]+)/topicSubscriptions(?:\?topic_name=([^&]+)|/([^?]+)(?:\?.*)?)"
)
TOKEN = re.compile(rb"[A-Za-z0-9_:-]{20,}")
MAX_PAYLOAD_BYTES = 4096
TARGETS = ("token", "topic", "condition", "fid")
#: Texts shorter than this may stand in a body for something else than the token.
MIN_CUT: Final = 32
MAX_PASSED: Final = 256
RESERVED_KEYS = frozenset({"from", "message_type"})
RESERVED_PREFIXES = ("google.", "gcm.notification.")
JSON_TYPE: Headers = (("content-type", "application/json; charset=UTF-8"),)
HTML_TYPE: Headers = (("content-type", "text/html; charset=UTF-8"),)


class _Objection(Exception):
    """What is wrong with a message; raised inside this module only, so that checks read from top to bottom."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.reason)
        self.answer = answer


def well_formed(token: bytes) -> bool:
    return TOKEN.fullmatch(token) is not None


class FcmRules:
    """One Firebase project.

    Args:
        issued: tells whether an access token (text after ``Bearer``) is good at a time, and until when (UNIX seconds);
            None when it is not.
        dead_prefix: tokens that start with it are answered 404 UNREGISTERED.
        streams: MAX_CONCURRENT_STREAMS of a connection.
    """

    platform = "fcm"
    #: Subscribes a token to a topic, or ends that; tells what is in the way.
    change_subscription: Callable[..., str | None] = staticmethod(lambda topic, token, *, add: None)

    def __init__(
        self,
        project_id: str,
        issued: Callable[[str, float], float | None],
        dead_prefix: bytes,
        streams: int,
        expire: Callable[[float], None],
    ) -> None:
        self.project_id = project_id
        self.dead_prefix = dead_prefix
        self.streams = StreamRule(streams, streams, 1, b"exceeded_max_concurrent_streams")
        self._issued = issued
        self._expire = expire
        self._read: tuple[bytes, dict[str, Any]] = b"", {}
        #: Bodies without their token, and with what length, that nothing was wrong with.
        self._passed: set[tuple[int, bytes]] = set()

    def open_session(self) -> Session:
        return Session()

    def admit(self, request: Request, session: Session, now: float) -> Answer | None:
        path, methods = SEND_PATH.fullmatch(request.path), ("POST",)
        if path is None:
            path = SUBSCRIPTION_PATH.fullmatch(request.path)
            methods = ("POST",) if path is not None and path[3] else ("DELETE",)
        if path is None or request.method not in methods:
            return Answer(404, HTML_TYPE, b"<!DOCTYPE html>\n<title>Error 404 (Not Found)!!1</title>\n")
        scheme, _, text = (request.value("authorization") or "").partition(" ")
        good_until = self._issued(text, now) if scheme.lower() == "bearer" else None
        if good_until is None:
            message = (
                "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or "
                "other valid authentication credential."
            )
            challenge: Headers = (("www-authenticate", 'Bearer realm="https://accounts.google.com/"'),)
            return Answer(401, (*JSON_TYPE, *challenge), error_body(401, message), "UNAUTHENTICATED")
        session.credential_accepted = True
        session.good_until = good_until
        if path[1] != self.project_id:
            message = f"Permission 'cloudmessaging.messages.create' denied on resource '//{path[1]}'."
            return Answer(403, JSON_TYPE, error_body(403, message), "PERMISSION_DENIED")
        return None

    def target(self, request: Request) -> bytes:
        subscription = SUBSCRIPTION_PATH.fullmatch(request.path)
        if subscription is not None:
            return unquote(subscription[2]).encode()
        try:
            kind, value = _target(_message(self._document(request)))
        except _Objection:
            return b""
        return value.encode("utf-8", "replace") if kind == "token" else f"{kind}:{value}".encode()

    def consider(self, request: Request, now: float) -> Answer:
        subscription = SUBSCRIPTION_PATH.fullmatch(request.path)
        if subscription is not None:
            return self._subscribe(subscription, add=request.method == "POST")
        try:
            document = self._document(request)
            message = _message(document)
            self._check(request.body, message)
            kind, value = _target(message)
        except _Objection as objection:
            return objection.answer
        token = value.encode("utf-8", "replace")
        if kind == "token" and not well_formed(token):
            return _shape("b")
        if kind == "fid" and not FID.fullmatch(token) and not token.startswith(self.dead_prefix):
            details = error_code("INVALID_ARGUMENT"), violation("message.fid", "Invalid installation id")
            body = error_body(400, MESSAGES["INVALID_ARGUMENT"], *details)
            return Answer(400, JSON_TYPE, body, "INVALID_ARGUMENT")
        if kind in {"token", "fid"} and token.startswith(self.dead_prefix):
            return _shape("f")
        only_checked = document.get("validate_only", document.get("validateOnly")) is True
        number = "fake_message_id" if only_checked else f"0:{secrets.token_hex(8)}%{secrets.token_hex(8)}"
        body = b'{\n  "name": "projects/%b/messages/%b"\n}\n' % (self.project_id.encode(), number.encode())
        return Answer(200, JSON_TYPE, body, rings=not only_checked)

    def word(self, spec: AnswerSpec, request: Request, now: float) -> Answer:
        if spec.shape is not None:
            plain = _shape(spec.shape)
        elif spec.status == 200:
            plain = self.consider(request, now)
        else:
            details = () if spec.reason is None else (error_code(spec.reason),)
            message = MESSAGES.get(spec.reason or "", "An error occurred.")
            plain = Answer(spec.status, JSON_TYPE, error_body(spec.status, message, *details), spec.reason)
        body = plain.body if spec.body is None else spec.body
        return Answer(
            plain.status,
            (*plain.headers, *spec.extra_headers()),
            body,
            plain.reason or spec.reason,
            plain.rings,
        )

    def expire_credentials(self, now: float) -> None:
        self._expire(now)

    def _document(self, request: Request) -> dict[str, Any]:
        body, document = self._read
        if body is not request.body:
            document = _document(request)
            self._read = request.body, document
        return document

    def _check(self, body: bytes, message: Mapping[str, Any]) -> None:
        """Raise what is wrong with the message; what differs from another in its token only is as good as that one."""
        token = message.get("token")
        key = None
        if isinstance(token, str) and len(token) >= MIN_CUT:
            key = len(body), body.replace(token.encode("utf-8", "replace"), b"")
            if key in self._passed:
                return
        _check(message)
        if key is not None:
            if len(self._passed) >= MAX_PASSED:
                self._passed.clear()
            self._passed.add(key)

    def _subscribe(self, path: re.Match[str], *, add: bool) -> Answer:
        token, topic = unquote(path[2]), unquote(path[3] or path[4])
        error = self.change_subscription(topic.removeprefix("/topics/"), token, add=add)
        if error == "NOT_FOUND":
            return _shape("f")
        if error is not None:
            status = 429 if error == "TOO_MANY_TOPICS" else 400
            return Answer(status, JSON_TYPE, error_body(status, error), error)
        name = f"projects/{path[1]}/registrations/{path[2]}/topicSubscriptions/{topic}"
        return Answer(200, JSON_TYPE, orjson.dumps({"name": name} if add else {}))


def _shape(letter: str) -> Answer:
    status, reason, body = SHAPES[letter]
    return Answer(status, HTML_TYPE if letter == "k" else JSON_TYPE, body, reason)


def _bad_field(field: str, description: str, *, known_code: bool = False) -> _Objection:
    details = [violation(field, description)]
    if known_code:
        details.append(error_code("INVALID_ARGUMENT"))
    reason = "INVALID_ARGUMENT" if known_code else "BadRequest"
    return _Objection(Answer(400, JSON_TYPE, error_body(400, description, *details), reason))


def _document(request: Request) -> dict[str, Any]:
    try:
        document = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        text = "Invalid JSON payload received."
        raise _Objection(Answer(400, JSON_TYPE, error_body(400, text), "INVALID_ARGUMENT"))
    for field in document:
        if field not in {"message", "validate_only", "validateOnly"}:
            raise _unknown(field, "")
    return document


def _message(document: Mapping[str, Any]) -> dict[str, Any]:
    message = document.get("message")
    if not isinstance(message, dict):
        raise _Objection(_shape("d"))
    return message


def _unknown(field: str, place: str) -> _Objection:
    where = f" at '{place}'" if place else ""
    description = f'Invalid JSON payload received. Unknown name "{field}"{where}: Cannot find field.'
    return _bad_field(place, description)


def _target(message: Mapping[str, Any]) -> tuple[str, str]:
    """The one recipient as (kind, value)."""
    given = [(kind, message[kind]) for kind in TARGETS if message.get(kind)]
    if not given:
        raise _Objection(_shape("d"))
    if len(given) > 1:
        description = f"Invalid value at 'message' (oneof), oneof field 'target' is already set. Cannot set '{given[1][0]}'"
        raise _bad_field("message", description)
    kind, value = given[0]
    if not isinstance(value, str):
        raise _bad_field(f"message.{kind}", f"Invalid value at 'message.{kind}' (TYPE_STRING), {value}")
    return kind, value


def _check(message: Mapping[str, Any]) -> None:
    for objection in objections(message):
        raise _bad_field(objection.field, objection.description, known_code=objection.with_code)
    data = message.get("data") or {}
    for key in data:
        if key in RESERVED_KEYS or key.startswith(RESERVED_PREFIXES):
            raise _bad_field("message.data", f"Invalid data payload key: {key}", known_code=True)
    notification = message.get("notification") or {}
    size = sum(
        len(key.encode()) + len(value.encode())
        for part in (data, notification)
        for key, value in part.items()
    )
    if size > MAX_PAYLOAD_BYTES:
        raise _Objection(_shape("e"))
