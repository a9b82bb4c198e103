"""The tables of answers: every row leads to a legal end, and nothing of ours deletes a token unguarded."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pushq.providers.answers import Effect, Scope, retry_after
from pushq.providers.apns import responses as apns
from pushq.providers.fcm import responses as fcm

SENT = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)
NOW = SENT + timedelta(seconds=2)


def apns_verdict(status: int, body: object = None, headers: dict[str, str] | None = None) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
    return apns.judge(status, headers or {}, raw, sent_at=SENT, now=NOW)


def fcm_verdict(status: int, body: object = None, headers: dict[str, str] | None = None) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
    return fcm.judge(status, headers or {}, raw, sent_at=SENT, now=NOW)


def test_only_answers_about_the_token_kill_it() -> None:
    """What a wrong topic or environment of ours causes is guarded; a refused credential never speaks about a token."""
    dead = {
        reason: rule.guarded for (_, reason), rule in apns.RULES.items() if rule.effect is Effect.TOKEN_DEAD
    }
    assert dead == {
        "BadDeviceToken": True,
        "DeviceTokenNotForTopic": True,
        "ExpiredToken": False,
        "Unregistered": False,
    }


def test_410_counts_from_apples_timestamp_less_the_skew() -> None:
    millis = int(SENT.timestamp() * 1000) - 60_000
    assert apns_verdict(
        410, {"reason": "Unregistered", "timestamp": millis}
    ).invalid_since == SENT - timedelta(seconds=65)


@pytest.mark.parametrize("timestamp", [None, "soon", -5, True, 10**30])
def test_410_without_a_usable_timestamp_counts_from_the_sending(timestamp: object) -> None:
    assert apns_verdict(410, {"reason": "Unregistered", "timestamp": timestamp}).invalid_since == SENT


@pytest.mark.parametrize(
    ("status", "body", "effect", "reason"),
    [
        (400, {"reason": "SomethingNew"}, Effect.REJECTED, "other_4xx"),
        (500, b"<html>", Effect.RETRY, "other_5xx"),
        (302, b"", Effect.RETRY, "other_3xx"),
        (410, b"", Effect.TOKEN_DEAD, "status_410"),
        (413, b"", Effect.REJECTED, "status_413"),
        (429, b"[]", Effect.RETRY, "status_429"),
        (400, {"reason": 7}, Effect.REJECTED, "other_4xx"),
        (400, b"\xff\xfe", Effect.REJECTED, "other_4xx"),
    ],
)
def test_unlisted_apns_answers_fall_to_their_class(
    status: int, body: object, effect: Effect, reason: str
) -> None:
    verdict = apns_verdict(status, body)
    assert (verdict.effect, verdict.reason) == (effect, reason)


FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
APNS_ERROR = "type.googleapis.com/google.firebase.fcm.v1.ApnsError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"


def fcm_body(status: int, code: str | None = None, message: str = "m", **elements: Any) -> dict[str, Any]:
    details: list[dict[str, Any]] = [{"@type": FCM_ERROR, "errorCode": code}] if code else []
    if "fields" in elements:
        details.append({"@type": BAD_REQUEST, "fieldViolations": [{"field": f} for f in elements["fields"]]})
    if "apple" in elements:
        details.insert(0, {"@type": APNS_ERROR, **elements["apple"]})
    return {"error": {"code": status, "message": message, "status": "X", "details": details}}


@pytest.mark.parametrize(
    ("body", "effect", "scope"),
    [
        # The decision list for INVALID_ARGUMENT, first match wins.
        (
            fcm_body(400, "INVALID_ARGUMENT", apple={"statusCode": 410, "reason": "Unregistered"}),
            Effect.TOKEN_DEAD,
            Scope.RECIPIENT,
        ),
        (
            fcm_body(400, "INVALID_ARGUMENT", apple={"reason": "BadDeviceToken"}),
            Effect.TOKEN_DEAD,
            Scope.RECIPIENT,
        ),
        (
            fcm_body(400, "INVALID_ARGUMENT", apple={"reason": "ExpiredProviderToken"}),
            Effect.CONFIGURATION,
            Scope.RECIPIENT,
        ),
        (fcm_body(400, "INVALID_ARGUMENT", fields=["message.token"]), Effect.TOKEN_DEAD, Scope.RECIPIENT),
        (fcm_body(400, "INVALID_ARGUMENT", fields=["message"]), Effect.REJECTED, Scope.MESSAGE),
        (fcm_body(400, None, fields=["message.data[0].value"]), Effect.REJECTED, Scope.MESSAGE),
        (
            fcm_body(400, "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token"),
            Effect.TOKEN_DEAD,
            Scope.RECIPIENT,
        ),
        (
            fcm_body(400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
            Effect.REJECTED,
            Scope.MESSAGE,
        ),
        (fcm_body(400), Effect.REJECTED, Scope.MESSAGE),
    ],
)
def test_invalid_argument(body: dict[str, Any], effect: Effect, scope: Scope) -> None:
    verdict = fcm_verdict(400, body)
    assert (verdict.effect, verdict.scope) == (effect, scope)


@pytest.mark.parametrize(
    "body", [b"", b"<html>502</html>", b"[]", b'{"error":[]}', b'{"error":{"details":{}}}']
)
def test_a_broken_fcm_body_leaves_the_status(body: bytes) -> None:
    verdict = fcm_verdict(502, body)
    assert (verdict.effect, verdict.wait_s) == (Effect.RETRY, 10.0)


def test_fcm_waits() -> None:
    quota = fcm_body(429, "QUOTA_EXCEEDED")
    assert fcm_verdict(429, quota).wait_s == 60.0
    assert fcm_verdict(429, quota, {"retry-after": "7"}).wait_s == 7.0
    assert fcm_verdict(503, fcm_body(503, "UNAVAILABLE"), {"retry-after": "2"}).wait_s == 10.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("Tue, 01 Jan 2030 12:00:32 GMT", 30.0),
        ("Tue, 01 Jan 2030 11:00:00 GMT", 0.0),
        ("999999999999999999999", 3600.0),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("1e5", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value}, NOW) == seconds
