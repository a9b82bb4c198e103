"""What HMS Push Kit accepts and what it says, as pure rules. One request names up to 1,000 devices.

Huawei, "Push Kit REST API: downlink message" (v1, v2) and "scenario-based messages" (v3). Which HTTP status goes with which code Huawei
does not say; here it is 200 for what speaks about tokens, 401 for credentials, 400 for the rest.

Order: path, credential, JSON, targets, size, schema, then the recipients.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from pushq.mock.exchange import Answer, AnswerSpec, Headers, Request, Session, StreamRule

PATH = re.compile(r"/(v[123])/([0-9]+)/messages:send")
TOKEN = re.compile(rb"[A-Za-z0-9_:.+/=~\-]{20,}")
TTL = re.compile(r"[0-9]+s")
MAX_TTL_S = 15 * 86_400
MAX_PAYLOAD_BYTES = 4096
MAX_TOKENS = 1000
MAX_TEST_TOKENS = 10
#: A thousand of the longest tokens, and room.
MAX_BODY_BYTES = 8 << 20
#: The audience of a service account's token, whatever the host it is sent to.
AUDIENCE = "https://oauth-login.cloud.huawei.com/oauth2/v3/token"
MAX_JWT_LIFE_S = 86_400
CLOCK_SKEW_S = 300
PUSH_TYPES = frozenset({"0", "1", "2", "6", "7", "10"})
FORM = "1"
JSON_TYPE: Headers = (("content-type", "application/json;charset=UTF-8"),)
#: Verified tokens that are remembered.
MAX_REMEMBERED = 1024

SUCCESS, PARTIAL = "80000000", "80100000"
PARAMETERS, STRUCTURE, EXPIRED_MESSAGE, COLLAPSE_KEY = "80100001", "80100003", "80100004", "80100013"
AUTHENTICATION, TOKEN_EXPIRED, JWT_EXPIRED = "80200001", "80200003", "80200005"
NO_PERMISSION, ALL_INVALID, TOO_LONG, TOKEN_COUNT = "80300002", "80300007", "80300008", "80300010"
TEST_TOKEN_COUNT, JWT_TOO_LONG = "80300030", "80300036"

MESSAGES: Mapping[str, str] = {
    SUCCESS: "Success",
    PARAMETERS: "Check Parameter Error",
    "80100002": "Token count should be 1 for a synchronous message",
    STRUCTURE: "Illegal payload",
    EXPIRED_MESSAGE: "Illegal expire time",
    COLLAPSE_KEY: "Illegal collapse_key",
    "80100016": "Sensitive content",
    "80100017": "Too many topic messages at once",
    "80100018": "Signature of the third-party review does not match",
    "80100022": "Anti-Spam: image not verify",
    AUTHENTICATION: "Authentication Error",
    TOKEN_EXPIRED: "Oauth token expired",
    JWT_EXPIRED: "Jwt token expired",
    NO_PERMISSION: "No permission to send message to these tmIDs",
    ALL_INVALID: "All the tokens are invalid",
    TOO_LONG: "Push message size is too long",
    TOKEN_COUNT: "token count should within 1 and 1000",
    "80300011": "No right to send a message of high priority",
    "80300013": "Illegal receipt",
    "80300029": "When send test message, the api request exceed limit",
    TEST_TOKEN_COUNT: "When send test message, token count exceed limit",
    JWT_TOO_LONG: "JWT expire period over threshold",
    "80300037": "Disable send huawei msg because of penalty",
    "80600003": "Request to the OAuth service failed",
    "81000001": "Inner Error",
}

_DOWNLINK_FIELDS: Mapping[str, type] = {
    "token": list, "topic": str, "condition": str, "notification": dict, "data": str, "android": dict, "apns": dict,
    "webpush": dict,
}  # fmt: skip
_ANDROID_FIELDS: Mapping[str, type] = {
    "collapse_key": int, "urgency": str, "category": str, "ttl": str, "bi_tag": str, "receipt_id": str,
    "target_user_type": int, "fast_app_target": int, "data": str, "notification": dict, "inapp": dict,
}  # fmt: skip
_PUSH_OPTIONS: Mapping[str, type] = {
    "ttl": int, "testMessage": bool, "biTag": str, "receiptId": str, "collapseKey": int, "regulatedByTtl": bool,
}  # fmt: skip


class _Objection(Exception):
    """What is wrong with a request; raised inside this module only."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code)
        self.answer = answer(code, detail)


