"""Overrides by platform, variants by language, and the checks that each platform makes of all of them at the call."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from pushq.errors import InvalidRequest
from pushq.notification import Notification, parse_notification
from pushq.submission import check_notification, parse_submission, submit

_NOW = datetime(2030, 1, 1, tzinfo=UTC)


def _submit(notification: dict[str, Any], **more: Any) -> Any:
    return submit(
        "transactional",
        notification=notification,
        audience={"user_ids": [1, 2]},
        guarantee="at_least_once",
        called_at=_NOW,
        **more,
    )


@pytest.mark.parametrize(
    ("value", "field", "says"),
    [
        ({"title": "Hi {name"}, "notification.title", "{{ for a brace"),
        ({"title": "x", "body": "{Name}"}, "notification.body", "lower-case"),
        ({"title": "x", "link": "no scheme"}, "notification.link", "shop://"),
        ({"title": "x", "link": "{all}"}, "notification.link", "scheme"),
        ({"title": "x", "image": "{all}"}, "notification.image", "https://"),
        (
            {"data": {"a": "b"}, "data_templates": {"a": "c"}},
            "notification.data_templates.a",
            "one of the two",
        ),
        ({"data_templates": {"from": "c"}}, "notification.data_templates.from", "reserve"),
        ({"data_templates": {"a": "{"}}, "notification.data_templates.a", "nothing closes"),
        ({"title": "x", "defaults": {"A": "b"}}, "notification.defaults.A", "no name"),
        ({"title": "x", "defaults": {"a": 5}}, "notification.defaults.a", "a text"),
        ({"title": "x", "languages": ["de"]}, "notification.languages", "mapping"),
        (
            {"title": "x", "languages": {"german": {"title": "y"}, "d": {}}},
            "notification.languages.d",
            "'pt-BR'",
        ),
        ({"title": "x", "languages": {"de": {}}}, "notification.languages.de", "some of"),
        ({"title": "x", "languages": {"de": {"titel": "y"}}}, "notification.languages.de.titel", "'title'"),
        (
            {"title": "x", "languages": {"de": {"ttl": 5}}},
            "notification.languages.de.ttl",
            "an unknown field",
        ),
        ({"title": "x", "languages": {"de": {"title": "{"}}}, "notification.languages.de.title", "closes"),
        (
            {"title": "x", "languages": {"de-AT": {"title": "y"}, "de_at": {"title": "z"}}},
            "notification.languages.de_at",
            "twice",
        ),
        (
            {"title": "x", "languages": {"de": {"apns": {"priority": 5}}}},
            "notification.languages.de.apns.priority",
            "cannot differ by language",
        ),
        (
            {"data": {"a": "b"}, "languages": {"de": {"title": "y"}}},
            "notification.languages.de.title",
            "none",
        ),
        ({"data": {"a": "b"}, "apns": {"title": "y"}}, "notification.apns", "silent"),
        ({"title": "x", "apns": "loud"}, "notification.apns", "mapping"),
        ({"title": "x", "fcm": {"data": {"gcm": "y"}}}, "notification.fcm.data.gcm", "reserve"),
        ({"title": "x", "hms": {"title": ""}}, "notification.hms.title", "empty"),
        ({"title": "x", "apns": {"aps": {"x": float("nan")}}}, "notification.apns.aps.x", "finite"),
        ({"title": "x", "apns": {"subtitle": "{"}}, "notification.apns.subtitle", "closes"),
        ({"title": "x", "apns": {"aps": {"x": object()}}}, "notification.apns.aps.x", "a text, a number"),
    ],
)
def test_refusals_name_the_field(value: object, field: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_notification(value)
    assert caught.value.field == field
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("notification", "field"),
    [
        ({"title": "x", "apns": {"priority": 3}}, "notification.apns.priority"),
        ({"title": "x", "apns": {"prioritty": 5}}, "notification.apns.prioritty"),
        ({"title": "x", "apns": {"payload": {"aps": {}}}}, "notification.apns.payload.aps"),
        ({"title": "x", "fcm": {"android": {"ttl": "1d"}}}, "notification.fcm.android.ttl"),
        ({"title": "x", "fcm": {"analytics_label": "a b"}}, "notification.fcm.analytics_label"),
        ({"title": "x", "hms": {"nonsense": 1}}, "notification.hms.nonsense"),
        ({"title": "x", "body": "y" * 4000, "data": {"k": "v" * 200}}, "notification"),
        ({"title": "x", "languages": {"de": {"body": "y" * 5000}}}, "notification.languages.de"),
        (
            {"title": "x", "languages": {"de": {"body": "{a|" + "y" * 5000 + "}"}}},
            "notification.languages.de",
        ),
        ({"title": "x", "image": "https://a/b", "data": {"image": "c"}}, "notification.data.image"),
    ],
)
def test_each_platform_is_asked_at_the_call(notification: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _submit(notification)
    assert caught.value.field == field


MESSAGE: dict[str, Any] = {
    "title": "Sale for {first_name|you}",
    "body": "20 %",
    "image": "https://shop.example/{sku}.png",
    "link": "https://shop.example/sale",
    "category": "SALE",
    "sound": "default",
    "data": {"a": "{literal}"},
    "data_templates": {"sku": "{sku}"},
    "defaults": {"sku": "none"},
    "ttl": 60,
    "languages": {"de": {"title": "Ausverkauf", "apns": {"subtitle": "Bis {sku}"}, "fcm": {"title": "SALE"}}},
    "apns": {"sound": {"name": "bell.caf", "critical": 1}, "subtitle": "{sku}", "thread_id": "sale"},
    "fcm": {"title": "Android sale", "data": {"b": "c"}},
}


def test_what_is_parsed_comes_back_from_json() -> None:
    parsed = parse_notification(MESSAGE)
    assert parse_notification(json.loads(json.dumps(parsed.as_json()))) == parsed
    assert {placeholder.name for placeholder in parsed.placeholders()} == {"first_name", "sku"}
    called = _submit(MESSAGE, values={1: {"sku": "x"}, 2: {"sku": 5}})
    assert parse_submission(json.loads(json.dumps(called.as_json()))) == called
    assert called.fingerprint() != _submit(MESSAGE).fingerprint()


def test_a_platform_gets_its_overrides_and_not_the_others() -> None:
    parsed = parse_notification(MESSAGE)
    apns, fcm = parsed.for_platform("apns"), parsed.for_platform("fcm")
    assert (apns.title, fcm.title) == ("Sale for {first_name|you}", "Android sale")
    # A sound that is a mapping is an option of APNs, not the message's field.
    assert apns.apns["sound"] == {"name": "bell.caf", "critical": 1}
    assert (apns.fcm, fcm.apns, fcm.fcm) == ({}, {}, {})
    assert fcm.data == {"a": "{literal}", "b": "c"}
    assert apns.data == {"a": "{literal}"}


def test_a_language_is_said_over_the_platforms_own_text() -> None:
    """Who writes a title for Android and one for Germans means the latter for Germans with Android, unless he says so there."""
    parsed = parse_notification(MESSAGE)
    assert parsed.for_platform("apns").in_language("de").title == "Ausverkauf"
    assert parsed.for_platform("fcm").in_language("de").title == "SALE"
    german = parsed.for_platform("apns").in_language("de")
    assert german.apns["subtitle"] == "Bis {sku}"
    assert german.apns["thread_id"] == "sale"
    assert german.body == "20 %"


def test_filled_has_no_placeholder_left() -> None:
    plain = parse_notification(MESSAGE).for_platform("apns").plain()
    assert not plain.personal
    assert plain.title == "Sale for you"
    assert plain.image == "https://shop.example/none.png"
    assert plain.data == {"a": "{literal}", "sku": "none"}
    assert plain.apns["subtitle"] == "none"


def test_a_plain_message_stays_what_it_is() -> None:
    """Nothing of all this costs a message that uses none of it."""
    message = parse_notification({"title": "Sale", "body": "{{20}} %", "data": {"a": "{b}"}})
    assert not message.personal
    for platform in ("apns", "fcm", "hms"):
        assert message.for_platform(platform).plain() == Notification(
            title="Sale", body="{20} %", data={"a": "{b}"}
        )


def test_every_platform_takes_the_whole_message() -> None:
    parsed = parse_notification(MESSAGE)
    for platform in ("apns", "fcm", "hms"):
        check_notification(parsed, platform)
