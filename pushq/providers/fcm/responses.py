"""What FCM answers, row by row.

Sources: Firebase, "FCM error codes", "ErrorCode" (v1 reference) and "Scale FCM messages": 429 waits Retry-After or 60 s, the
500 class at least 10 s. ``INVALID_ARGUMENT`` means a dead token only on positive evidence (see :func:`_invalid_argument`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import orjson

from pushq.providers.answers import Effect, Rule, Scope, Verdict, retry_after

_R, _D, _X, _C = Effect.RETRY, Effect.TOKEN_DEAD, Effect.REJECTED, Effect.CONFIGURATION
_SERVER = Rule(_R, Scope.PROVIDER, min_wait_s=10.0)
_QUOTA = Rule(_R, Scope.PROVIDER, min_wait_s=60.0)
#: Quotas of one device and of one topic hold up nobody else. For a device no shortest wait is stated: the back-off decides.
_DEVICE_QUOTA = Rule(_R)
_TOPIC_QUOTA = Rule(_R, min_wait_s=60.0)

#: By status and the FcmError's errorCode ("" when the answer has none).
RULES: Final[Mapping[tuple[int, str], Rule]] = {
    (400, ""): Rule(_X, Scope.MESSAGE),
    # After the decision list: only what became of the other recipients of the same message can tell.
    (400, "INVALID_ARGUMENT"): Rule(_X, Scope.MESSAGE, doubtful=True),
    (401, ""): Rule(Effect.REAUTHENTICATE, Scope.CREDENTIAL),
    (401, "THIRD_PARTY_AUTH_ERROR"): Rule(_C, Scope.RECIPIENT),
    (401, "APNS_AUTH_ERROR"): Rule(_C, Scope.RECIPIENT),
    (403, "SENDER_ID_MISMATCH"): Rule(_D, guarded=True),
    (403, ""): Rule(_C, Scope.CREDENTIAL),
    (404, "UNREGISTERED"): Rule(_D),
    (404, ""): Rule(_C, Scope.CREDENTIAL),
    (429, "QUOTA_EXCEEDED"): _QUOTA,
    (429, ""): _QUOTA,
    (500, "INTERNAL"): _SERVER,
    (500, ""): _SERVER,
    (502, ""): _SERVER,
    (503, "UNAVAILABLE"): _SERVER,
    (503, ""): _SERVER,
    (504, ""): _SERVER,
}
FALLBACK: Final[Mapping[int, Rule]] = {4: Rule(_X), 5: _SERVER}
#: "No more information is available about this error", at any status; a 429 is a quota all the same.
_UNSPECIFIED: Final = "UNSPECIFIED_ERROR"
_UNSPECIFIED_RULES: Final[Mapping[int, Rule]] = {4: Rule(_X, Scope.MESSAGE), 5: _SERVER}

_FCM_ERROR: Final = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_APNS_ERROR: Final = "type.googleapis.com/google.firebase.fcm.v1.ApnsError"
_BAD_REQUEST: Final = "type.googleapis.com/google.rpc.BadRequest"
_QUOTA_FAILURE: Final = "type.googleapis.com/google.rpc.QuotaFailure"
_BAD_TOKEN_TEXT: Final = "registration token is not a valid fcm registration token"  # noqa: S105
_DEAD_ON_APPLE: Final = {
    "BadDeviceToken": True,
    "DeviceTokenNotForTopic": True,
    "Unregistered": False,
    "ExpiredToken": False,
}

#: Every reason that :func:`judge` can give, but for words of Apple's that it has not heard of.
REASONS: Final = frozenset(
    {code or f"status_{status}" for status, code in RULES if status != 429}
    | {"QUOTA_EXCEEDED", "QUOTA_EXCEEDED_DEVICE", "QUOTA_EXCEEDED_TOPIC", _UNSPECIFIED}
    | {f"other_{n}xx" for n in range(1, 10)}
    | {f"apns_{word}" for word in (*_DEAD_ON_APPLE, 410, "other")}
    | {"INVALID_TOKEN", "INVALID_ARGUMENT"}
)


def judge(
    status: int, headers: Mapping[str, str], body: bytes, *, sent_at: datetime, now: datetime
) -> Verdict:
    """What an answer other than 200 means. Never raises, whatever the body (502 is an HTML page, some bodies are empty)."""
    error = _error(body)
    details = _details(error)
    code = str(details.get(_FCM_ERROR, {}).get("errorCode") or "")
    if status == 400 and code in ("", "INVALID_ARGUMENT"):
        rule, reason = _invalid_argument(error, details, code)
    elif status == 429:
        rule, reason = _quota(details, code)
    elif code == _UNSPECIFIED:
        rule, reason = _UNSPECIFIED_RULES.get(status // 100, _SERVER), code
    else:
        known = RULES.get((status, code))
        rule = known or FALLBACK.get(status // 100, _SERVER)
        reason = (code or f"status_{status}") if known else f"other_{status // 100}xx"
    detail = str(error.get("message") or "")
    if code and reason.startswith("other_"):
        detail = f"{code}: {detail}"
    wait = rule.min_wait_s
    if rule.effect is Effect.RETRY:
        asked = retry_after(headers, now)
        if asked is not None:
            # 60 s is FCM's word for a 429 without Retry-After; with one, its own figure counts.
            wait = asked if status == 429 else max(wait, asked)
    return Verdict(
        effect=rule.effect,
        scope=rule.scope,
        reason=reason,
        status=status,
        wait_s=wait,
        guarded=rule.guarded,
        retire=rule.retire,
        invalid_since=sent_at if rule.effect is Effect.TOKEN_DEAD or rule.doubtful else None,
        flow_control=rule.flow_control,
        doubtful=rule.doubtful,
        detail=detail[:200],
    )


def _invalid_argument(error: Mapping[str, Any], details: Mapping[str, Any], code: str) -> tuple[Rule, str]:
    """Bad token or bad message? First match wins; without positive evidence the token is kept."""
    apple = details.get(_APNS_ERROR)
    if apple is not None:
        word = str(apple.get("reason") or "")
        if word in _DEAD_ON_APPLE or apple.get("statusCode") == 410:
            return Rule(_D, guarded=_DEAD_ON_APPLE.get(word, False)), f"apns_{word or 410}"
        return Rule(_C, Scope.RECIPIENT), "apns_other"
    violations = details.get(_BAD_REQUEST, {}).get("fieldViolations")
    fields = (
        [v.get("field") for v in violations if isinstance(v, dict)] if isinstance(violations, list) else []
    )
    if fields:
        if all(field in ("message.token", "message.fid") for field in fields):
            return Rule(_D), "INVALID_TOKEN"
        return Rule(_X, Scope.MESSAGE), "INVALID_ARGUMENT"
    if code and _BAD_TOKEN_TEXT in str(error.get("message") or "").lower():
        return Rule(_D), "INVALID_TOKEN"
    return RULES[400, code], "INVALID_ARGUMENT"


def _quota(details: Mapping[str, Any], code: str) -> tuple[Rule, str]:
    """Whose quota it is, by the words of the QuotaFailure (ErrorCode page: "message rate", "device message rate", "topic message
    rate" exceeded). Without one it is taken for the project's: the attempt looks whether others were hit as well."""
    violations = details.get(_QUOTA_FAILURE, {}).get("violations")
    words = " ".join(
        f"{violation.get('subject')} {violation.get('description')}".lower()
        for violation in (violations if isinstance(violations, list) else ())
        if isinstance(violation, dict)
    )
    if "device" in words:
        return _DEVICE_QUOTA, "QUOTA_EXCEEDED_DEVICE"
    if "topic" in words:
        return _TOPIC_QUOTA, "QUOTA_EXCEEDED_TOPIC"
    return RULES.get((429, code), _QUOTA), "QUOTA_EXCEEDED"


def _error(body: bytes) -> Mapping[str, Any]:
    try:
        document = orjson.loads(body) if body else None
    except orjson.JSONDecodeError:
        return {}  # an HTML page from the front end: the status alone decides
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, dict) else {}


def _details(error: Mapping[str, Any]) -> dict[str, Any]:
    """The elements of ``details`` by type: their order varies."""
    details = error.get("details")
    if not isinstance(details, list):
        return {}
    return {str(element.get("@type")): element for element in details if isinstance(element, dict)}