@dataclass(frozen=True, slots=True)
class Addressed:
    """An admitted request as far as it could be read: the devices it names, or why it names none."""

    tokens: Sequence[bytes]
    objection: Answer | None = None
    only_checked: bool = False


def answer(code: str, detail: str = "", status: int | None = None) -> Answer:
    """HMS's words for a code."""
    if status is None:
        about_tokens = code in (SUCCESS, PARTIAL, ALL_INVALID)
        status = 200 if about_tokens else 401 if code.startswith("802") else 400
    words = MESSAGES.get(code, "Error")
    # The fields of a real answer, in its order.
    document = {
        "code": code,
        "msg": f"{words}, {detail}." if detail else words,
        "requestId": secrets.token_hex(16),
    }
    return Answer(
        status, JSON_TYPE, orjson.dumps(document), None if code == SUCCESS else code, code == SUCCESS
    )


def partial(total: int, illegal: Sequence[bytes]) -> Answer:
    """Success for some: the ``msg`` is a JSON document in a string."""
    message = {
        "success": total - len(illegal),
        "failure": len(illegal),
        "illegal_tokens": [token.decode("utf-8", "replace") for token in illegal],
    }
    document = {"code": PARTIAL, "msg": orjson.dumps(message).decode(), "requestId": secrets.token_hex(16)}
    return Answer(200, JSON_TYPE, orjson.dumps(document), PARTIAL, rings=True)


