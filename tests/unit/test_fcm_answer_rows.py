"""Every row of FCM's answers and the decision list for INVALID_ARGUMENT, written down here a second time from Firebase's pages."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from pushq.providers.answers import Effect, Scope, Verdict
from pushq.providers.fcm.responses import REASONS, RULES, judge

SENT = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)
NOW = SENT + timedelta(seconds=2)
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
APNS_ERROR = "type.googleapis.com/google.firebase.fcm.v1.ApnsError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
QUOTA_FAILURE = "type.googleapis.com/google.rpc.QuotaFailure"

DEAD, REJECTED, RETRY = Effect.TOKEN_DEAD, Effect.REJECTED, Effect.RETRY
REAUTH, CONFIG = Effect.REAUTHENTICATE, Effect.CONFIGURATION
ONE, MESSAGE, CREDENTIAL, PROVIDER = Scope.RECIPIENT, Scope.MESSAGE, Scope.CREDENTIAL, Scope.PROVIDER


class Row(NamedTuple):
    """``code``: the FcmError's errorCode; None where the answer has no FcmError."""

    http: int
    status: str
    code: str | None
    effect: Effect
    scope: Scope
    guarded: bool = False
    wait_s: float = 0.0
    doubtful: bool = False


ROWS = [
    Row(400, "INVALID_ARGUMENT", None, REJECTED, MESSAGE),
    # What the decision list (below) leaves open.
    Row(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", REJECTED, MESSAGE, doubtful=True),
    Row(401, "UNAUTHENTICATED", None, REAUTH, CREDENTIAL),
    # Only what goes through Apple or to browsers is wrong: Android of the same project goes on.
    Row(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR", CONFIG, ONE),
    Row(401, "UNAUTHENTICATED", "APNS_AUTH_ERROR", CONFIG, ONE),
    Row(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", DEAD, ONE, guarded=True),
    Row(403, "PERMISSION_DENIED", None, CONFIG, CREDENTIAL),
    Row(404, "NOT_FOUND", "UNREGISTERED", DEAD, ONE),
    Row(404, "NOT_FOUND", None, CONFIG, CREDENTIAL),
    Row(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", RETRY, PROVIDER, wait_s=60.0),
    Row(429, "RESOURCE_EXHAUSTED", None, RETRY, PROVIDER, wait_s=60.0),
    Row(500, "INTERNAL", "INTERNAL", RETRY, PROVIDER, wait_s=10.0),
    Row(500, "INTERNAL", None, RETRY, PROVIDER, wait_s=10.0),
    Row(502, "", None, RETRY, PROVIDER, wait_s=10.0),
    Row(503, "UNAVAILABLE", "UNAVAILABLE", RETRY, PROVIDER, wait_s=10.0),
    Row(503, "UNAVAILABLE", None, RETRY, PROVIDER, wait_s=10.0),
    Row(504, "", None, RETRY, PROVIDER, wait_s=10.0),
]
#: "No more information": by the status alone, and never about the token.
UNSPECIFIED = [
    *(Row(http, "", "UNSPECIFIED_ERROR", REJECTED, MESSAGE) for http in (400, 401, 403, 404, 409)),
    *(Row(http, "", "UNSPECIFIED_ERROR", RETRY, PROVIDER, wait_s=10.0) for http in (500, 502, 503, 504)),
    Row(429, "", "UNSPECIFIED_ERROR", RETRY, PROVIDER, wait_s=60.0),
]


def body(
    http: int,
    status: str,
    code: str | None = None,
    *,
    message: str = "m",
    apple: dict[str, Any] | None = None,
    fields: tuple[str, ...] = (),
    quota: str | None = None,
    reverse: bool = False,
) -> bytes:
    details: list[dict[str, Any]] = []
    if code is not None:
        details.append({"@type": FCM_ERROR, "errorCode": code})
    if fields:
        details.append(
            {"@type": BAD_REQUEST, "fieldViolations": [{"field": f, "description": "d"} for f in fields]}
        )
    if apple is not None:
        details.append({"@type": APNS_ERROR, **apple})
    if quota is not None:
        details.append({"@type": QUOTA_FAILURE, "violations": [{"subject": "s", "description": quota}]})
    error = {"code": http, "message": message, "status": status}
    return json.dumps(
        {"error": error | ({"details": details[::-1] if reverse else details} if details else {})}
    ).encode()


def verdict(http: int, content: bytes, headers: dict[str, str] | None = None) -> Verdict:
    return judge(http, headers or {}, content, sent_at=SENT, now=NOW)


def test_the_table_has_these_rows_and_no_others() -> None:
    assert sorted(RULES) == sorted((row.http, row.code or "") for row in ROWS)


@pytest.mark.parametrize("row", ROWS + UNSPECIFIED, ids=lambda row: f"{row.http}-{row.code}")
def test_a_row(row: Row) -> None:
    found = verdict(row.http, body(row.http, row.status, row.code))
    assert (found.effect, found.scope, found.guarded, found.wait_s) == (
        row.effect,
        row.scope,
        row.guarded,
        row.wait_s,
    )
    assert (found.retire, found.doubtful, found.flow_control) == (False, row.doubtful, False)
    assert found.invalid_since == (SENT if row.effect is DEAD or row.doubtful else None)


@pytest.mark.parametrize("row", [row for row in ROWS if row.code is None], ids=lambda row: str(row.http))
@pytest.mark.parametrize("content", [b"", b"<html>502</html>", b"[]", b'{"error": []}', b"\xff"])
def test_a_body_that_says_nothing_leaves_the_status(row: Row, content: bytes) -> None:
    found = verdict(row.http, content)
    assert (found.effect, found.scope, found.wait_s) == (row.effect, row.scope, row.wait_s)


@pytest.mark.parametrize(
    ("http", "effect", "scope", "called"),
    [
        (418, REJECTED, ONE, "other_4xx"),
        (599, RETRY, PROVIDER, "other_5xx"),
        (302, RETRY, PROVIDER, "other_3xx"),
    ],
)
def test_what_is_not_listed_falls_to_its_class(http: int, effect: Effect, scope: Scope, called: str) -> None:
    found = verdict(http, body(http, "X", "SOMETHING_NEW"))
    assert (found.effect, found.scope, found.reason) == (effect, scope, called)
    assert not found.guarded


class TestInvalidArgument:
    """Bad token or bad payload? First match wins; without positive evidence the token stays."""

    @pytest.mark.parametrize("reverse", [False, True])  # both orders of the details occur
    @pytest.mark.parametrize(
        ("apple", "guarded"),
        [
            ({"statusCode": 400, "reason": "BadDeviceToken"}, True),
            ({"statusCode": 400, "reason": "DeviceTokenNotForTopic"}, True),
            ({"statusCode": 410, "reason": "Unregistered"}, False),
            ({"statusCode": 410, "reason": "ExpiredToken"}, False),
            ({"statusCode": 410}, False),
            ({"statusCode": 410, "reason": "SomethingNew"}, False),
        ],
    )
    def test_1_apple_calls_the_token_dead(self, apple: dict[str, Any], guarded: bool, reverse: bool) -> None:
        # Whatever else stands there.
        content = body(
            400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", apple=apple, fields=("message",), reverse=reverse
        )
        found = verdict(400, content)
        assert (found.effect, found.scope, found.guarded, found.invalid_since) == (DEAD, ONE, guarded, SENT)

    @pytest.mark.parametrize(
        "reason", ["ExpiredProviderToken", "InvalidProviderToken", "BadTopic", "PayloadTooLarge", "New"]
    )
    def test_1_any_other_word_of_apples_deletes_nothing(self, reason: str) -> None:
        content = body(
            400,
            "INVALID_ARGUMENT",
            "INVALID_ARGUMENT",
            apple={"statusCode": 403, "reason": reason},
            fields=("message.token",),
        )
        found = verdict(400, content)
        assert (found.effect, found.scope, found.invalid_since) == (CONFIG, ONE, None)

    @pytest.mark.parametrize("field", ["message.token", "message.fid"])
    def test_2_the_field_is_the_token(self, field: str) -> None:
        found = verdict(400, body(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", fields=(field,)))
        assert (found.effect, found.scope, found.guarded, found.invalid_since) == (DEAD, ONE, False, SENT)

    @pytest.mark.parametrize(
        "fields",
        [("message",), ("message.data[0].value",), ("message.token", "message.data"), ("message.tokens",)],
    )
    def test_3_any_other_field_is_the_message(self, fields: tuple[str, ...]) -> None:
        official = "The registration token is not a valid FCM registration token"
        content = body(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", message=official, fields=fields)
        found = verdict(400, content)
        assert (found.effect, found.scope, found.doubtful, found.invalid_since) == (
            REJECTED,
            MESSAGE,
            False,
            None,
        )

    def test_4_the_official_text(self) -> None:
        official = "The registration token is not a valid FCM registration token"
        found = verdict(400, body(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", message=official))
        assert (found.effect, found.scope, found.guarded, found.invalid_since) == (DEAD, ONE, False, SENT)

    def test_4_the_text_alone_without_an_fcm_error_is_no_evidence(self) -> None:
        official = "The registration token is not a valid FCM registration token"
        found = verdict(400, body(400, "INVALID_ARGUMENT", message=official))
        assert (found.effect, found.scope, found.doubtful) == (REJECTED, MESSAGE, False)

    def test_5_nothing_of_that_is_decided_by_what_becomes_of_the_others(self) -> None:
        found = verdict(
            400,
            body(
                400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", message="Request contains an invalid argument."
            ),
        )
        assert (found.effect, found.scope, found.doubtful, found.guarded) == (REJECTED, MESSAGE, True, False)
        # Should it be the token: since when.
        assert found.invalid_since == SENT


class TestQuotas:
    @pytest.mark.parametrize(
        ("words", "scope", "wait_s", "called"),
        [
            ("Message rate exceeded", PROVIDER, 60.0, "QUOTA_EXCEEDED"),
            ("Device message rate exceeded", ONE, 0.0, "QUOTA_EXCEEDED_DEVICE"),
            ("Topic message rate exceeded", ONE, 60.0, "QUOTA_EXCEEDED_TOPIC"),
            (None, PROVIDER, 60.0, "QUOTA_EXCEEDED"),
        ],
    )
    def test_whose_it_is(self, words: str | None, scope: Scope, wait_s: float, called: str) -> None:
        found = verdict(429, body(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", quota=words))
        assert (found.effect, found.scope, found.wait_s, found.reason) == (RETRY, scope, wait_s, called)

    @pytest.mark.parametrize("value", ["7", "Tue, 01 Jan 2030 12:00:09 GMT"])
    def test_retry_after_counts_instead_of_the_minute(self, value: str) -> None:
        found = verdict(429, body(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), {"retry-after": value})
        assert found.wait_s == 7.0

    @pytest.mark.parametrize("violations", [None, "x", [None], [{"subject": 5}]])
    def test_a_strange_quota_failure_is_the_projects(self, violations: object) -> None:
        details = [{"@type": QUOTA_FAILURE, "violations": violations}]
        content = json.dumps({"error": {"code": 429, "details": details}}).encode()
        assert verdict(429, content).scope is PROVIDER


@pytest.mark.parametrize("http", [500, 502, 503, 504])
def test_a_server_error_waits_ten_seconds_at_least(http: int) -> None:
    assert verdict(http, b"", {"retry-after": "3"}).wait_s == 10.0
    assert verdict(http, b"", {"retry-after": "30"}).wait_s == 30.0


@pytest.mark.parametrize("violation", [None, "device:1", "topic:news"])
@pytest.mark.parametrize(
    "code", [None, "UNSPECIFIED_ERROR", "BUY_NOW", *sorted({code for _, code in RULES if code})]
)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 429, 500, 501, 502, 503, 504])
def test_every_reason_that_is_given_is_among_those_that_are_counted(
    status: int, code: str | None, violation: str | None
) -> None:
    details: list[dict[str, Any]] = [{"@type": FCM_ERROR, "errorCode": code}] if code else []
    if violation:
        details.append({"@type": QUOTA_FAILURE, "violations": [{"subject": violation}]})
    body = json.dumps({"error": {"message": "", "details": details}}).encode()
    assert judge(status, {}, body, sent_at=SENT, now=NOW).reason in REASONS
