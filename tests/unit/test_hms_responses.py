"""HMS: one answer for many tokens, row by row of Huawei's table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from pushq.http2 import Answer, Code
from pushq.providers.answers import Effect, Scope, Verdict
from pushq.providers.hms.responses import (
    ACCEPTED,
    ALL_INVALID,
    BY_STATUS,
    PARTLY,
    RULES,
    SETUP_CAUSES,
    TOKEN_CAUSES,
    Division,
    divide,
    judge,
)

SENT = datetime(2026, 1, 1, 12, tzinfo=UTC)
TOKENS = [b"token-a", b"token-b", b"token-c"]

_R, _D, _X, _C, _A = (
    Effect.RETRY,
    Effect.TOKEN_DEAD,
    Effect.REJECTED,
    Effect.CONFIGURATION,
    Effect.REAUTHENTICATE,
)
#: (effect, scope, seconds to wait, guarded, flow control) by code, written down from Huawei's page a second time.
ROWS: dict[str, tuple[Effect, Scope, float, bool, bool]] = {
    "80100000": (_D, Scope.RECIPIENT, 0, True, False),
    "80100001": (_X, Scope.MESSAGE, 0, False, False),
    "80100002": (_X, Scope.MESSAGE, 0, False, False),
    "80100003": (_X, Scope.MESSAGE, 0, False, False),
    "80100004": (_X, Scope.MESSAGE, 0, False, False),
    "80100013": (_X, Scope.MESSAGE, 0, False, False),
    "80100016": (_X, Scope.MESSAGE, 0, False, False),
    "80100017": (_R, Scope.PROVIDER, 10, False, False),
    "80100018": (_X, Scope.MESSAGE, 0, False, False),
    "80100022": (_X, Scope.MESSAGE, 0, False, False),
    "80200001": (_A, Scope.CREDENTIAL, 0, False, False),
    "80200003": (_A, Scope.CREDENTIAL, 0, False, False),
    "80200005": (_A, Scope.CREDENTIAL, 0, False, False),
    "80300002": (_C, Scope.CREDENTIAL, 0, False, False),
    "80300007": (_D, Scope.RECIPIENT, 0, True, False),
    "80300008": (_X, Scope.MESSAGE, 0, False, False),
    "80300010": (_X, Scope.MESSAGE, 0, False, False),
    "80300011": (_X, Scope.MESSAGE, 0, False, False),
    "80300013": (_C, Scope.CREDENTIAL, 0, False, False),
    "80300029": (_R, Scope.PROVIDER, 60, False, False),
    "80300030": (_X, Scope.MESSAGE, 0, False, False),
    "80300036": (_C, Scope.CREDENTIAL, 0, False, False),
    "80300037": (_C, Scope.CREDENTIAL, 0, False, False),
    "80600003": (_R, Scope.CREDENTIAL, 1, False, False),
    "81000001": (_R, Scope.PROVIDER, 1, False, False),
}
STATUSES: dict[int, tuple[Effect, Scope, float, bool, bool]] = {
    401: (_A, Scope.CREDENTIAL, 0, False, False),
    403: (_C, Scope.CREDENTIAL, 0, False, False),
    404: (_C, Scope.CREDENTIAL, 0, False, False),
    413: (_X, Scope.MESSAGE, 0, False, False),
    429: (_R, Scope.PROVIDER, 2, False, True),
    503: (_R, Scope.PROVIDER, 2, False, True),
}


def body(code: str, message: Any = "words") -> bytes:
    return orjson.dumps({"code": code, "msg": message, "requestId": "1"})


def partial(illegal: Sequence[str], failure: int | None = None, **more: Any) -> bytes:
    failure = len(illegal) if failure is None else failure
    inner = {"success": 3 - failure, "failure": failure, "illegal_tokens": list(illegal), **more}
    return body(PARTLY, orjson.dumps(inner).decode())


def divided(status: int, content: bytes, tokens: Sequence[bytes] = TOKENS) -> Division:
    return divide(status, {}, content, tokens)


def verdict(status: int, content: bytes, headers: dict[str, str] | None = None) -> Verdict:
    """Of the first token, as the delivery gets it."""
    division = divide(status, headers or {}, content, TOKENS)
    return judge(division.answers[0], sent_at=SENT, now=SENT)


def row(found: Verdict) -> tuple[Effect, Scope, float, bool, bool]:
    return found.effect, found.scope, found.wait_s, found.guarded, found.flow_control


def test_the_table_has_the_rows_that_are_tested_here_and_no_others() -> None:
    assert set(RULES) == set(ROWS)
    assert set(BY_STATUS) == set(STATUSES)


@pytest.mark.parametrize("status", [200, 400, 500, 502])
@pytest.mark.parametrize("code", sorted(set(ROWS) - {PARTLY}))
def test_a_code_means_the_same_whatever_the_status(code: str, status: int) -> None:
    division = divided(status, body(code))
    assert division.code is Code.ANSWERED
    assert set(division.answers) == {0, 1, 2}
    # One object: a thousand devices do not keep a thousand copies.
    assert len({id(answer) for answer in division.answers.values()}) == 1
    found = judge(division.answers[1], sent_at=SENT, now=SENT)
    assert row(found) == ROWS[code]
    assert (found.reason, found.status, found.detail) == (code, status, "words")
    assert found.invalid_since == (SENT if found.effect is Effect.TOKEN_DEAD else None)


@pytest.mark.parametrize("status", sorted(STATUSES))
@pytest.mark.parametrize("content", [b"", b"<html>busy</html>", b"[]", b'{"msg":"x"}'])
def test_without_a_code_the_status_decides(status: int, content: bytes) -> None:
    found = verdict(status, content)
    assert row(found) == STATUSES[status]
    assert found.reason == f"status_{status}"


def test_accepted_is_for_all() -> None:
    assert divided(200, body(ACCEPTED)) == Division(Code.OK)
    assert divided(400, body(ACCEPTED)) == Division(Code.OK)


class TestPartialSuccess:
    def test_only_the_tokens_that_are_named_are_refused(self) -> None:
        division = divided(200, partial(["token-b"]))
        assert division.code is Code.OK
        assert set(division.answers) == {1}
        found = judge(division.answers[1], sent_at=SENT, now=SENT)
        assert row(found) == ROWS[PARTLY]
        assert found.reason == PARTLY

    def test_what_is_kept_of_it_does_not_grow_with_the_tokens(self) -> None:
        tokens = [b"%0130d" % number for number in range(1000)]
        division = divided(200, partial([token.decode() for token in tokens[1:]]), tokens)
        assert len(division.answers) == 999
        assert all(len(answer.body) < 500 for answer in division.answers.values())

    @pytest.mark.parametrize("cause", SETUP_CAUSES)
    def test_a_cause_that_is_ours_keeps_the_token(self, cause: str) -> None:
        division = divided(200, partial(["token-b"], reason=cause))
        found = judge(division.answers[1], sent_at=SENT, now=SENT)
        assert (found.effect, found.scope, found.reason) == (_C, Scope.RECIPIENT, f"{PARTLY}_{cause}")

    @pytest.mark.parametrize("cause", sorted(TOKEN_CAUSES))
    def test_a_cause_that_is_the_tokens_condemns_it(self, cause: str) -> None:
        division = divided(200, partial(["token-b"], reason=cause))
        found = judge(division.answers[1], sent_at=SENT, now=SENT)
        assert (row(found), found.reason) == (ROWS[PARTLY], f"{PARTLY}_{cause}")

    @pytest.mark.parametrize(
        "message",
        [
            "no JSON",
            "[]",
            "null",
            '{"success":2}',
            '{"failure":1,"illegal_tokens":"token-b"}',
            '{"failure":1,"illegal_tokens":[1]}',
            '{"failure":"1","illegal_tokens":["token-b"]}',
            '{"failure":true,"illegal_tokens":["token-b"]}',
            '{"failure":1,"illegal_tokens":[]}',
            '{"failure":2,"illegal_tokens":["token-b"]}',
            '{"failure":1,"illegal_tokens":["token-of-somebody-else"]}',
            '{"failure":1,"illegal_tokens":["token-b"],"x":' + "[" * 300 + "]" * 300 + "}",
        ],
    )
    def test_nobody_is_taken_for_reached_or_dead_when_it_cannot_be_read(self, message: str) -> None:
        division = divided(200, body(PARTLY, message))
        assert division.code is Code.UNKNOWN
        assert division.reason == "malformed_answer"
        assert set(division.answers) <= {1}

    @pytest.mark.parametrize("message", [None, 7, {"failure": 0}])
    def test_a_message_that_is_no_text_says_nothing(self, message: Any) -> None:
        assert divided(200, body(PARTLY, message)).code is Code.UNKNOWN

    def test_a_token_that_stands_twice_is_refused_twice(self) -> None:
        division = divided(200, partial(["token-b"], failure=2), [b"token-b", b"token-a", b"token-b"])
        assert (division.code, set(division.answers)) == (Code.OK, {0, 2})


class TestAllInvalid:
    @pytest.mark.parametrize("cause", SETUP_CAUSES)
    def test_a_cause_that_is_ours_holds_everything(self, cause: str) -> None:
        found = verdict(200, body(ALL_INVALID, f"All the tokens are invalid: {cause}"))
        assert (found.effect, found.scope, found.reason) == (
            _C,
            Scope.CREDENTIAL,
            f"{ALL_INVALID}_{cause}",
        )

    @pytest.mark.parametrize("cause", sorted(TOKEN_CAUSES))
    def test_a_cause_that_is_the_tokens_leaves_it_to_the_guard(self, cause: str) -> None:
        found = verdict(200, body(ALL_INVALID, f"All the tokens are invalid: {cause}"))
        assert (row(found), found.reason) == (ROWS[ALL_INVALID], f"{ALL_INVALID}_{cause}")

    def test_a_cause_behind_a_thousand_tokens_is_found(self) -> None:
        long = "All the tokens are invalid: " + ",".join("t" * 130 for _ in range(1000)) + ", noPushTypeRight"
        found = verdict(200, body(ALL_INVALID, long))
        assert found.reason == f"{ALL_INVALID}_noPushTypeRight"
        assert found.detail == "noPushTypeRight: All the tokens are invalid: ***"

    @pytest.mark.parametrize("before", [0, 150, 199, 350, 399])
    @pytest.mark.parametrize("size", [24, 130])
    def test_nobody_reads_a_token(self, before: int, size: int) -> None:
        """Wherever it stands, and wherever it is cut off."""
        token = ("IQ7_a-" * 30)[:size]
        content = body(ALL_INVALID, "." * before + ",".join([token] * 4) + " noRight")
        found, said = verdict(200, content), divided(200, content).answers[0].body
        assert token[:10] not in found.detail
        assert token[:10] not in said.decode()
        assert found.reason == f"{ALL_INVALID}_noRight"

    def test_a_cause_in_another_code_means_nothing(self) -> None:
        assert verdict(400, body("80100003", "noPushTypeRight")).reason == "80100003"


class TestUnlisted:
    @pytest.mark.parametrize(
        ("code", "effect", "scope", "reason"),
        [
            ("80199999", _X, Scope.RECIPIENT, "other_801"),
            ("80299999", _A, Scope.CREDENTIAL, "other_802"),
            ("80399999", _X, Scope.RECIPIENT, "other_803"),
            ("80699999", _R, Scope.PROVIDER, "other_806"),
            ("81099999", _R, Scope.PROVIDER, "other_810"),
        ],
    )
    def test_a_code_falls_to_its_area(self, code: str, effect: Effect, scope: Scope, reason: str) -> None:
        found = verdict(200, body(code))
        assert (found.effect, found.scope, found.reason) == (effect, scope, reason)

    def test_a_code_of_no_area_falls_to_the_class_of_its_status(self) -> None:
        assert (verdict(400, body("12345678")).reason, verdict(400, body("12345678")).effect) == (
            "other_4xx",
            _X,
        )

    def test_a_status_falls_to_its_class(self) -> None:
        assert verdict(418, b"").reason == "other_4xx"
        assert row(verdict(418, b"")) == (_X, Scope.MESSAGE, 0, False, False)
        assert row(verdict(590, b"")) == (_R, Scope.PROVIDER, 1, False, False)

    @pytest.mark.parametrize("status", [500, 502, 504])
    def test_a_gateway_that_lost_its_server_leaves_it_unknown(self, status: int) -> None:
        assert divided(status, b"<html>") == Division(Code.UNKNOWN, reason=f"status_{status}")

    @pytest.mark.parametrize(
        ("status", "content"),
        [(200, b""), (200, b"OK"), (200, b'{"code":80000000}'), (200, body("12345678")), (302, b"")],
    )
    def test_what_nobody_understands_is_unknown(self, status: int, content: bytes) -> None:
        assert divided(status, content) == Division(Code.UNKNOWN, reason="malformed_answer")


def test_a_retry_after_is_heeded_where_a_retry_makes_sense() -> None:
    assert verdict(503, b"", {"retry-after": "30"}).wait_s == 30
    assert verdict(503, b"", {"retry-after": "1"}).wait_s == 2
    assert verdict(401, b"", {"retry-after": "30"}).wait_s == 0


def test_an_answer_of_another_kind_is_judged_all_the_same() -> None:
    assert judge(Answer(200, {}, b"\xff\xfe"), sent_at=SENT, now=SENT).effect is Effect.RETRY