class HmsRules:
    """One app of one project.

    Args:
        issued: until when (UNIX seconds) an OAuth token is good that was issued once; None for one that never was.
        account: key id, issuer and public key of the service account.
        dead_prefix: tokens that begin with it are illegal.
    """

    platform = "hms"
    streams = StreamRule(100, 100, 1, b"exceeded_max_concurrent_streams")

    def __init__(
        self,
        app_id: str,
        project_id: str,
        issued: Callable[[str], float | None],
        account: tuple[str, str, RSAPublicKey],
        dead_prefix: bytes,
    ) -> None:
        self.app_id, self.project_id, self.dead_prefix = app_id, project_id, dead_prefix
        self._issued, self._account = issued, account
        self._verified: dict[str, Mapping[str, Any] | None] = {}
        self._expired_before = 0.0

    def open_session(self) -> Session:
        return Session()

    def admit(self, request: Request, session: Session, now: float) -> Answer | None:
        path = PATH.fullmatch(request.path)
        if path is None or request.method != "POST":
            return Answer(404, (("content-type", "text/html"),), b"<html><body>404 Not Found</body></html>")
        api, number = path[1], path[2]
        scheme, _, text = (request.value("authorization") or "").partition(" ")
        refused = self._credential(text, api, now) if scheme == "Bearer" else AUTHENTICATION
        if refused is None and number != (self.app_id if api == "v1" else self.project_id):
            refused = AUTHENTICATION
        if refused is not None:
            return answer(refused)
        if api == "v3" and request.value("push-type") not in PUSH_TYPES:
            return answer(PARAMETERS, "push-type")
        session.credential_accepted = True
        return None

    def _credential(self, text: str, api: str, now: float) -> str | None:
        """What is wrong with a bearer token; None when nothing is."""
        if text.count(".") != 2:
            until = self._issued(text)
            if until is None or api == "v3":
                return AUTHENTICATION
            return None if now < until else TOKEN_EXPIRED
        claims = self._verify(text)
        if claims is None:
            return AUTHENTICATION
        issued, ends = claims["iat"], claims["exp"]
        if ends - issued > MAX_JWT_LIFE_S:
            return JWT_TOO_LONG
        if issued > now + CLOCK_SKEW_S:
            return AUTHENTICATION
        return JWT_EXPIRED if now >= ends or issued < self._expired_before else None

    def _verify(self, text: str) -> Mapping[str, Any] | None:
        if text not in self._verified:
            if len(self._verified) >= MAX_REMEMBERED:
                self._verified.clear()
            self._verified[text] = self._verify_anew(text)
        return self._verified[text]

    def _verify_anew(self, text: str) -> Mapping[str, Any] | None:
        key_id, issuer, key = self._account
        try:
            header = jwt.get_unverified_header(text)
            claims: dict[str, Any] = jwt.decode(
                text,
                key,
                algorithms=["PS256"],
                audience=AUDIENCE,
                issuer=issuer,
                options={"verify_iat": False, "verify_exp": False, "verify_nbf": False},
            )
        except jwt.PyJWTError:
            return None
        numbers = all(type(claims.get(name)) is int for name in ("iat", "exp"))
        return claims if header.get("kid") == key_id and header.get("typ") == "JWT" and numbers else None

    def read(self, request: Request) -> Addressed:
        """The devices of an admitted request. Never raises."""
        try:
            document = _document(request)
            if request.path.startswith("/v3/"):
                tokens = _scenario(document, request.value("push-type") or "", request.size)
                return Addressed(tokens)
            return Addressed(
                _downlink(document, request.size), only_checked=document.get("validate_only") is True
            )
        except _Objection as objection:
            return Addressed((), objection.answer)

    def respond(self, tokens: Sequence[bytes], illegal: Sequence[bytes]) -> Answer:
        """The answer to a request that is right in itself; ``illegal`` are those of its tokens that are not taken."""
        if not illegal:
            return answer(SUCCESS)
        return answer(ALL_INVALID) if len(illegal) == len(tokens) else partial(len(tokens), illegal)

    def takes(self, token: bytes) -> bool:
        return not token.startswith(self.dead_prefix) and TOKEN.fullmatch(token) is not None

    def target(self, request: Request) -> bytes:
        tokens = self.read(request).tokens
        return tokens[0] if tokens else b""

    def consider(self, request: Request, now: float) -> Answer:
        found = self.read(request)
        if found.objection is not None:
            return found.objection
        return self.respond(found.tokens, [token for token in found.tokens if not self.takes(token)])

    def word(self, spec: AnswerSpec, request: Request, now: float) -> Answer:
        if spec.reason is not None:
            plain = answer(spec.reason, status=spec.status)
        elif spec.status == 200:
            plain = self.consider(request, now)
        else:
            # Nothing is known about the body of a 503.
            plain = Answer(spec.status, (("content-type", "text/plain"),), b"")
        body = plain.body if spec.body is None else spec.body
        return Answer(plain.status, (*plain.headers, *spec.extra_headers()), body, plain.reason, plain.rings)

    def expire_credentials(self, now: float) -> None:
        """Service accounts' tokens; those of OAuth expire where they were issued."""
        # Tokens are dated in whole seconds: one that is made from now on must be younger.
        self._expired_before = int(now) + 1


def _document(request: Request) -> dict[str, Any]:
    try:
        document = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise _Objection(PARAMETERS, "no JSON object")
    return document


def _downlink(document: dict[str, Any], size: int) -> Sequence[bytes]:
    """The tokens of a v1 or v2 request."""
    message = document.get("message")
    # A misspelt `message` is answered as one without tokens.
    if not isinstance(message, dict):
        raise _Objection(TOKEN_COUNT)
    _known(document, {"validate_only": bool, "message": dict}, "")
    tokens = _targets(message)
    _fits(size, tokens)
    _known(message, _DOWNLINK_FIELDS, "message")
    android = message.get("android", {})
    _known(android, _ANDROID_FIELDS, "message.android")
    _check_android(android)
    shown = message.get("notification", {})
    _known(shown, {"title": str, "body": str, "image": str}, "message.notification")
    if "notification" not in message and "notification" not in android:
        if not (message.get("data") or android.get("data")):
            raise _Objection(STRUCTURE, "neither notification nor data")
        return tokens
    look = android.get("notification")
    if not isinstance(look, dict):
        raise _Objection(PARAMETERS, "message.android.notification is missing")
    for field in ("title", "body"):
        if not (look.get(field) or shown.get(field)):
            raise _Objection(PARAMETERS, f"{field} is missing")
    _check_click(look.get("click_action"))
    return tokens


