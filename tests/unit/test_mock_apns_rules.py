"""What the mock's APNs says, request by request. Reasons and statuses: Apple, "Handling notification responses from APNs"."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pushq.mock.apns import PRODUCTION_PREFIX, SANDBOX_PREFIX, ApnsRules, ApnsSession
from pushq.mock.exchange import Answer, Request
from tests.unit.mock_provider import (
    ALIVE,
    BODY,
    DEAD,
    NOW,
    TOPIC,
    apns_headers,
    apns_request,
    apns_rules,
    provider_token,
)


def answer(
    request: Request, rules: ApnsRules | None = None, session: ApnsSession | None = None, now: float = NOW
) -> Answer:
    rules = rules or apns_rules()
    refused = rules.admit(request, session or rules.open_session(), now)
    return refused or rules.consider(request, now)


def said(found: Answer) -> tuple[int, str | None]:
    reason = json.loads(found.body)["reason"] if found.body else None
    assert reason == found.reason
    return found.status, reason


def test_a_good_request_is_accepted_with_an_id_and_no_body() -> None:
    found = answer(apns_request())
    assert (found.status, found.body, found.rings) == (200, b"", True)
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", dict(found.headers)["apns-id"]
    )
    assert "apns-unique-id" not in dict(found.headers)


def test_the_given_id_comes_back_and_sandbox_adds_its_own() -> None:
    given = "123e4567-e89b-12d3-a456-4266554400a0"
    found = answer(apns_request(apns_id=given), apns_rules("sandbox"))
    assert dict(found.headers)["apns-id"] == given
    assert dict(found.headers)["apns-unique-id"] != given


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (apns_request(authorization=None), (403, "MissingProviderToken")),
        (apns_request(authorization="bearer nonsense"), (403, "InvalidProviderToken")),
        (apns_request(authorization=f"Basic {provider_token()}"), (403, "InvalidProviderToken")),
        (
            apns_request(authorization=f"bearer {provider_token(team='OTHER12345')}"),
            (403, "InvalidProviderToken"),
        ),
        (
            apns_request(authorization=f"bearer {provider_token(key_id='OTHER12345')}"),
            (403, "InvalidProviderToken"),
        ),
        (apns_request(authorization=f"bearer {provider_token(NOW - 3700)}"), (403, "ExpiredProviderToken")),
        (apns_request(authorization=f"bearer {provider_token(NOW + 3700)}"), (403, "InvalidProviderToken")),
        (apns_request(apns_topic=None), (400, "MissingTopic")),
        (apns_request(apns_topic="spaces are bad"), (400, "BadTopic")),
        (apns_request(apns_topic="org.other.app"), (400, "TopicDisallowed")),
        (apns_request(apns_topic=f"{TOPIC}.voip"), (400, "DeviceTokenNotForTopic")),
        (apns_request(""), (400, "MissingDeviceToken")),
        (apns_request("ab" * 31), (400, "BadDeviceToken")),
        (apns_request("zz" * 32), (400, "BadDeviceToken")),
        (apns_request(ALIVE + "a"), (400, "BadDeviceToken")),
        (apns_request(apns_id="not-a-uuid"), (400, "BadMessageId")),
        (apns_request(apns_push_type="telegram"), (400, "InvalidPushType")),
        (apns_request(apns_priority="7"), (400, "BadPriority")),
        (apns_request(apns_push_type="background"), (400, "BadPriority")),
        (apns_request(apns_push_type="background", apns_priority=None), (400, "BadPriority")),
        (apns_request(apns_expiration="tomorrow"), (400, "BadExpirationDate")),
        (apns_request(apns_expiration="-1"), (400, "BadExpirationDate")),
        (apns_request(apns_collapse_id="x" * 65), (400, "BadCollapseId")),
        (apns_request(body=b""), (400, "PayloadEmpty")),
        (apns_request(body=b"not json"), (400, "PayloadEmpty")),
        (apns_request(body=b'{"a":"' + b"x" * 4089 + b'"}'), (413, "PayloadTooLarge")),
        (dataclasses.replace(apns_request(), method="GET"), (405, "MethodNotAllowed")),
        (dataclasses.replace(apns_request(), path="/3/devices/x"), (404, "BadPath")),
        (
            dataclasses.replace(apns_request(), headers=(*apns_headers(), ("apns-topic", TOPIC))),
            (400, "DuplicateHeaders"),
        ),
    ],
)
def test_what_is_wrong_is_refused_in_apples_words(request_: Request, expected: tuple[int, str]) -> None:
    assert said(answer(request_)) == expected


@pytest.mark.parametrize(
    "request_",
    [
        apns_request(body=b'{"a":"' + b"x" * 4088 + b'"}'),
        apns_request("ab" * 80),
        apns_request(ALIVE.upper()),
        apns_request(apns_push_type=None),
        apns_request(apns_push_type="background", apns_priority="5"),
        apns_request(apns_push_type="voip", apns_topic=f"{TOPIC}.voip", body=b'{"a":"' + b"x" * 5112 + b'"}'),
        apns_request(apns_collapse_id="x" * 64),
    ],
)
def test_what_is_just_right_is_accepted(request_: Request) -> None:
    assert answer(request_).status == 200


def test_another_key_of_the_same_name_is_refused() -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    found = answer(apns_request(authorization=f"bearer {provider_token(key=stranger)}"))
    assert said(found) == (403, "InvalidProviderToken")


def test_each_check_hides_the_ones_after_it() -> None:
    """Provider token, topic, device token, other headers: the order observed in the field."""
    wrong: dict[str, str | None] = {
        "authorization": "bearer x",
        "apns_topic": "org.other",
        "apns_collapse_id": "x" * 65,
    }
    order = ["InvalidProviderToken", "TopicDisallowed", "BadDeviceToken", "BadCollapseId"]
    found = []
    for name in ("authorization", "apns_topic", "token"):
        found.append(answer(apns_request("zz", BODY, **wrong)).reason)
        wrong.pop(name, None)
    found.append(answer(apns_request(ALIVE, BODY, **wrong)).reason)
    assert found == order


def test_a_dead_token_is_gone_since_now_in_milliseconds() -> None:
    found = answer(apns_request(DEAD))
    assert found.status == 410
    assert json.loads(found.body) == {"reason": "Unregistered", "timestamp": int(NOW * 1000)}


def test_tokens_may_belong_to_one_environment_only() -> None:
    sandbox_token = SANDBOX_PREFIX.decode() + "0" * 52
    production_token = PRODUCTION_PREFIX.decode() + "0" * 52
    assert answer(apns_request(sandbox_token)).reason == "BadDeviceToken"
    assert answer(apns_request(sandbox_token), apns_rules("sandbox")).status == 200
    assert answer(apns_request(production_token), apns_rules("sandbox")).reason == "BadDeviceToken"
    assert answer(apns_request(production_token)).status == 200


def test_a_second_provider_token_within_twenty_minutes_spoils_the_connection() -> None:
    rules, first, second = apns_rules(), provider_token(NOW - 60), provider_token(NOW)
    session = rules.open_session()
    assert answer(apns_request(authorization=f"bearer {first}"), rules, session).status == 200
    refused = answer(apns_request(authorization=f"bearer {second}"), rules, session, NOW + 1199)
    assert said(refused) == (429, "TooManyProviderTokenUpdates")
    assert answer(apns_request(authorization=f"bearer {first}"), rules, session, NOW + 1199).status == 429
    other_connection = rules.open_session()
    assert (
        answer(apns_request(authorization=f"bearer {second}"), rules, other_connection, NOW + 1199).status
        == 200
    )


def test_a_new_provider_token_after_twenty_minutes_is_fine() -> None:
    rules = apns_rules()
    session = rules.open_session()
    assert answer(apns_request(authorization=f"bearer {provider_token(NOW)}"), rules, session).status == 200
    later = NOW + 1200
    assert (
        answer(apns_request(authorization=f"bearer {provider_token(later)}"), rules, session, later).status
        == 200
    )


def test_an_expired_token_leaves_the_connection_unusable() -> None:
    rules = apns_rules()
    session = rules.open_session()
    assert answer(apns_request(), rules, session, NOW + 3601).reason == "ExpiredProviderToken"
    fresh = f"bearer {provider_token(NOW + 3601)}"
    assert (
        answer(apns_request(authorization=fresh), rules, session, NOW + 3601).reason == "ExpiredProviderToken"
    )
    assert answer(apns_request(authorization=fresh), rules, rules.open_session(), NOW + 3601).status == 200


def test_credentials_can_be_expired_at_will() -> None:
    rules = apns_rules()
    rules.expire_credentials(NOW + 1)
    assert answer(apns_request(), rules).reason == "ExpiredProviderToken"
    fresh = f"bearer {provider_token(NOW + 2)}"
    assert answer(apns_request(authorization=fresh), rules, now=NOW + 2).status == 200


def test_a_refused_credential_is_not_an_accepted_one() -> None:
    """The stream limit rises with the first accepted credential, also when the device token is bad."""
    rules = apns_rules()
    refused, bad_token = rules.open_session(), rules.open_session()
    answer(apns_request(authorization="bearer x"), rules, refused)
    answer(apns_request("zz"), rules, bad_token)
    assert (refused.credential_accepted, bad_token.credential_accepted) == (False, True)


def test_the_body_is_what_the_limit_counts() -> None:
    """Bytes, not characters; and a body that was cut on arrival still counts in full."""
    request = dataclasses.replace(apns_request(body=BODY), size=5000)
    assert said(answer(request)) == (413, "PayloadTooLarge")
