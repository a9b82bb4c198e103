"""What goes to HMS: the request's parts, by Huawei's pages."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from pushq.errors import InvalidRequest
from pushq.notification import Notification, parse_notification
from pushq.providers.hms import request
from pushq.providers.hms.options import Badge, ClickAction, HmsOptions, parse

TOKENS = [b"IQAAAACy0+/=aaaaaaaa", b"IQAAAACy0+/=bbbbbbbb"]


def notification(**fields: Any) -> Notification:
    return parse_notification({"title": "Sale", "body": "20% off"} | fields).for_platform("hms").plain()


def built(api: request.Api, collapse_id: str | None = None, **fields: Any) -> dict[str, Any]:
    message = request.content(notification(**fields), api=api, collapse_id=collapse_id)
    document: dict[str, Any] = orjson.loads(request.body(api, message, TOKENS))
    return document


def android(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = built("v2", **fields)["message"]["android"]
    return found


def shown_v3(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = built("v3", **fields)["payload"]["notification"]
    return found


class TestDownlink:
    def test_the_whole_body_of_a_plain_message(self) -> None:
        assert built("v1", "c-1", data={"campaign": "c-42"}, image="https://example.com/a.png") == {
            "validate_only": False,
            "message": {
                "token": ["IQAAAACy0+/=aaaaaaaa", "IQAAAACy0+/=bbbbbbbb"],
                "notification": {"title": "Sale", "body": "20% off", "image": "https://example.com/a.png"},
                "android": {
                    "urgency": "NORMAL",
                    "ttl": "86400s",
                    "notification": {"click_action": {"type": 3}, "tag": "c-1"},
                },
                "data": '{"campaign":"c-42"}',
            },
        }

    def test_v1_and_v2_have_the_same_body(self) -> None:
        assert built("v1", "c") == built("v2", "c")

    def test_a_silent_message_passes_data_through(self) -> None:
        message = built("v2", "c", title=None, body=None, data={"k": "v"})["message"]
        assert message == {
            "token": [token.decode() for token in TOKENS],
            "android": {"urgency": "NORMAL", "ttl": "86400s"},
            "data": '{"k":"v"}',
        }

    @pytest.mark.parametrize("api", ["v2", "v3"])
    def test_a_text_that_is_missing_is_the_other_one(self, api: request.Api) -> None:
        for fields in ({"title": None}, {"body": None}):
            document = built(api, **fields)
            shown = (document.get("message") or document["payload"])["notification"]
            assert shown["title"] == shown["body"] == ("20% off" if "title" in fields else "Sale")

    def test_only_checked(self) -> None:
        message = request.content(notification(), api="v2", collapse_id=None)
        assert orjson.loads(request.body("v2", message, TOKENS, validate_only=True))["validate_only"] is True

    def test_every_option_has_its_place(self) -> None:
        options = {
            "message_category": "IM",
            "urgency": "HIGH",
            "importance": "LOW",
            "ttl": 60,
            "collapse_key": 7,
            "tag": "t",
            "notify_id": 5,
            "channel_id": "news",
            "click_action": {"action": "com.example.OPEN"},
            "badge": {"add": 2, "entry": "com.example.Main"},
            "foreground_show": False,
            "test": True,
            "bi_tag": "b",
            "receipt_id": "r",
            "fast_app_target": 2,
            "android": {"notification": {"style": 1, "big_title": "Big"}},
        }
        assert android(hms=options) == {
            "urgency": "HIGH",
            "ttl": "60s",
            "collapse_key": 7,
            "category": "IM",
            "bi_tag": "b",
            "receipt_id": "r",
            "target_user_type": 1,
            "fast_app_target": 2,
            "notification": {
                "click_action": {"type": 1, "action": "com.example.OPEN"},
                "tag": "t",
                "notify_id": 5,
                "channel_id": "news",
                "importance": "LOW",
                "foreground_show": False,
                "badge": {"add_num": 2, "class": "com.example.Main"},
                "style": 1,
                "big_title": "Big",
            },
        }

    @pytest.mark.parametrize(
        ("fields", "action"),
        [
            ({"link": "https://shop.example/sale"}, {"type": 2, "url": "https://shop.example/sale"}),
            ({"link": "shop://orders/1"}, {"type": 1, "intent": "shop://orders/1"}),
            ({"category": "REPLY"}, {"type": 1, "action": "REPLY"}),
            ({"link": "shop://a", "hms": {"click_action": {"app": True}}}, {"type": 3}),
            (
                {"hms": {"click_action": {"url": "https://a.example"}}},
                {"type": 2, "url": "https://a.example"},
            ),
        ],
    )
    def test_what_a_tap_does(self, fields: dict[str, Any], action: dict[str, Any]) -> None:
        assert android(**fields)["notification"]["click_action"] == action

    @pytest.mark.parametrize(
        ("sound", "expected"),
        [
            ("default", {"default_sound": True}),
            ("shake.mp3", {"default_sound": False, "sound": "/raw/shake"}),
            ("shake", {"default_sound": False, "sound": "/raw/shake"}),
            ("/raw/shake", {"default_sound": False, "sound": "/raw/shake"}),
        ],
    )
    def test_a_sound_is_named_by_its_place(self, sound: str, expected: dict[str, Any]) -> None:
        look = android(sound=sound)["notification"]
        assert {key: value for key, value in look.items() if "sound" in key} == expected

    @pytest.mark.parametrize(("ttl", "expected"), [(0, "1s"), (2_419_200, "1296000s"), (5, "5s")])
    def test_a_ttl_is_within_what_huawei_takes(self, ttl: int, expected: str) -> None:
        assert android(ttl=ttl)["ttl"] == expected

    def test_a_badge_needs_the_class_of_the_start_page(self) -> None:
        assert "badge" not in android(badge=3)["notification"]
        entry = {"badge": {"entry": "com.example.Main"}}
        found = android(badge=300, hms=entry)["notification"]["badge"]
        assert found == {"set_num": 99, "class": "com.example.Main"}
        zero = android(hms={"badge": {"set": 0, "entry": "com.example.Main"}})["notification"]["badge"]
        assert zero == {"set_num": 0, "class": "com.example.Main"}

    def test_a_high_priority_asks_for_no_right_that_the_app_may_not_have(self) -> None:
        assert android(priority="high")["urgency"] == "NORMAL"


class TestScenario:
    def test_the_whole_body_of_a_plain_message(self) -> None:
        assert built("v3", "c-1", data={"k": "v"}, badge=3) == {
            "payload": {
                "notification": {
                    "category": "MARKETING",
                    "title": "Sale",
                    "body": "20% off",
                    "clickAction": {"actionType": 0, "data": {"k": "v"}},
                    "notifyId": 1143273150,
                    "badge": {"setNum": 3},
                }
            },
            "pushOptions": {"ttl": 86400},
            "target": {"token": ["IQAAAACy0+/=aaaaaaaa", "IQAAAACy0+/=bbbbbbbb"]},
        }

    def test_a_silent_message_is_a_background_one(self) -> None:
        silent = {"title": None, "body": None, "data": {"k": "v"}}
        assert built("v3", "c", **silent)["payload"] == {"extraData": '{"k":"v"}'}
        found = dict(request.headers(notification(**silent), api="v3", authorization=b"Bearer x"))
        assert found[b"push-type"] == b"6"

    def test_every_option_has_its_place(self) -> None:
        options = {
            "message_category": "IM",
            "ttl": 60,
            "collapse_key": 7,
            "notify_id": 5,
            "click_action": {"intent": "shop://a"},
            "badge": {"add": 2},
            "foreground_show": False,
            "test": True,
            "bi_tag": "b",
            "receipt_id": "r",
            "push_type": "voice",
            "payload": {"notification": {"style": 0}},
        }
        document = built("v3", hms=options, data={"k": "v"})
        assert document["payload"] == {
            "notification": {
                "category": "IM",
                "title": "Sale",
                "body": "20% off",
                "clickAction": {"actionType": 1, "uri": "shop://a", "data": {"k": "v"}},
                "notifyId": 5,
                "foregroundShow": False,
                "badge": {"addNum": 2},
                "style": 0,
            },
            "extraData": '{"k":"v"}',
        }
        assert document["pushOptions"] == {
            "ttl": 60,
            "testMessage": True,
            "biTag": "b",
            "receiptId": "r",
            "collapseKey": 7,
        }

    def test_the_same_collapse_id_is_the_same_number(self) -> None:
        assert shown_v3(collapse_id="x") == shown_v3(collapse_id="x")
        numbers = {built("v3", name)["payload"]["notification"]["notifyId"] for name in ("x", "y", "x")}
        assert len(numbers) == 2
        assert all(0 <= number < 2**31 for number in numbers)

    @pytest.mark.parametrize(
        ("fields", "action"),
        [
            ({"link": "https://shop.example"}, {"actionType": 1, "uri": "https://shop.example"}),
            ({"category": "REPLY"}, {"actionType": 1, "action": "REPLY"}),
        ],
    )
    def test_what_a_tap_does(self, fields: dict[str, Any], action: dict[str, Any]) -> None:
        assert shown_v3(**fields)["clickAction"] == action

    def test_the_push_type_is_a_header_of_v3_alone(self) -> None:
        voice = notification(hms={"push_type": "voice"})
        assert (b"push-type", b"2") in request.headers(voice, api="v3", authorization=b"Bearer x")
        assert {name for name, _ in request.headers(voice, api="v2", authorization=b"Bearer x")} == {
            b"authorization",
            b"content-type",
        }


def test_how_many_devices_a_request_names() -> None:
    assert request.tokens_per_request(notification(), "v2", 1000) == 1000
    assert request.tokens_per_request(notification(hms={"test": True}), "v2", 1000) == 1000
    assert request.tokens_per_request(notification(hms={"test": True}), "v3", 1000) == 10
    assert request.tokens_per_request(notification(hms={"test": True}), "v3", 5) == 5
    form = notification(hms={"push_type": "form", "payload": {"formId": 1}})
    assert request.tokens_per_request(form, "v3", 1000) == 1


def test_the_path_names_version_and_id() -> None:
    assert request.path("v1", "104210105") == b"/v1/104210105/messages:send"


def test_a_message_is_measured_without_its_tokens() -> None:
    fits = notification(body="x" * 3800)
    request.check(fits)
    with pytest.raises(InvalidRequest, match=r"notification: found .* bytes as an HMS body; .*without hms"):
        request.check(notification(body="x" * 4000))
    # JSON in JSON: each quote costs two octets more.
    with pytest.raises(InvalidRequest, match="HMS body"):
        request.check(notification(data={"k": '"' * 1300}))


class TestOptions:
    def test_nothing_written_is_a_set_of_defaults(self) -> None:
        assert parse(None) == parse({}) == HmsOptions()

    def test_parts_are_typed(self) -> None:
        options = parse({"click_action": {"url": "https://a.example"}, "badge": {"set": 1}})
        assert options.click_action == ClickAction(url="https://a.example")
        assert options.badge == Badge(set=1)

    @pytest.mark.parametrize(
        ("raw", "field", "expected"),
        [
            ({"urgncy": "HIGH"}, "urgncy", "urgency"),
            ({"urgency": "high"}, "urgency", "'HIGH' or 'NORMAL'"),
            ({"importance": 1}, "importance", "'LOW'"),
            ({"message_category": "im"}, "message_category", "'IM'"),
            ({"ttl": 0}, "ttl", "1 to 1,296,000 seconds"),
            ({"ttl": 1_296_001}, "ttl", "1 to 1,296,000 seconds"),
            ({"collapse_key": 101}, "collapse_key", "-1 to 100"),
            ({"notify_id": -1}, "notify_id", "0 to"),
            ({"tag": "t" * 65}, "tag", "64 characters"),
            ({"test": "yes"}, "test", "True or False"),
            ({"fast_app_target": True}, "fast_app_target", "1 or 2"),
            ({"push_type": "topic"}, "push_type", "'alert'"),
            ({"click_action": {}}, "click_action", "exactly one"),
            ({"click_action": {"app": False}}, "click_action", "exactly one"),
            ({"click_action": {"url": "https://a", "app": True}}, "click_action", "exactly one"),
            ({"click_action": {"url": "http://a"}}, "click_action.url", "https://"),
            ({"click_action": "app"}, "click_action", "a mapping"),
            ({"badge": {"add": 1, "set": 1}}, "badge", "not both"),
            ({"badge": {"add": 100}}, "badge.add", "1 to 99"),
            ({"badge": {"entry": "Main"}}, "badge.entry", "a class"),
            ({"android": []}, "android", "a mapping"),
            ({"payload": {"a": object()}}, "payload", "JSON"),
            ([], "", "a mapping"),
        ],
    )
    def test_a_mistake_is_named(self, raw: Any, field: str, expected: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            parse(raw)
        assert caught.value.field == ".".join(filter(None, ("notification.hms", field)))
        assert expected in str(caught.value)

    def test_a_mistake_is_found_at_the_call(self) -> None:
        with pytest.raises(InvalidRequest, match=r"notification\.hms\.urgency"):
            request.check(notification(hms={"urgency": "high"}))
