"""The message is refused at the call, and the error names the field."""

from __future__ import annotations

import json
import uuid
from itertools import repeat
from typing import Any

import pytest

from pushq.errors import InvalidRequest
from pushq.notification import Notification, parse_notification
from pushq.providers.apns import request as apns
from pushq.providers.fcm import request as fcm


@pytest.mark.parametrize(
    ("value", "field", "says"),
    [
        ("Sale", "notification", "a mapping"),
        ({}, "notification", "at least one of them"),
        ({"titel": "x"}, "notification.titel", "did you mean 'title'?"),
        ({"title": ""}, "notification.title", "an empty text"),
        ({"title": 5}, "notification.title", "int 5"),
        ({"title": "a\0b"}, "notification.title", "NUL"),
        ({"title": "\ud800"}, "notification.title", "surrogate"),
        ({"title": "x", "data": {"price": 12}}, "notification.data.price", "FCM takes nothing else"),
        ({"title": "x", "data": {"from": "me"}}, "notification.data.from", "reserve"),
        ({"title": "x", "data": {"google.x": "y"}}, "notification.data.google.x", "reserve"),
        ({"title": "x", "data": ["a"]}, "notification.data", "mapping of texts"),
        ({"title": "x", "ttl": -1}, "notification.ttl", "0 to 2,419,200 seconds"),
        ({"title": "x", "ttl": True}, "notification.ttl", "bool True"),
        ({"title": "x", "badge": "3"}, "notification.badge", "whole number"),
        ({"title": "x", "priority": "urgent"}, "notification.priority", "'high' or 'normal'"),
        ({"title": "x", "collapse_id": "é" * 33}, "notification.collapse_id", "66 bytes"),
        ({"title": "x", "collapse_id": "a\nb"}, "notification.collapse_id", "control"),
        ({"title": "x", "collapse_id": "a\x7fb"}, "notification.collapse_id", "control"),
        ({"title": "x", "collapse_id": "order 7 "}, "notification.collapse_id", "no space at either end"),
        ({"title": "x", "image": "http://a"}, "notification.image", "https://"),
    ],
)
def test_refusals_name_the_field(value: object, field: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_notification(value)
    assert caught.value.field == field
    assert says in str(caught.value)


def test_what_is_parsed_comes_back_from_json() -> None:
    value: dict[str, Any] = {
        "title": "T",
        "body": "B",
        "data": {"k": "v"},
        "sound": "default",
        "badge": 0,
        "ttl": 60,
    }
    parsed = parse_notification(value)
    assert parse_notification(json.loads(json.dumps(parsed.as_json()))) == parsed


def test_apns_payload() -> None:
    body = json.loads(
        apns.payload(Notification(title="T", body="B", data={"k": "v"}, sound="default", badge=0))
    )
    assert body == {"aps": {"alert": {"title": "T", "body": "B"}, "sound": "default", "badge": 0}, "k": "v"}


def test_silent_push_is_a_background_push_with_priority_5() -> None:
    silent = Notification(data={"sync": "1"})
    headers = dict(apns.headers(silent, topic="t", authorization=b"bearer x", expires_at=0, collapse_id=None))
    assert (headers[b"apns-push-type"], headers[b"apns-priority"]) == (b"background", b"5")
    assert json.loads(apns.payload(silent))["aps"] == {"content-available": 1}


def test_fcm_bodies_differ_only_in_the_token() -> None:
    parts = fcm.message(Notification(title="T", data={"k": "v"}), ttl_s=60, collapse_id="c")
    one, two = (json.loads(b) for b in fcm.bodies([b"tok-1", b"tok-2"], repeat(json.dumps(parts).encode())))
    assert one["message"].pop("token") == "tok-1"
    assert two["message"].pop("token") == "tok-2"
    assert one == two
    assert one["message"]["android"] == {
        "priority": "HIGH",
        "ttl": "60s",
        "collapse_key": "c",
        "notification": {"tag": "c"},
    }


@pytest.mark.parametrize("check", [apns.check, fcm.check])
def test_payload_limit_is_exact(check: Any) -> None:
    """4,096 bytes go, one more does not; bytes of UTF-8, not characters."""
    overhead = len(apns.payload(Notification(body=""))) if check is apns.check else 0
    room = 4096 - overhead
    check(Notification(body="x" * room))
    with pytest.raises(InvalidRequest, match="4,096"):
        check(Notification(body="x" * (room + 1)))
    with pytest.raises(InvalidRequest, match="notification"):
        check(Notification(body="é" * (room // 2 + 1)))


def test_apns_ids_are_canonical_and_differ_by_device() -> None:
    send = uuid.uuid4()
    devices = [*range(1000), 2**48 - 1]
    ids = apns.apns_ids(send, devices)
    assert len(set(ids)) == 1001
    assert all(str(uuid.UUID(i.decode())) == i.decode() for i in ids)
    assert ids == [apns.apns_id(send, device) for device in devices]
    assert ids[0] == str(send).encode()


def test_apns_ids_of_devices_above_48_bits_are_as_good() -> None:
    send = uuid.uuid4()
    devices = [7, 2**48, 2**48 + 7, 2**62 + 1]
    ids = apns.apns_ids(send, devices)
    assert [uuid.UUID(i.decode()).int ^ send.int for i in ids] == devices
    assert all(str(uuid.UUID(i.decode())) == i.decode() for i in ids)
    assert apns.apns_ids(send, []) == []
