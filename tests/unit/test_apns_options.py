"""What a message says to APNs alone: fields, their errors, and the requests that they become."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from pushq.errors import InvalidRequest
from pushq.notification import Notification, parse_notification
from pushq.providers.apns import request
from pushq.providers.apns.options import PUSH_TYPES, parse

STARTS_AT = datetime(2030, 1, 1, tzinfo=UTC)
STATE = {"score": 3}
UPDATE = {"event": "update", "content_state": STATE}
START = {"event": "start", "content_state": STATE, "attributes_type": "Match", "attributes": {"home": "A"}}

#: Apple's table, once more: push type, what follows the bundle id, priorities that are taken, bytes of the payload.
TABLE = [
    ("alert", "", {1, 5, 10}, 4096),
    ("background", "", {5}, 4096),
    ("location", ".location-query", {1, 5, 10}, 4096),
    ("voip", ".voip", {1, 5, 10}, 5120),
    ("complication", ".complication", {1, 5, 10}, 4096),
    ("fileprovider", ".pushkit.fileprovider", {1, 5, 10}, 4096),
    ("liveactivity", ".push-type.liveactivity", {1, 5, 10}, 4096),
    ("pushtotalk", ".voip-ptt", {1, 5, 10}, 4096),
    ("widgets", ".push-type.widgets", {1, 5, 10}, 4096),
    ("controls", ".push-type.controls", {1, 5, 10}, 4096),
]


def message(**fields: Any) -> Notification:
    return parse_notification(fields).for_platform("apns")


def of_type(push_type: str, **apns: Any) -> Notification:
    activity = {"live_activity": UPDATE} if push_type == "liveactivity" else {}
    shown = {} if push_type == "background" else {"title": "T"}
    return message(**shown, data={"k": "v"}, apns={"push_type": push_type, **activity, **apns})


def headers(notification: Notification, **changes: Any) -> dict[str, str]:
    given: dict[str, Any] = {
        "topic": "com.example.shop",
        "authorization": b"bearer x",
        "expires_at": 0,
        "collapse_id": None,
    }
    return {k.decode(): v.decode() for k, v in request.headers(notification, **(given | changes))}


def payload(notification: Notification) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(request.payload(notification, at=STARTS_AT))
    return document


class TestPushTypes:
    def test_the_table_has_these_types(self) -> None:
        assert set(PUSH_TYPES) == {row[0] for row in TABLE} | {"mdm"}
        assert {name for name, rules in PUSH_TYPES.items() if rules.token_only} == {"location"}

    @pytest.mark.parametrize(
        ("push_type", "suffix", "priorities", "limit"), TABLE, ids=lambda value: str(value)[:14]
    )
    def test_a_row(self, push_type: str, suffix: str, priorities: set[int], limit: int) -> None:
        sent = headers(of_type(push_type))
        assert (sent["apns-push-type"], sent["apns-topic"]) == (push_type, f"com.example.shop{suffix}")
        taken = set()
        for priority in (1, 5, 10):
            notification = of_type(push_type, priority=priority)
            try:
                request.check(notification)
            except InvalidRequest as refused:
                assert refused.field == "notification.apns.priority"  # noqa: PT017
            else:
                taken.add(priority)
                assert headers(notification)["apns-priority"] == str(priority)
        assert taken == priorities
        rest = limit - len(request.payload(of_type(push_type), at=STARTS_AT)) - len(',"x":""')
        request.check(of_type(push_type, payload={"x": "x" * rest}))
        with pytest.raises(InvalidRequest, match=f"at most {limit:,} bytes"):
            request.check(of_type(push_type, payload={"x": "x" * (rest + 1)}))

    @pytest.mark.parametrize(("priority", "expected"), [("high", "10"), ("normal", "5")])
    def test_the_messages_priority_is_the_default(self, priority: str, expected: str) -> None:
        assert headers(message(title="T", priority=priority))["apns-priority"] == expected

    def test_a_type_that_apple_added_since_goes_out_as_it_is(self) -> None:
        new = message(
            title="T", apns={"push_type": "holograms", "topic": "com.example.shop.holo", "priority": 1}
        )
        request.check(new)
        sent = headers(new)
        assert (sent["apns-push-type"], sent["apns-topic"], sent["apns-priority"]) == (
            "holograms",
            "com.example.shop.holo",
            "1",
        )

    @pytest.mark.parametrize(
        ("push_type", "says"), [("holograms", "does not know the suffix"), ("mdm", "MDM push certificate")]
    )
    def test_who_has_no_suffix_needs_a_topic(self, push_type: str, says: str) -> None:
        with pytest.raises(InvalidRequest, match=says) as refused:
            request.check(message(title="T", apns={"push_type": push_type}))
        assert refused.value.field == "notification.apns.topic"

    def test_mdm_has_a_payload_without_aps(self) -> None:
        mdm = message(data={"mdm": "MAGIC"}, apns={"push_type": "mdm", "topic": "com.apple.mgmt.External.x"})
        request.check(mdm)
        assert payload(mdm) == {"mdm": "MAGIC"}
        assert headers(mdm)["apns-topic"] == "com.apple.mgmt.External.x"

    def test_a_configured_topic_with_its_suffix_stays(self) -> None:
        assert (
            headers(of_type("voip"), topic="com.example.shop.voip")["apns-topic"] == "com.example.shop.voip"
        )

    @pytest.mark.parametrize("push_type", ["widgets", "controls"])
    def test_widgets_and_controls_reload(self, push_type: str) -> None:
        quiet = message(apns={"push_type": push_type})
        request.check(quiet)
        assert payload(quiet) == {"aps": {"content-changed": True}}

    def test_what_shows_or_sounds_is_no_background_push(self) -> None:
        assert headers(message(data={"a": "b"}))["apns-push-type"] == "background"
        for seen in ({"badge": 3}, {"sound": "default"}, {"apns": {"title_loc_key": "HELLO"}}):
            assert headers(message(data={"a": "b"}, **seen))["apns-push-type"] == "alert"
        with pytest.raises(InvalidRequest, match="'background' with an alert"):
            request.check(message(title="T", apns={"push_type": "background"}))

    def test_nothing_is_nothing(self) -> None:
        with pytest.raises(InvalidRequest, match="nothing for APNs"):
            request.check(message(fcm={"data": {"a": "b"}}))


class TestPayload:
    def test_every_field_has_its_place(self) -> None:
        notification = message(
            title="T",
            body="B",
            data={"order": "7"},
            image="https://i",
            link="shop://7",
            category="ORDER",
            apns={
                "subtitle": "S",
                "launch_image": "L",
                "thread_id": "t",
                "target_content_id": "w",
                "interruption_level": "time-sensitive",
                "relevance_score": 0.5,
                "filter_criteria": "f",
                "content_available": True,
                "mutable_content": True,
                "sound": {"name": "bell", "critical": 1, "volume": 0.5},
                "badge": 4,
                "aps": {"new-key": 1},
                "payload": {"extra": {"a": [1, 2]}},
            },
        )
        request.check(notification)
        assert payload(notification) == {
            "aps": {
                "alert": {"title": "T", "body": "B", "subtitle": "S", "launch-image": "L"},
                "content-available": 1,
                "sound": {"critical": 1, "name": "bell", "volume": 0.5},
                "badge": 4,
                "category": "ORDER",
                "thread-id": "t",
                "target-content-id": "w",
                "interruption-level": "time-sensitive",
                "relevance-score": 0.5,
                "filter-criteria": "f",
                "mutable-content": 1,
                "new-key": 1,
            },
            "order": "7",
            "extra": {"a": [1, 2]},
            "image": "https://i",
            "link": "shop://7",
        }

    def test_texts_that_the_app_holds(self) -> None:
        notification = message(
            title="T", body="B", apns={"title_loc_key": "HI", "title_loc_args": ["Ann"], "loc_key": "BYE"}
        )
        assert payload(notification)["aps"]["alert"] == {
            "title-loc-key": "HI",
            "title-loc-args": ["Ann"],
            "loc-key": "BYE",
        }


class TestLiveActivities:
    def test_an_update(self) -> None:
        update = message(apns={"live_activity": {**UPDATE, "stale_date": 1900000000}, "relevance_score": 75})
        request.check(update)
        assert payload(update)["aps"] == {
            "timestamp": int(STARTS_AT.timestamp()),
            "event": "update",
            "content-state": STATE,
            "stale-date": 1900000000,
            "relevance-score": 75,
        }
        sent = headers(update)
        assert (sent["apns-push-type"], sent["apns-topic"]) == (
            "liveactivity",
            "com.example.shop.push-type.liveactivity",
        )

    def test_a_start_alerts_in_activitykits_own_form(self) -> None:
        start = message(
            title="Kick-off",
            sound="whistle",
            apns={
                "live_activity": {**START, "timestamp": 5, "input_push_channel": "abc="},
                "loc_key": "SEE",
                "loc_args": ["A"],
            },
        )
        request.check(start)
        assert payload(start)["aps"] == {
            "timestamp": 5,
            "event": "start",
            "content-state": STATE,
            "attributes-type": "Match",
            "attributes": {"home": "A"},
            "input-push-channel": "abc=",
            "alert": {"title": "Kick-off", "body": {"loc-key": "SEE", "loc-args": ["A"]}, "sound": "whistle"},
        }

    def test_an_end(self) -> None:
        end = message(apns={"live_activity": {"event": "end", "dismissal_date": 1}})
        request.check(end)
        assert payload(end)["aps"] == {
            "timestamp": int(STARTS_AT.timestamp()),
            "event": "end",
            "dismissal-date": 1,
        }

    def test_a_start_asks_for_a_token_of_its_own(self) -> None:
        start = message(title="T", apns={"live_activity": {**START, "input_push_token": True}})
        assert payload(start)["aps"]["input-push-token"] == 1

    def test_a_start_without_an_alert_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match="a title or a body"):
            request.check(message(apns={"live_activity": START}))

    def test_without_any_time_it_cannot_be_written(self) -> None:
        with pytest.raises(ValueError, match="needs the time of the send"):
            request.payload(message(apns={"live_activity": UPDATE}))

    @pytest.mark.parametrize(
        ("activity", "field"),
        [
            ({}, "event"),
            ({"event": "stop"}, "event"),
            ({"event": "update"}, "content_state"),
            ({"event": "start", "content_state": {}}, "attributes_type"),
            ({**START, "attributes": None}, "attributes"),
            ({**UPDATE, "attributes": {}, "attributes_type": "X"}, "attributes_type"),
            ({**UPDATE, "input_push_token": True}, "input_push_token"),
            ({**UPDATE, "dismissal_date": 5}, "dismissal_date"),
            ({**UPDATE, "timestamp": 0}, "timestamp"),
            ({**UPDATE, "timestamp": True}, "timestamp"),
            ({**UPDATE, "content_state": [1]}, "content_state"),
            ({**START, "input_push_channel": "a b"}, "input_push_channel"),
            ({**START, "input_push_channel": "abc=", "input_push_token": True}, "input_push_token"),
            ({**UPDATE, "colour": 1}, "colour"),
        ],
    )
    def test_refusals_name_the_field(self, activity: dict[str, Any], field: str) -> None:
        with pytest.raises(InvalidRequest) as refused:
            parse({"live_activity": activity})
        assert refused.value.field == f"notification.apns.live_activity.{field}"


class TestChannels:
    GOAL = message(apns={"live_activity": UPDATE})

    def test_the_headers_of_a_channel(self) -> None:
        found = request.channel_headers(self.GOAL, channel_id="abc=", authorization=b"bearer x", expires_at=0)
        assert dict(found) == {
            b"authorization": b"bearer x",
            b"apns-channel-id": b"abc=",
            b"apns-push-type": b"liveactivity",
            b"apns-priority": b"10",
            b"apns-expiration": b"0",
        }
        assert request.channel_path("com.example.shop") == b"/4/broadcasts/apps/com.example.shop"

    def test_a_channel_stores_nothing_unless_somebody_says_how_long(self) -> None:
        now, unix = STARTS_AT, int(STARTS_AT.timestamp())
        assert request.expiration(self.GOAL, now, channel=True) == 0
        assert request.expiration(self.GOAL, now) == unix + 86_400
        hour = message(ttl=3600, apns={"live_activity": UPDATE})
        assert request.expiration(hour, now, channel=True) == unix + 3600
        explicit = message(apns={"live_activity": UPDATE, "ttl": 86_400})
        assert request.expiration(explicit, now) == unix + 86_400

    def test_a_channel_takes_a_kilobyte_more_than_a_device(self) -> None:
        state = {"x": "x" * 4500}
        large = message(apns={"live_activity": {"event": "update", "content_state": state}})
        request.check_channel(large)
        with pytest.raises(InvalidRequest, match="at most 4,096"):
            request.check(large)
        larger = message(apns={"live_activity": {"event": "update", "content_state": {"x": "x" * 5100}}})
        with pytest.raises(InvalidRequest, match="at most 5,120"):
            request.check_channel(larger)

    @pytest.mark.parametrize(
        ("apns", "field"),
        [
            ({}, "live_activity"),
            ({"live_activity": START, "title": "T"}, "live_activity.event"),
            ({"live_activity": UPDATE, "topic": "x"}, "topic"),
            ({"live_activity": UPDATE, "collapse_id": "x"}, "collapse_id"),
        ],
    )
    def test_refusals_name_the_field(self, apns: dict[str, Any], field: str) -> None:
        with pytest.raises(InvalidRequest) as refused:
            request.check_channel(Notification(title="T", apns=apns))
        assert refused.value.field == f"notification.apns.{field}"

    def test_a_channel_has_no_collapse_id(self) -> None:
        with pytest.raises(InvalidRequest) as refused:
            request.check_channel(message(collapse_id="c", apns={"live_activity": UPDATE}))
        assert refused.value.field == "notification.collapse_id"


class TestHeaders:
    def test_expiration_counts_from_the_beginning(self) -> None:
        unix = int(STARTS_AT.timestamp())
        assert request.expiration(message(title="T", ttl=60), STARTS_AT) == unix + 60
        assert request.expiration(message(title="T", ttl=0), STARTS_AT) == 0
        assert request.expiration(message(title="T", ttl=60, apns={"ttl": 0}), STARTS_AT) == 0

    def test_a_certificate_stands_for_the_authorization(self) -> None:
        assert "authorization" not in headers(message(title="T"), authorization=b"")

    def test_only_a_key_can_ask_for_a_location(self) -> None:
        with pytest.raises(InvalidRequest, match="with a key"):
            request.check_certificate(of_type("location"))
        for push_type in set(PUSH_TYPES) - {"location", "mdm"}:
            request.check_certificate(of_type(push_type))


@pytest.mark.parametrize(
    ("apns", "field", "says"),
    [
        ({"prioritty": 5}, "prioritty", "did you mean 'priority'?"),
        ({"priority": 7}, "priority", "10 or 5 or 1"),
        ({"priority": True}, "priority", "10 or 5 or 1"),
        ({"ttl": 2_592_001}, "ttl", "0 to 2,592,000 seconds"),
        ({"collapse_id": "é" * 33}, "collapse_id", "64 bytes"),
        ({"collapse_id": "a\r\nb"}, "collapse_id", "control"),
        ({"collapse_id": " a"}, "collapse_id", "no space at either end"),
        ({"push_type": "Alert"}, "push_type", "one of: alert"),
        ({"push_type": "alert", "live_activity": UPDATE}, "push_type", "liveactivity"),
        ({"push_type": "liveactivity"}, "live_activity", "a mapping"),
        ({"topic": "a b"}, "topic", "letters"),
        ({"interruption_level": "loud"}, "interruption_level", "time-sensitive"),
        ({"relevance_score": 2}, "relevance_score", "0 to 1"),
        ({"relevance_score": float("nan")}, "relevance_score", "0 to 1"),
        ({"loc_args": ["a"]}, "loc_args", "loc_key as well"),
        ({"title_loc_key": "K", "title_loc_args": "a"}, "title_loc_args", "a list of texts"),
        ({"sound": {"critical": 1}}, "sound.name", "'default'"),
        ({"sound": {"name": "a", "volume": 2}}, "sound.volume", "0 to 1"),
        ({"sound": {"name": "a", "loud": 2}}, "sound.loud", "one of"),
        ({"content_available": 1}, "content_available", "True or False"),
        ({"badge": -1}, "badge", "0 to"),
        ({"aps": {"alert": "x"}}, "aps.alert", "notification.apns.title"),
        ({"aps": {"thread-id": "x"}}, "aps.thread-id", "notification.apns.thread_id"),
        ({"aps": {"content-state": {}}}, "aps.content-state", "live_activity.content_state"),
        ({"payload": {"aps": {}}}, "payload.aps", "notification.apns.aps"),
        ({"payload": {"a": {1, 2}}}, "payload", "JSON"),
        ({"payload": {"a": "\0"}}, "payload", "NUL"),
        ({"subtitle": "\ud800"}, "subtitle", "JSON"),
        ({"subtitle": ""}, "subtitle", "an empty text"),
    ],
)
def test_refusals_name_the_field(apns: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(apns)
    assert refused.value.field == f"notification.apns.{field}"
    assert says in str(refused.value)


def test_a_key_cannot_stand_in_two_places() -> None:
    with pytest.raises(InvalidRequest) as refused:
        request.check(message(title="T", data={"a": "b"}, apns={"payload": {"a": 1}}))
    assert refused.value.field == "notification.apns.payload.a"
    for key in ("image", "link"):
        with pytest.raises(InvalidRequest) as refused:
            request.check(message(title="T", data={key: "b"}, **{key: "https://x"}))
        assert refused.value.field == f"notification.data.{key}"
