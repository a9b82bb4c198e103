"""What the mock's FCM and its OAuth endpoint say. Bodies: Firebase, "FCM error codes", and shapes seen in the field."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from pushq.mock.exchange import Answer, AnswerSpec, Request
from pushq.mock.fcm_errors import FCM_ERROR, SHAPES
from pushq.mock.oauth import GRANT_TYPE, OAuthRules
from tests.unit.mock_provider import FCM_ALIVE, FCM_DEAD, NOW, fcm_body, fcm_request, fcm_rules, rsa_key

EMAIL, AUDIENCE = "pushq@pushq-demo.iam.gserviceaccount.com", "https://localhost:1/token"


def answer(request: Request) -> Answer:
    rules = fcm_rules()
    return rules.admit(request, rules.open_session(), NOW) or rules.consider(request, NOW)


def error(found: Answer) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(found.body)["error"]
    assert document["code"] == found.status
    return document


def error_codes(document: dict[str, Any]) -> list[str]:
    return [part["errorCode"] for part in document.get("details", []) if part["@type"] == FCM_ERROR]


def violated_fields(document: dict[str, Any]) -> list[str]:
    return [item["field"] for part in document.get("details", []) for item in part.get("fieldViolations", [])]


def test_a_good_message_gets_a_name() -> None:
    found = answer(fcm_request())
    assert (found.status, found.rings) == (200, True)
    assert json.loads(found.body)["name"].startswith("projects/pushq-demo/messages/0:")


def test_validate_only_rings_no_phone() -> None:
    body = json.dumps({"validate_only": True, "message": {"token": FCM_ALIVE}}).encode()
    found = answer(fcm_request(body))
    assert json.loads(found.body)["name"] == "projects/pushq-demo/messages/fake_message_id"
    assert not found.rings


def test_access_token_and_project_come_first() -> None:
    bad_body = b"not json"
    assert error(answer(fcm_request(bad_body, access_token="ya29.old")))["status"] == "UNAUTHENTICATED"
    denied = error(answer(fcm_request(bad_body, project="other")))
    assert (denied["status"], error_codes(denied)) == ("PERMISSION_DENIED", [])


def test_a_dead_token_is_unregistered() -> None:
    found = answer(fcm_request(fcm_body(FCM_DEAD)))
    assert (found.status, error_codes(error(found))) == (404, ["UNREGISTERED"])


def test_a_malformed_token_is_named_as_the_field() -> None:
    found = error(answer(fcm_request(fcm_body("too short"))))
    assert (found["code"], error_codes(found), violated_fields(found)) == (
        400,
        ["INVALID_ARGUMENT"],
        ["message.token"],
    )


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (fcm_body(data={"a": "x", "n": 12}), ["message.data[1].value"]),
        (fcm_body(android={"ttl": "3600"}), ["message.android.ttl"]),
        (fcm_body(android={"ttl": 3600}), ["message.android.ttl"]),
        (fcm_body(android={"ttl": "2419201s"}), ["message.android.ttl"]),
        (fcm_body(android={"priority": "URGENT"}), ["message.android.priority"]),
        (fcm_body(android={"data": {"n": 1}}), ["message.android.data[0].value"]),
        (fcm_body(data={"from": "me"}), ["message.data"]),
        (fcm_body(data={"google.x": "1"}), ["message.data"]),
        (fcm_body(data={"gcm.notification.x": "1"}), ["message.data"]),
        (fcm_body(notification={"title": 3}), ["message.notification.title"]),
        (fcm_body(notification={"titel": "x"}), ["message.notification"]),
        (fcm_body(topic="news"), ["message"]),
        (fcm_body(to="x"), ["message"]),
        (fcm_body(data=[]), ["message.data"]),
        (json.dumps({"message": {}}).encode(), ["message"]),
        (json.dumps({}).encode(), ["message"]),
        (json.dumps({"message": {"token": 5}}).encode(), ["message.token"]),
    ],
)
def test_what_is_wrong_in_the_message_is_named(body: bytes, fields: list[str]) -> None:
    found = error(answer(fcm_request(body)))
    assert (found["code"], violated_fields(found)) == (400, fields)


def test_a_message_that_was_good_for_one_token_is_good_for_others_and_a_wrong_one_for_none() -> None:
    rules = fcm_rules()

    def says(body: bytes) -> int:
        return rules.consider(fcm_request(body), NOW).status

    def body(token: str, **message: Any) -> bytes:
        return json.dumps({"message": {"token": token, **message}}).encode()

    other = FCM_ALIVE[:-4] + "abcd"
    assert [says(body(token, data={"a": "b"})) for token in (FCM_ALIVE, other, FCM_DEAD)] == [200, 200, 404]
    assert says(body(other, data={"from": "b"})) == 400
    assert says(body(FCM_ALIVE, data={"from": "b"})) == 400
    # A token that makes the message too long where it stands in it a second time.
    assert says(body(FCM_ALIVE, data={"a": FCM_ALIVE + "x" * 3800})) == 200
    assert says(body(other + "y" * 600, data={"a": other + "y" * 600 + "x" * 3800})) == 400


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff"])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert error(answer(fcm_request(body)))["status"] == "INVALID_ARGUMENT"


def test_the_size_limit_counts_payload_and_gives_no_details() -> None:
    """Shape e: 4096 bytes of keys and values pass, one more does not."""
    rest = len(b"title") + len(b"Sale") + len(b"body") + len(b"20%") + len(b"k")
    assert answer(fcm_request(fcm_body(data={"k": "x" * (4096 - rest)}))).status == 200
    found = error(answer(fcm_request(fcm_body(data={"k": "x" * (4097 - rest)}))))
    assert "details" not in found


@pytest.mark.parametrize(
    ("kind", "value"),
    [("topic", "news"), ("condition", "'news' in topics && !('de' in topics)"), ("fid", "c" + "x" * 21)],
)
def test_other_targets_are_accepted(kind: str, value: str) -> None:
    body = json.dumps({"message": {kind: value, "data": {"a": "b"}}}).encode()
    assert answer(fcm_request(body)).status == 200


@pytest.mark.parametrize("letter", sorted(SHAPES))
def test_every_known_shape_can_be_asked_for(letter: str) -> None:
    found = fcm_rules().word(AnswerSpec(400, shape=letter), fcm_request(), NOW)
    status, reason, body = SHAPES[letter]
    assert (found.status, found.reason, found.body) == (status, reason, body)
    if letter != "k":
        assert json.loads(body)["error"]["code"] == status


def test_faults_are_put_into_fcms_words() -> None:
    spec = AnswerSpec(429, "QUOTA_EXCEEDED", retry_after=7)
    found = fcm_rules().word(spec, fcm_request(), NOW)
    assert error_codes(error(found)) == ["QUOTA_EXCEEDED"]
    assert error(found)["status"] == "RESOURCE_EXHAUSTED"
    assert dict(found.headers)["retry-after"] == "7"


def oauth_answer(
    rules: OAuthRules, claims: dict[str, object] | None = None, key: rsa.RSAPrivateKey | None = None
) -> Answer:
    good: dict[str, object] = {
        "iss": EMAIL,
        "aud": AUDIENCE,
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "iat": int(NOW),
        "exp": int(NOW) + 3600,
    }
    assertion = jwt.encode(good | (claims or {}), key or rsa_key(), "RS256")
    body = urlencode({"grant_type": GRANT_TYPE, "assertion": assertion}).encode()
    request = Request(
        "POST", "/token", (("content-type", "application/x-www-form-urlencoded"),), body, len(body)
    )
    return rules.admit(request, rules.open_session(), NOW) or rules.consider(request, NOW)


@pytest.fixture
def oauth() -> OAuthRules:
    rules = OAuthRules(EMAIL, rsa_key().public_key(), lifetime_s=3599)
    rules.audience = AUDIENCE
    return rules


def test_an_access_token_is_good_until_it_expires(oauth: OAuthRules) -> None:
    issued = json.loads(oauth_answer(oauth).body)
    assert (issued["expires_in"], issued["token_type"]) == (3599, "Bearer")
    token = issued["access_token"]
    assert oauth.good_until(token, NOW + 3598) == NOW + 3599
    assert oauth.good_until(token, NOW + 3599) is None
    assert oauth.good_until("ya29.made-up", NOW) is None
    oauth.expire_credentials(NOW)
    assert oauth.good_until(token, NOW) is None


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"iss": "someone@else"}, "invalid_grant"),
        ({"aud": "https://elsewhere.example/token"}, "invalid_grant"),
        ({"scope": "https://www.googleapis.com/auth/drive"}, "invalid_scope"),
        ({"exp": int(NOW) + 3601}, "invalid_grant"),
        ({"exp": int(NOW) - 1}, "invalid_grant"),
        ({"iat": int(NOW) + 4000, "exp": int(NOW) + 5000}, "invalid_grant"),
        ({"iat": "yesterday"}, "invalid_grant"),
    ],
)
def test_a_wrong_assertion_is_refused(oauth: OAuthRules, claims: dict[str, object], expected: str) -> None:
    found = oauth_answer(oauth, claims)
    assert (found.status, json.loads(found.body)["error"]) == (400, expected)


def test_googles_own_audience_is_accepted(oauth: OAuthRules) -> None:
    """google-auth names it in every assertion, whatever token_uri the account file gives."""
    found = oauth_answer(oauth, {"aud": "https://oauth2.googleapis.com/token"})
    assert found.status == 200


def test_a_strangers_signature_is_refused(oauth: OAuthRules) -> None:
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    found = oauth_answer(oauth, key=stranger)
    assert json.loads(found.body) == {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
