"""Channels of the mock: what Apple refuses, in Apple's words; and what a client certificate may do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pushq.mock.apns_channels import ChannelRules
from pushq.mock.exchange import Answer, AnswerSpec, ClientIdentity, Request
from tests.unit.mock_provider import (
    ALIVE,
    BODY,
    NOW,
    TOPIC,
    apns_headers,
    apns_request,
    apns_rules,
    good_provider_token,
)

MANAGE = f"/1/apps/{TOPIC}/channels"
ALL = f"/1/apps/{TOPIC}/all-channels"
WANTED = {"message-storage-policy": 1, "push-type": "LiveActivity"}


class Host:
    """A management host and the environment whose channels it makes."""

    def __init__(self) -> None:
        self.apns = apns_rules()
        self.rules = ChannelRules(self.apns)
        self.session = self.rules.open_session()

    def ask(
        self,
        method: str,
        path: str = MANAGE,
        *,
        channel: str | None = None,
        body: object = None,
        authorized: bool = True,
    ) -> Answer:
        headers = [("authorization", f"bearer {good_provider_token()}")] if authorized else []
        headers += [] if channel is None else [("apns-channel-id", channel)]
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = Request(method, path, tuple(headers), content, len(content))
        return self.rules.admit(request, self.session, NOW) or self.rules.consider(request, NOW)

    def channel(self, policy: int = 0) -> str:
        made = self.ask("POST", body={**WANTED, "message-storage-policy": policy})
        assert made.status == 201
        return dict(made.headers)["apns-channel-id"]

    def broadcast(
        self, body: bytes = BODY, path: str = f"/4/broadcasts/apps/{TOPIC}", **changes: str | None
    ) -> Answer:
        headers = dict(apns_headers(apns_topic=None, apns_push_type="liveactivity"))
        headers |= {name.replace("_", "-"): value for name, value in changes.items() if value is not None}
        for name, value in changes.items():
            if value is None:
                headers.pop(name.replace("_", "-"), None)
        request = Request("POST", path, tuple(headers.items()), body, len(body))
        session = self.apns.open_session()
        return self.apns.admit(request, session, NOW) or self.apns.consider(request, NOW)


@pytest.fixture
def host() -> Host:
    return Host()


def test_a_channels_life(host: Host) -> None:
    channel = host.channel(policy=1)
    read = host.ask("GET", channel=channel)
    assert (read.status, json.loads(read.body)) == (200, WANTED)
    assert json.loads(host.ask("GET", ALL).body) == {"channels": [channel]}
    assert host.ask("DELETE", channel=channel).status == 204
    assert json.loads(host.ask("GET", ALL).body) == {"channels": []}


@pytest.mark.parametrize(
    ("method", "path", "channel", "body", "status", "reason"),
    [
        ("GET", MANAGE, None, None, 400, "MissingChannelId"),
        ("GET", MANAGE, "not base64!", None, 400, "BadChannelId"),
        ("DELETE", MANAGE, "Z29uZQ==", None, 400, "ChannelNotRegistered"),
        ("POST", MANAGE, None, b"{", 400, "BadRequestPayload"),
        ("POST", MANAGE, None, {**WANTED, "more": 1}, 400, "BadRequestParams"),
        ("POST", MANAGE, None, {**WANTED, "message-storage-policy": 2}, 400, "BadRequestParams"),
        ("POST", MANAGE, None, {**WANTED, "message-storage-policy": True}, 400, "BadRequestParams"),
        ("POST", MANAGE, None, {"message-storage-policy": 1}, 400, "MissingPushType"),
        ("POST", MANAGE, None, {**WANTED, "push-type": "Alert"}, 400, "InvalidPushType"),
        ("PUT", MANAGE, None, None, 405, "MethodNotAllowed"),
        ("POST", ALL, None, None, 405, "MethodNotAllowed"),
        ("GET", "/1/apps", None, None, 404, "BadPath"),
        ("GET", f"/1/apps/{TOPIC}.voip/channels", None, None, 400, "TopicDisallowed"),
        ("GET", "/1/apps/org.other/channels", None, None, 403, "TopicMismatch"),
    ],
)
def test_what_management_refuses(
    host: Host, method: str, path: str, channel: str | None, body: object, status: int, reason: str
) -> None:
    found = host.ask(method, path, channel=channel, body=body)
    assert (found.status, found.reason, json.loads(found.body)) == (status, reason, {"reason": reason})
    assert len(dict(found.headers)["apns-request-id"]) == 36


def test_management_asks_for_a_credential(host: Host) -> None:
    assert host.ask("GET", ALL, authorized=False).reason == "MissingProviderToken"


def test_the_limit_of_channels(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushq.mock.apns_channels.MAX_CHANNELS", 1)
    host.channel()
    assert host.ask("POST", body=WANTED).reason == "CannotCreateChannelConfig"


def test_a_fault_in_apples_words(host: Host) -> None:
    request = Request("GET", ALL, (), b"", 0)
    found = host.rules.word(AnswerSpec(429, "TooManyRequests", retry_after=3), request, NOW)
    assert (found.status, json.loads(found.body)) == (429, {"reason": "TooManyRequests"})
    assert dict(found.headers)["retry-after"] == "3"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"apns_channel_id": None}, "MissingChannelId"),
        ({"apns_channel_id": "!"}, "BadChannelId"),
        ({"apns_channel_id": "Z29uZQ=="}, "ChannelNotRegistered"),
        ({"apns_push_type": None}, "MissingPushType"),
        ({"apns_push_type": "alert"}, "InvalidPushType"),
        ({"apns_priority": None}, "BadPriority"),
        ({"apns_priority": "7"}, "BadPriority"),
        ({"apns_expiration": None}, "BadExpirationDate"),
        ({"apns_expiration": "soon"}, "BadExpirationDate"),
        ({"apns_expiration": "1900000000"}, "BadExpirationDate"),
        ({"authorization": None}, "MissingProviderToken"),
    ],
)
def test_what_a_channels_message_needs(host: Host, changes: dict[str, Any], reason: str) -> None:
    given: dict[str, Any] = {"apns_channel_id": host.channel(policy=0)} | changes
    assert host.broadcast(**given).reason == reason


def test_a_channels_message(host: Host) -> None:
    plain, stored = host.channel(policy=0), host.channel(policy=1)
    found = host.broadcast(apns_channel_id=plain)
    assert (found.status, found.rings) == (200, True)
    assert {"apns-request-id", "apns-unique-id"} == set(dict(found.headers))
    assert host.broadcast(apns_channel_id=stored, apns_expiration="1900000000").status == 200
    room = 5120 - len(b'{"a":""}')
    assert host.broadcast(b'{"a":"%b"}' % (b"x" * room), apns_channel_id=plain).status == 200
    assert (
        host.broadcast(b'{"a":"%b"}' % (b"x" * (room + 1)), apns_channel_id=plain).reason == "PayloadTooLarge"
    )
    assert host.broadcast(b"[]", apns_channel_id=plain).reason == "PayloadEmpty"
    assert (
        host.broadcast(path="/4/broadcasts/apps/org.other", apns_channel_id=plain).reason == "TopicMismatch"
    )


@pytest.mark.parametrize(
    ("user_id", "changes", "reason"),
    [
        (TOPIC, {}, None),
        # It stands for the authorization, and for the topic.
        (TOPIC, {"apns_topic": None}, None),
        (TOPIC, {"authorization": "bearer nonsense"}, None),
        (TOPIC, {"apns_topic": f"{TOPIC}.voip", "apns_push_type": "voip"}, None),
        (TOPIC, {"apns_topic": f"{TOPIC}.location-query", "apns_push_type": "location"}, "TopicDisallowed"),
        (TOPIC, {"apns_topic": "org.other"}, "TopicDisallowed"),
        ("org.other", {}, "TopicDisallowed"),
    ],
)
def test_a_client_certificate(user_id: str, changes: dict[str, Any], reason: str | None) -> None:
    rules = apns_rules()
    session = rules.open_session()
    session.certificate = ClientIdentity(user_id, NOW + 100)
    request = apns_request(ALIVE, **{"authorization": None, **changes})
    found = rules.admit(request, session, NOW)
    assert (None if found is None else found.reason) == reason
    if reason is None:
        assert (session.credential_accepted, session.good_until) == (True, NOW + 100)