def _targets(message: Mapping[str, Any]) -> list[bytes]:
    if any(message.get(other) for other in ("topic", "condition")):
        if message.get("token"):
            raise _Objection(PARAMETERS, "token and topic")
        raise _Objection(PARAMETERS, "this mock sends to tokens only")
    return _tokens(message.get("token"))


def _tokens(value: object) -> list[bytes]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_TOKENS:
        raise _Objection(TOKEN_COUNT)
    try:
        return [token.encode("utf-8", "replace") for token in value]
    except AttributeError:
        raise _Objection(PARAMETERS, "token") from None


def _fits(size: int, tokens: Sequence[bytes]) -> None:
    # Each with its quotes and a comma.
    if size - sum(map(len, tokens)) - 3 * len(tokens) > MAX_PAYLOAD_BYTES:
        raise _Objection(TOO_LONG)


def _check_android(android: Mapping[str, Any]) -> None:
    ttl = android.get("ttl", "1s")
    if not TTL.fullmatch(ttl) or int(ttl[:-1]) > MAX_TTL_S:
        raise _Objection(PARAMETERS, "message.android.ttl")
    if int(ttl[:-1]) == 0:
        raise _Objection(EXPIRED_MESSAGE)
    if not -1 <= android.get("collapse_key", -1) <= 100:
        raise _Objection(COLLAPSE_KEY)
    if android.get("urgency", "NORMAL") not in ("HIGH", "NORMAL"):
        raise _Objection(PARAMETERS, "message.android.urgency")


def _check_click(action: object) -> None:
    kind = action.get("type") if isinstance(action, dict) else None
    needs = {1: ("intent", "action"), 2: ("url",), 3: ()}.get(kind) if type(kind) is int else None
    if needs is None or not isinstance(action, dict):
        raise _Objection(PARAMETERS, "message.android.notification.click_action")
    if needs and not any(action.get(name) for name in needs):
        raise _Objection(PARAMETERS, f"click_action of type {kind} without {' or '.join(needs)}")
    if kind == 2 and not str(action.get("url")).startswith("https://"):
        raise _Objection(PARAMETERS, "click_action.url")


def _scenario(document: dict[str, Any], push_type: str, size: int) -> Sequence[bytes]:
    """The tokens of a v3 request."""
    _known(document, {"payload": dict, "target": dict, "pushOptions": dict}, "")
    target, payload = document.get("target", {}), document.get("payload")
    _known(target, {"token": list}, "target")
    tokens = _tokens(target.get("token"))
    _fits(size, tokens)
    options = document.get("pushOptions", {})
    _known(options, _PUSH_OPTIONS, "pushOptions")
    if not 1 <= options.get("ttl", 1) <= MAX_TTL_S:
        raise _Objection(EXPIRED_MESSAGE)
    if push_type == FORM and len(tokens) > 1:
        raise _Objection(TOKEN_COUNT)
    if options.get("testMessage") and len(tokens) > MAX_TEST_TOKENS:
        raise _Objection(TEST_TOKEN_COUNT)
    if not isinstance(payload, dict) or not payload:
        raise _Objection(STRUCTURE, "payload")
    if push_type == "6":
        if not isinstance(payload.get("extraData"), str):
            raise _Objection(STRUCTURE, "payload.extraData")
    elif push_type in ("0", "2"):
        shown = payload.get("notification")
        if not isinstance(shown, dict):
            raise _Objection(STRUCTURE, "payload.notification")
        for field in ("category", "title", "body"):
            if not isinstance(shown.get(field), str) or not shown[field]:
                raise _Objection(PARAMETERS, f"payload.notification.{field}")
        click = shown.get("clickAction")
        if not isinstance(click, dict) or type(click.get("actionType")) is not int:
            raise _Objection(PARAMETERS, "payload.notification.clickAction")
    return tokens


def _known(document: object, fields: Mapping[str, type], place: str) -> None:
    if not isinstance(document, dict):
        raise _Objection(PARAMETERS, place)
    for name, value in document.items():
        where = f"{place}.{name}" if place else name
        if name not in fields:
            raise _Objection(PARAMETERS, f"{where} is unknown")
        kind = fields[name]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _Objection(PARAMETERS, where)
