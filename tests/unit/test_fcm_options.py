"""What a message says to FCM alone: fields, their errors, and the message that they become; targets that are no tokens."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pushq.errors import InvalidRequest
from pushq.mock.fcm_schema import objections
from pushq.notification import Notification, parse_notification
from pushq.providers.fcm import request
from pushq.providers.fcm.options import parse


def message(**fields: Any) -> Notification:
    return parse_notification(fields).for_platform("fcm")


def built(notification: Notification, collapse_id: str | None = None) -> dict[str, Any]:
    request.check(notification)
    return request.message(notification, ttl_s=notification.ttl, collapse_id=collapse_id)


def test_every_field_has_its_place() -> None:
    found = built(
        message(
            title="T",
            body="B",
            image="https://i",
            link="https://l",
            category="OPEN",
            sound="bell",
            badge=4,
            ttl=60,
            data={"a": "1", "b": "2"},
            fcm={
                "data": {"b": "3"},
                "analytics_label": "promo",
                "restricted_package_name": "com.example.shop",
                "direct_boot_ok": True,
                "android": {
                    "notification": {
                        "channel_id": "offers",
                        "color": "#ff8800",
                        "light_settings": {"color": {"red": 1}},
                    },
                    "data": {"only": "android"},
                    "bandwidth_constrained_ok": True,
                },
                "apns": {"payload": {"aps": {"badge": 4}}, "fcm_options": {"image": "https://i"}},
                "webpush": {"headers": {"Urgency": "high"}, "fcm_options": {"link": "https://l"}},
            },
        )
    )
    assert found == {
        "notification": {"title": "T", "body": "B", "image": "https://i"},
        "data": {"a": "1", "b": "3", "link": "https://l"},
        "fcm_options": {"analytics_label": "promo"},
        "android": {
            "priority": "HIGH",
            "ttl": "60s",
            "restricted_package_name": "com.example.shop",
            "direct_boot_ok": True,
            "data": {"only": "android"},
            "bandwidth_constrained_ok": True,
            "notification": {
                "sound": "bell",
                "notification_count": 4,
                "click_action": "OPEN",
                "channel_id": "offers",
                "color": "#ff8800",
                "light_settings": {"color": {"red": 1}},
            },
        },
        "apns": {"payload": {"aps": {"badge": 4}}, "fcm_options": {"image": "https://i"}},
        "webpush": {"headers": {"Urgency": "high"}, "fcm_options": {"link": "https://l"}},
    }
    # The mock checks every field against the reference: what is built is what FCM knows.
    assert list(objections({"token": "x", **found})) == []


def test_a_repetition_replaces_its_first_copy() -> None:
    android = built(message(title="T"), collapse_id="c")["android"]
    assert (android["collapse_key"], android["notification"]["tag"]) == ("c", "c")
    own = built(message(title="T", fcm={"collapse_key": "own"}), collapse_id="c")["android"]
    assert (own["collapse_key"], own["notification"]["tag"]) == ("own", "c")


@pytest.mark.parametrize(("ttl", "written"), [(0, "0s"), (2_419_200, "2419200s")])
def test_the_time_to_live(ttl: int, written: str) -> None:
    assert built(message(title="T", ttl=ttl))["android"]["ttl"] == written
    assert built(message(title="T", fcm={"android": {"ttl": ttl}}))["android"]["ttl"] == written
    assert built(message(title="T", fcm={"android": {"ttl": written}}))["android"]["ttl"] == written


class TestDataAlone:
    def test_it_has_no_notification(self) -> None:
        found = built(message(data={"a": "b"}, sound="bell"))
        assert "notification" not in found
        assert "notification" not in found["android"]
        assert list(objections({"token": "x", **found})) == []

    def test_ios_gets_priority_5(self) -> None:
        found = built(message(data={"a": "b"}, fcm={"apns": {"payload": {"aps": {"content-available": 1}}}}))
        assert found["apns"]["headers"] == {"apns-priority": "5"}
        assert list(objections({"token": "x", **found})) == []

    def test_another_priority_is_refused(self) -> None:
        wrong = message(data={"a": "b"}, fcm={"apns": {"headers": {"apns-priority": "10"}}})
        with pytest.raises(InvalidRequest) as refused:
            request.check(wrong)
        assert refused.value.field == "notification.fcm.apns.headers.apns-priority"
        # It is what the mock refuses as well.
        parts = request.message(wrong, ttl_s=60, collapse_id=None)
        assert [found.field for found in objections({"token": "x", **parts})] == [
            "message.apns.headers.apns-priority"
        ]

    def test_an_alert_for_ios_alone_may_have_it(self) -> None:
        seen = {"headers": {"apns-priority": "10"}, "payload": {"aps": {"alert": "hi"}}}
        assert built(message(data={"a": "b"}, fcm={"apns": seen}))["apns"] == seen

    def test_nothing_is_nothing(self) -> None:
        with pytest.raises(InvalidRequest, match="nothing for FCM"):
            request.check(message(apns={"live_activity": {"event": "end"}}))


class TestTargets:
    CONTENT = b'{"data":{"a":"b"}}'

    def test_a_token_and_an_installation_id(self) -> None:
        fid = b"c" + b"x" * 21
        token, by_id = (
            json.loads(body) for body in request.bodies([b"tok", b"fid:" + fid], [self.CONTENT] * 2)
        )
        assert token == {"message": {"token": "tok", "data": {"a": "b"}}}
        assert by_id == {"message": {"fid": fid.decode(), "data": {"a": "b"}}}

    def test_what_is_only_checked(self) -> None:
        (body,) = request.bodies([b"tok"], [self.CONTENT], validate_only=True)
        assert json.loads(body) == {"validate_only": True, "message": {"token": "tok", "data": {"a": "b"}}}
        body = request.target_body("topic", "news", self.CONTENT, validate_only=True)
        assert json.loads(body) == {"validate_only": True, "message": {"topic": "news", "data": {"a": "b"}}}

    def test_a_condition_is_quoted(self) -> None:
        condition = "'a' in topics && !('b' in topics)"
        body = request.target_body("condition", condition, self.CONTENT)
        assert json.loads(body)["message"]["condition"] == condition

    @pytest.mark.parametrize("topic", ["news", "a-b_c.d~e%20", "x" * 900])
    def test_topics(self, topic: str) -> None:
        assert request.parse_topic(topic) == topic

    @pytest.mark.parametrize("topic", ["", "/topics/news", "a b", "ü", "x" * 901, None, 5])
    def test_what_is_no_topic(self, topic: object) -> None:
        with pytest.raises(InvalidRequest) as refused:
            request.parse_topic(topic)
        assert refused.value.field == "audience.topic"

    @pytest.mark.parametrize(
        "condition",
        [
            "'a' in topics",
            "'a' in topics && 'b' in topics || 'c' in topics",
            "('a' in topics || 'b' in topics) && !('c' in topics)",
            "!'a' in topics",
            "'a' in topics&&('b' in topics&&('c' in topics))  ",
            " || ".join(f"'t{number}' in topics" for number in range(5)),
        ],
    )
    def test_conditions(self, condition: str) -> None:
        assert request.parse_condition(condition) == condition
        assert list(objections({"condition": condition, "data": {}})) == []

    @pytest.mark.parametrize(
        "condition",
        [
            "",
            "   ",
            None,
            "news",
            "'a' in topic",
            "'a b' in topics",
            "'a' in topics 'b' in topics",
            "'a' in topics &&",
            "&& 'a' in topics",
            "('a' in topics",
            "'a' in topics)",
            "()",
            "'a' in topics & 'b' in topics",
            " || ".join(f"'t{number}' in topics" for number in range(6)),
        ],
    )
    def test_what_is_no_condition(self, condition: object) -> None:
        with pytest.raises(InvalidRequest) as refused:
            request.parse_condition(condition)
        assert refused.value.field == "audience.condition"


@pytest.mark.parametrize(
    ("fcm", "field", "says"),
    [
        ({"andriod": {}}, "andriod", "did you mean 'android'?"),
        ({"priority": "urgent"}, "priority", "'high' or 'normal'"),
        ({"ttl": 2_419_201}, "ttl", "0 to 2,419,200 seconds"),
        ({"analytics_label": "a b"}, "analytics_label", "1 to 50 letters"),
        ({"analytics_label": "x" * 51}, "analytics_label", "1 to 50 letters"),
        ({"restricted_package_name": "shop"}, "restricted_package_name", "com.example.shop"),
        ({"direct_boot_ok": "yes"}, "direct_boot_ok", "True or False"),
        ({"data": {"n": 5}}, "data.n", "a text"),
        ({"data": {"from": "x"}}, "data.from", "reserves"),
        ({"data": {"google.a": "x"}}, "data.google.a", "reserves"),
        ({"image": "http://i"}, "image", "https://"),
        ({"android": {"ttl": "3 days"}}, "android.ttl", "3600s"),
        ({"android": {"ttl": "2419201s"}}, "android.ttl", "28 days"),
        ({"android": {"ttl": -1}}, "android.ttl", "seconds"),
        ({"android": {"notification": {"color": "red"}}}, "android.notification.color", "#ff8800"),
        (
            {"android": {"notification": {"colour": "red"}}},
            "android.notification.colour",
            "did you mean 'color'?",
        ),
        (
            {"android": {"notification": {"visibility": "public"}}},
            "android.notification.visibility",
            "'PUBLIC'",
        ),
        (
            {"android": {"notification": {"vibrate_timings": ["1"]}}},
            "android.notification.vibrate_timings",
            "0.5s",
        ),
        ({"android": {"notification": {"sticky": 1}}}, "android.notification.sticky", "True or False"),
        ({"android": {"data": {"gcm.notification.x": "y"}}}, "android.data.gcm.notification.x", "reserves"),
        ({"android": []}, "android", "a mapping"),
        ({"apns": {"headers": {"apns-priority": 5}}}, "apns.headers.apns-priority", "a text"),
        ({"apns": {"payload": "x"}}, "apns.payload", "a mapping"),
        ({"apns": {"fcm_options": {"link": "https://x"}}}, "apns.fcm_options.link", "one of"),
        ({"webpush": {"fcm_options": {"link": "http://x"}}}, "webpush.fcm_options.link", "https://"),
        ({"webpush": {"data": {"a": None}}}, "webpush.data.a", "a text"),
    ],
)
def test_refusals_name_the_field(fcm: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(fcm)
    assert refused.value.field == f"notification.fcm.{field}"
    assert says in str(refused.value)


def test_the_payload_counts_what_fcm_counts() -> None:
    rest = 4096 - len("T") - len("k") - len("o") - len("x")
    request.check(message(title="T", data={"k": "x" * rest}, fcm={"data": {"o": "x"}}))
    with pytest.raises(InvalidRequest, match="4,097 bytes"):
        request.check(message(title="T", data={"k": "x" * (rest + 1)}, fcm={"data": {"o": "x"}}))
