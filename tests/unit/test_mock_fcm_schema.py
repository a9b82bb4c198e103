"""The mock's FCM knows every field of the reference and its type; the service of topics, its limits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pushq.mock.exchange import Answer, Request
from pushq.mock.fcm_schema import objections
from pushq.mock.fcm_topics import TopicRules
from tests.unit.mock_provider import ACCESS_TOKEN, FCM_ALIVE, FCM_DEAD, NOW


@pytest.mark.parametrize(
    ("message", "field", "with_code"),
    [
        ({"titel": "x"}, "message", False),
        ({"notification": {"titel": "x"}}, "message.notification", False),
        ({"android": {"notification": {"channelID": "x"}}}, "message.android.notification", False),
        ({"notification": "x"}, "message.notification", False),
        ({"notification": {"title": 5}}, "message.notification.title", False),
        ({"data": {"a": "b", "n": 5}}, "message.data[1].value", False),
        ({"android": {"priority": "urgent"}}, "message.android.priority", False),
        ({"android": {"ttl": 5}}, "message.android.ttl", False),
        ({"android": {"ttl": "2419201s"}}, "message.android.ttl", True),
        ({"android": {"direct_boot_ok": "yes"}}, "message.android.direct_boot_ok", False),
        (
            {"android": {"notification": {"notification_count": True}}},
            "message.android.notification.notification_count",
            False,
        ),
        (
            {"android": {"notification": {"title_loc_args": ["a", 1]}}},
            "message.android.notification.title_loc_args[1]",
            False,
        ),
        ({"apns": {"headers": {"apns-expiration": 10}}}, "message.apns.headers[0].value", False),
        ({"webpush": {"fcm_options": {"link": 5}}}, "message.webpush.fcm_options.link", False),
        ({"topic": "a b"}, "message.topic", True),
        ({"condition": "news"}, "message.condition", True),
        ({"condition": " || ".join(f"'t{n}' in topics" for n in range(6))}, "message.condition", True),
        ({"fcm_options": {"analytics_label": "a b"}}, "message.fcm_options.analytics_label", True),
        (
            {"apns": {"fcmOptions": {"analyticsLabel": "a b"}}},
            "message.apns.fcm_options.analytics_label",
            True,
        ),
        (
            {"data": {}, "apns": {"headers": {"apns-priority": "10"}}},
            "message.apns.headers.apns-priority",
            True,
        ),
    ],
)
def test_what_is_wrong_is_named(message: dict[str, Any], field: str, with_code: bool) -> None:
    assert [(found.field, found.with_code) for found in objections(message)] == [(field, with_code)]


@pytest.mark.parametrize(
    "message",
    [
        {"topic": "/topics/news"},
        {"condition": "'a' in topics && ('b' in topics || !('c' in topics))"},
        {"android": {"collapseKey": "c", "ttl": "3.5s", "directBootOk": True}},
        {"apns": {"payload": {"aps": {"alert": {"anything": [1]}}}, "headers": {"apns-priority": "10"}}},
        {"notification": {"title": "T"}, "apns": {"headers": {"apns-priority": "10"}}},
        {"webpush": {"notification": {"actions": [{"x": 1}]}, "headers": {"TTL": "5"}}},
        {"android": {"notification": {"light_settings": {"color": {"red": 1}, "light_on_duration": "1s"}}}},
    ],
)
def test_what_is_right_passes(message: dict[str, Any]) -> None:
    assert list(objections(message)) == []


class Service:
    def __init__(self) -> None:
        def good_until(token: str, now: float) -> float | None:
            return now + 3600 if token == ACCESS_TOKEN else None

        self.rules = TopicRules(good_until, b"deaddeaddead", lambda now: None)

    def ask(
        self, document: object, path: str = "/iid/v1:batchAdd", method: str = "POST", **headers: str
    ) -> Answer:
        given = {"authorization": f"Bearer {ACCESS_TOKEN}", "access_token_auth": "true"} | headers
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        request = Request(method, path, tuple(given.items()), body, len(body))
        return self.rules.admit(request, self.rules.open_session(), NOW) or self.rules.consider(request, NOW)


@pytest.fixture
def service() -> Service:
    return Service()


def test_each_token_has_its_own_result(service: Service) -> None:
    asked = {"to": "/topics/news", "registration_tokens": [FCM_ALIVE, FCM_DEAD, "short"]}
    found = service.ask(asked)
    assert json.loads(found.body) == {"results": [{}, {"error": "NOT_FOUND"}, {"error": "INVALID_ARGUMENT"}]}
    assert service.rules.subscribed == {"news": {FCM_ALIVE}}
    # Repeating it does no harm, either way.
    service.ask(asked)
    for _ in range(2):
        assert service.ask(asked, "/iid/v1:batchRemove").status == 200
    assert service.rules.subscribed == {"news": set()}


def test_a_device_has_2000_topics_at_most(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushq.mock.fcm_topics.MAX_TOPICS", 1)
    service.ask({"to": "/topics/one", "registration_tokens": [FCM_ALIVE]})
    found = service.ask({"to": "/topics/two", "registration_tokens": [FCM_ALIVE]})
    assert json.loads(found.body) == {"results": [{"error": "TOO_MANY_TOPICS"}]}


@pytest.mark.parametrize(
    ("call", "status", "error"),
    [
        ({"document": {}, "path": "/iid/v2:batchAdd"}, 404, "NOT_FOUND"),
        ({"document": {}, "method": "GET"}, 405, "METHOD_NOT_ALLOWED"),
        ({"document": {}, "authorization": "Bearer other"}, 401, "UNAUTHENTICATED"),
        ({"document": {}, "access_token_auth": "false"}, 401, "UNAUTHENTICATED"),
        ({"document": b"{"}, 400, "INVALID_ARGUMENT"),
        ({"document": {"to": "news", "registration_tokens": [FCM_ALIVE]}}, 400, "INVALID_ARGUMENT"),
        ({"document": {"to": "/topics/news", "registration_tokens": [5]}}, 400, "INVALID_ARGUMENT"),
        ({"document": {"to": "/topics/news", "registration_tokens": []}}, 400, "MISSING_REGISTRATION_TOKENS"),
        (
            {"document": {"to": "/topics/news", "registration_tokens": [FCM_ALIVE] * 1001}},
            400,
            "TOO_MANY_REGISTRATION_TOKENS",
        ),
    ],
)
def test_what_it_refuses(service: Service, call: dict[str, Any], status: int, error: str) -> None:
    found = service.ask(**call)
    assert (found.status, json.loads(found.body)) == (status, {"error": error})
