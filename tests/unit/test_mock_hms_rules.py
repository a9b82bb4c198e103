"""The mock's HMS: who may send what, and what Huawei would say, without a socket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from pushq.mock.exchange import Answer, GoAway, Request
from pushq.mock.faults import FaultTable
from pushq.mock.hms import AUDIENCE, HmsRules
from pushq.mock.hms_endpoint import HmsEndpoint, HmsTally
from pushq.mock.hms_oauth import TOKEN_PATH, HmsOAuthRules

NOW = 1_800_000_000.0
APP, PROJECT, SECRET = "1042", "3884", "a=/+\\"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
DEAD = b"deaddeaddead"
TOKENS = [f"token-{number:020d}" for number in range(3)]
NOTIFICATION = {
    "notification": {"title": "a", "body": "b"},
    "android": {"ttl": "60s", "notification": {"click_action": {"type": 3}}},
}


class Provider:
    """Both endpoints and what they counted."""

    def __init__(self) -> None:
        self.oauth = HmsOAuthRules(APP, SECRET)
        account = ("kid", "sub", KEY.public_key())
        self.rules = HmsRules(APP, PROJECT, self.oauth.good_until, account, DEAD)
        self.tally, self.faults = HmsTally(), FaultTable()
        self.endpoint = HmsEndpoint(self.rules, self.tally, self.faults)

    def token(self, now: float = NOW) -> str:
        answer = self.oauth.consider(form(), now)
        assert answer.status == 200, answer.body
        return str(orjson.loads(answer.body)["access_token"])

    def send(
        self,
        document: object,
        *,
        api: str = "v2",
        bearer: str | None = None,
        path_id: str | None = None,
        now: float = NOW,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        path_id = path_id or (APP if api == "v1" else PROJECT)
        bearer = bearer if bearer is not None else signed() if api == "v3" else self.token(now)
        body = document if isinstance(document, bytes) else orjson.dumps(document)
        sent = {"authorization": f"Bearer {bearer}"} | ({"push-type": "0"} if api == "v3" else {})
        request = Request(
            "POST",
            f"/{api}/{path_id}/messages:send",
            tuple((sent | dict(headers or {})).items()),
            body,
            len(body),
        )
        verdict = self.endpoint.decide(request, self.rules.open_session(), now)
        assert verdict.answer is not None
        return verdict.answer


@pytest.fixture
def provider() -> Provider:
    return Provider()


def form(**changes: str) -> Request:
    fields = {"grant_type": "client_credentials", "client_id": APP, "client_secret": SECRET} | changes
    body = urlencode({name: value for name, value in fields.items() if value}).encode()
    return Request("POST", TOKEN_PATH, (), body, len(body))


def signed(key: rsa.RSAPrivateKey = KEY, kid: str = "kid", algorithm: str = "PS256", **changes: Any) -> str:
    claims = {"iss": "sub", "aud": AUDIENCE, "iat": int(NOW), "exp": int(NOW) + 3600} | changes
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid})


def message(tokens: Sequence[str] = TOKENS, **changes: Any) -> dict[str, Any]:
    return {"message": {"token": list(tokens)} | NOTIFICATION | changes}


def scenario(tokens: Sequence[str] = TOKENS, **changes: Any) -> dict[str, Any]:
    shown = {"category": "IM", "title": "a", "body": "b", "clickAction": {"actionType": 0}}
    return {
        "payload": {"notification": shown},
        "target": {"token": list(tokens)},
        "pushOptions": {"ttl": 60},
    } | changes


def said(answer: Answer) -> tuple[int, str]:
    return answer.status, orjson.loads(answer.body)["code"]


@pytest.mark.parametrize("api", ["v1", "v2"])
def test_every_device_of_a_good_message_rings_once(provider: Provider, api: str) -> None:
    assert said(provider.send(message(), api=api)) == (200, "80000000")
    assert provider.tally.accepted == {token.encode(): 1 for token in TOKENS}
    assert (provider.tally.requests, provider.tally.rung) == (1, 3)


def test_v3_takes_its_own_form(provider: Provider) -> None:
    assert said(provider.send(scenario(), api="v3")) == (200, "80000000")
    silent = scenario(payload={"extraData": "x"})
    assert said(provider.send(silent, api="v3", headers={"push-type": "6"})) == (200, "80000000")
    assert set(provider.tally.accepted.values()) == {2}


def test_a_message_that_is_only_checked_rings_nowhere(provider: Provider) -> None:
    assert said(provider.send(message() | {"validate_only": True})) == (200, "80000000")
    assert provider.tally.accepted == {}


class TestTokens:
    def test_dead_ones_are_named_and_the_others_ring(self, provider: Provider) -> None:
        dead = "deaddeaddead-000000000"
        answer = provider.send(message([TOKENS[0], dead, TOKENS[1]]))
        assert said(answer) == (200, "80100000")
        inner = orjson.loads(orjson.loads(answer.body)["msg"])
        assert inner == {"success": 2, "failure": 1, "illegal_tokens": [dead]}
        assert set(provider.tally.accepted) == {TOKENS[0].encode(), TOKENS[1].encode()}

    def test_when_all_are_dead_nobody_is_named(self, provider: Provider) -> None:
        assert said(provider.send(message(["deaddeaddead-000000000"]))) == (200, "80300007")
        assert provider.tally.accepted == {}

    def test_a_token_of_another_form_is_illegal(self, provider: Provider) -> None:
        assert said(provider.send(message([TOKENS[0], "a b"]))) == (200, "80100000")

    @pytest.mark.parametrize("tokens", [[], ["t" * 30] * 1001])
    def test_one_to_a_thousand(self, provider: Provider, tokens: list[str]) -> None:
        assert said(provider.send(message(tokens))) == (400, "80300010")
        assert said(provider.send({"mesage": {}})) == (400, "80300010")

    def test_v3_has_smaller_numbers_for_forms_and_tests(self, provider: Provider) -> None:
        assert said(provider.send(scenario(), api="v3", headers={"push-type": "1"})) == (400, "80300010")
        test = {"pushOptions": {"testMessage": True}}
        many = [f"{number:030d}" for number in range(11)]
        assert said(provider.send(scenario(many, **test), api="v3")) == (400, "80300030")
        assert said(provider.send(scenario(many[:10], **test), api="v3")) == (200, "80000000")


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (b"no json", "80100001"),
        ([], "80100001"),
        (message(token="x"), "80300010"),
        (message([1]), "80100001"),  # type: ignore[list-item]
        (message(topic="news"), "80100001"),
        (message(color="red"), "80100001"),
        (message(data={"k": "v"}), "80100001"),
        (message(notification={"title": "a"}), "80100001"),
        (message(notification={"title": "a", "body": "b", "icon": "c"}), "80100001"),
        (message(android={}), "80100001"),
        (message(android={"notification": {}}), "80100001"),
        (message(android={"notification": {"click_action": {"type": 1}}}), "80100001"),
        (message(android={"notification": {"click_action": {"type": 2, "url": "http://a"}}}), "80100001"),
        (message(android={"notification": {"click_action": {"type": True}}}), "80100001"),
        ({"message": {"token": TOKENS}}, "80100003"),
        ({"message": {"token": TOKENS, "data": "x", "android": {"ttl": "0s"}}}, "80100004"),
        ({"message": {"token": TOKENS, "data": "x", "android": {"ttl": "1296001s"}}}, "80100001"),
        ({"message": {"token": TOKENS, "data": "x", "android": {"ttl": "1 day"}}}, "80100001"),
        ({"message": {"token": TOKENS, "data": "x", "android": {"collapse_key": 101}}}, "80100013"),
        ({"message": {"token": TOKENS, "data": "x", "android": {"urgency": "high"}}}, "80100001"),
        ({"message": {"token": TOKENS, "data": "x" * 4090}}, "80300008"),
    ],
)
def test_a_wrong_message_is_refused_with_its_code(provider: Provider, document: object, code: str) -> None:
    assert said(provider.send(document)) == (400, code)
    assert provider.tally.accepted == {}


def test_tokens_do_not_count_into_the_size(provider: Provider) -> None:
    many = [f"{number:0130d}" for number in range(1000)]
    assert said(provider.send({"message": {"token": many, "data": "x" * 4000}})) == (200, "80000000")


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (scenario(payload={}), "80100003"),
        (scenario(payload={"notification": {"title": "a", "body": "b"}}), "80100001"),
        (scenario(pushOptions={"ttl": 0}), "80100004"),
        (scenario(pushOptions={"ttl": "60s"}), "80100001"),
        (message(), "80100001"),
    ],
)
def test_v3_refuses_what_is_not_its_form(provider: Provider, document: object, code: str) -> None:
    assert said(provider.send(document, api="v3")) == (400, code)


class TestCredentials:
    @pytest.mark.parametrize("bearer", ["", "x", "a.b.c"])
    def test_one_that_was_never_given_out_is_refused(self, provider: Provider, bearer: str) -> None:
        assert said(provider.send(message(), bearer=bearer)) == (401, "80200001")

    def test_an_oauth_token_lasts_an_hour(self, provider: Provider) -> None:
        token = provider.token()
        assert said(provider.send(message(), bearer=token, now=NOW + 3599)) == (200, "80000000")
        assert said(provider.send(message(), bearer=token, now=NOW + 3600)) == (401, "80200003")

    def test_v3_takes_no_oauth_token(self, provider: Provider) -> None:
        assert said(provider.send(scenario(), api="v3", bearer=provider.token())) == (401, "80200001")

    @pytest.mark.parametrize(("api", "path_id"), [("v1", PROJECT), ("v2", APP)])
    def test_the_path_must_name_what_the_version_asks_for(
        self, provider: Provider, api: str, path_id: str
    ) -> None:
        assert said(provider.send(message(), api=api, path_id=path_id)) == (401, "80200001")

    @pytest.mark.parametrize("api", ["v1", "v2", "v3"])
    def test_a_service_account_may_use_every_version(self, provider: Provider, api: str) -> None:
        document = scenario() if api == "v3" else message()
        assert said(provider.send(document, api=api, bearer=signed())) == (200, "80000000")

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"iat": int(NOW) - 7200, "exp": int(NOW) - 3600}, "80200005"),
            ({"iat": int(NOW) + 3600, "exp": int(NOW) + 7200}, "80200001"),
            ({"exp": int(NOW) + 90_000}, "80300036"),
            ({"iss": "other"}, "80200001"),
            ({"aud": "https://example.com"}, "80200001"),
            ({"kid": "other"}, "80200001"),
            ({"algorithm": "RS256"}, "80200001"),
            ({"iat": None}, "80200001"),
            ({"key": rsa.generate_private_key(public_exponent=65537, key_size=2048)}, "80200001"),
        ],
    )
    def test_a_wrong_jwt_is_refused(self, provider: Provider, changes: dict[str, Any], code: str) -> None:
        assert said(provider.send(scenario(), api="v3", bearer=signed(**changes)))[1] == code

    def test_what_expires_is_refused_and_what_comes_after_is_not(self, provider: Provider) -> None:
        token, made = provider.token(), signed()
        provider.oauth.expire_credentials(NOW)
        provider.rules.expire_credentials(NOW)
        assert said(provider.send(message(), bearer=token))[1] == "80200003"
        assert said(provider.send(message(), bearer=made))[1] == "80200005"
        assert said(provider.send(message()))[1] == "80000000"
        later = signed(iat=int(NOW) + 1)
        assert said(provider.send(message(), bearer=later, now=NOW + 1))[1] == "80000000"

    def test_a_path_that_is_none(self, provider: Provider) -> None:
        assert provider.send(message(), api="v4").status == 404
        assert provider.send(message(), api="v2", path_id="x").status == 404

    def test_v3_needs_its_header(self, provider: Provider) -> None:
        assert said(provider.send(scenario(), api="v3", headers={"push-type": "3"})) == (400, "80100001")


class TestOAuth:
    @pytest.mark.parametrize(
        ("changes", "numbers"),
        [
            ({"grant_type": "password"}, (1101, 20182)),
            ({"client_id": ""}, (1102, 20001)),
            ({"client_secret": ""}, (1102, 20001)),
            ({"client_id": "1"}, (1203, 12303)),
            ({"client_secret": "x"}, (1101, 12304)),
        ],
    )
    def test_a_wrong_form_is_refused(self, provider: Provider, changes: dict[str, str], numbers: Any) -> None:
        answer = provider.oauth.consider(form(**changes), NOW)
        document = orjson.loads(answer.body)
        assert (answer.status, (document["error"], document["sub_error"])) == (400, numbers)

    def test_a_secret_that_was_not_encoded_is_another_one(self, provider: Provider) -> None:
        body = f"grant_type=client_credentials&client_id={APP}&client_secret={SECRET}".encode()
        assert provider.oauth.consider(Request("POST", TOKEN_PATH, (), body, len(body)), NOW).status == 400

    def test_a_token_is_written_with_escapes(self, provider: Provider) -> None:
        body = provider.oauth.consider(form(), NOW).body
        assert b"\\/" in body
        assert "\\" not in orjson.loads(body)["access_token"]

    def test_over_a_thousand_in_five_minutes_are_too_many(self, provider: Provider) -> None:
        session = provider.oauth.open_session()
        answers = [provider.oauth.admit(form(), session, NOW) for _ in range(1001)]
        assert [a is None for a in answers] == [True] * 1000 + [False]
        assert answers[-1] is not None
        assert answers[-1].status == 503
        assert provider.oauth.admit(form(), session, NOW + 300) is None

    def test_other_places(self, provider: Provider) -> None:
        session = provider.oauth.open_session()
        for method, path, status in (("GET", TOKEN_PATH, 405), ("POST", "/token", 404)):
            answer = provider.oauth.admit(Request(method, path, (), b"", 0), session, NOW)
            assert answer is not None
            assert answer.status == status


class TestFaults:
    def fault(self, provider: Provider, **fault: Any) -> None:
        provider.faults.replace([{"platform": "hms"} | fault])

    def test_a_device_can_be_struck_alone(self, provider: Provider) -> None:
        self.fault(provider, token=TOKENS[1], answer={"status": 200, "reason": "80100000"})
        answer = provider.send(message())
        assert orjson.loads(orjson.loads(answer.body)["msg"])["illegal_tokens"] == [TOKENS[1]]
        assert set(provider.tally.accepted) == {TOKENS[0].encode(), TOKENS[2].encode()}

    def test_every_other_answer_is_the_whole_requests(self, provider: Provider) -> None:
        self.fault(provider, token=TOKENS[1], times=1, answer={"status": 400, "reason": "81000001"})
        assert said(provider.send(message())) == (400, "81000001")
        assert provider.tally.accepted == {}
        assert said(provider.send(message())) == (200, "80000000")

    def test_flow_control_has_no_body(self, provider: Provider) -> None:
        self.fault(provider, answer={"status": 503, "retry_after": 7})
        answer = provider.send(message())
        assert (answer.status, answer.body) == (503, b"")
        assert ("retry-after", "7") in answer.headers
        assert provider.send(message()).status == 503
        assert provider.tally.early == 3

    def test_devices_count_as_often_as_they_are_named(self, provider: Provider) -> None:
        self.fault(provider, over_per_minute=5, answer={"status": 503})
        assert provider.send(message()).status == 200
        assert provider.send(message()).status == 503

    @pytest.mark.parametrize("processed", [True, False])
    def test_an_answer_can_be_lost(self, provider: Provider, *, processed: bool) -> None:
        self.fault(provider, stall=True, processed=processed)
        body = orjson.dumps(message([*TOKENS, "deaddeaddead-000000000"]))
        path = f"/v2/{PROJECT}/messages:send"
        request = Request("POST", path, (("authorization", f"Bearer {provider.token()}"),), body, len(body))
        verdict = provider.endpoint.decide(request, provider.rules.open_session(), NOW)
        assert verdict.answer is None
        assert provider.tally.unanswered == {"stall": 1}
        assert provider.tally.rung == (3 if processed else 0)

    def test_a_goaway_takes_back_what_it_declares_unprocessed(self, provider: Provider) -> None:
        body = orjson.dumps(message())
        path = f"/v2/{PROJECT}/messages:send"
        request = Request("POST", path, (("authorization", f"Bearer {provider.token()}"),), body, len(body))
        verdict = provider.endpoint.decide(request, provider.rules.open_session(), NOW)
        assert verdict.rang is not None
        provider.tally.retract(verdict.rang)
        assert (provider.tally.accepted, provider.tally.rung, provider.tally.answers["200"]) == ({}, 0, 0)
        self.fault(provider, goaway={"last_stream_offset": -1})
        verdict = provider.endpoint.decide(request, provider.rules.open_session(), NOW)
        assert isinstance(verdict.effect, GoAway)
        assert (verdict.answer, verdict.rang, provider.tally.rung) == (None, None, 0)
