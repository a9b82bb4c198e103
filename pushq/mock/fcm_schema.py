"""The fields of an FCM message and their JSON types: what the API knows, and how it objects to what it does not.

https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

MAX_TTL_S = 28 * 86_400
_DURATION = re.compile(r"\d+(?:\.\d{1,9})?s")
_TOPIC = re.compile(r"[a-zA-Z0-9\-_.~%]+")
_LABEL = re.compile(r"[a-zA-Z0-9\-_.~%]{1,50}")
_IN_TOPICS = re.compile(r"'([^']*)' in topics")
MAX_CONDITION_TOPICS = 5
_CAMEL = re.compile(r"[A-Z]")


class Objection(NamedTuple):
    """What is wrong with a field. ``with_code``: the answer carries an FcmError beside the field."""

    field: str
    description: str
    with_code: bool = False


# Leaf types, and what the API calls them.
_TYPES: Mapping[type, str] = {str: "TYPE_STRING", bool: "TYPE_BOOL", int: "TYPE_INT32", dict: "TYPE_MESSAGE"}


class StringMap:
    """A map of strings to strings."""


class Struct:
    """Anything that JSON can hold."""


class Duration:
    """Seconds with an ``s``."""


class Strings:
    """A list of strings."""


class Enum(NamedTuple):
    name: str
    values: frozenset[str]


_FCM_OPTIONS = {"analytics_label": str}
_NOTIFICATION: Mapping[str, Any] = {"title": str, "body": str, "image": str}
_ANDROID_NOTIFICATION: Mapping[str, Any] = {
    **dict.fromkeys(
        (
            "title",
            "body",
            "icon",
            "color",
            "sound",
            "tag",
            "click_action",
            "body_loc_key",
            "title_loc_key",
            "channel_id",
            "ticker",
            "event_time",
            "image",
        ),
        str,
    ),
    **dict.fromkeys(
        (
            "sticky",
            "local_only",
            "default_sound",
            "default_vibrate_timings",
            "default_light_settings",
            "bypass_proxy_notification",
        ),
        bool,
    ),
    "body_loc_args": Strings,
    "title_loc_args": Strings,
    "vibrate_timings": Strings,
    "notification_priority": Enum(
        "NotificationPriority",
        frozenset(f"PRIORITY_{level}" for level in ("UNSPECIFIED", "MIN", "LOW", "DEFAULT", "HIGH", "MAX")),
    ),
    "visibility": Enum("Visibility", frozenset({"VISIBILITY_UNSPECIFIED", "PRIVATE", "PUBLIC", "SECRET"})),
    "proxy": Enum("Proxy", frozenset({"PROXY_UNSPECIFIED", "ALLOW", "DENY", "IF_PRIORITY_LOWERED"})),
    "notification_count": int,
    "light_settings": {"color": Struct, "light_on_duration": Duration, "light_off_duration": Duration},
}
MESSAGE: Mapping[str, Any] = {
    "name": str,
    "token": str,
    "topic": str,
    "condition": str,
    "fid": str,
    "data": StringMap,
    "notification": _NOTIFICATION,
    "android": {
        "collapse_key": str,
        "priority": Enum("AndroidMessagePriority", frozenset({"HIGH", "NORMAL", "high", "normal"})),
        "ttl": Duration,
        "restricted_package_name": str,
        "data": StringMap,
        "notification": _ANDROID_NOTIFICATION,
        "fcm_options": _FCM_OPTIONS,
        "direct_boot_ok": bool,
        "bandwidth_constrained_ok": bool,
        "restricted_satellite_ok": bool,
    },
    "apns": {
        "headers": StringMap,
        "payload": Struct,
        "fcm_options": {**_FCM_OPTIONS, "image": str},
        "live_activity_token": str,
    },
    "webpush": {
        "headers": StringMap,
        "data": StringMap,
        "notification": Struct,
        "fcm_options": {**_FCM_OPTIONS, "link": str},
    },
    "fcm_options": _FCM_OPTIONS,
}


def objections(message: Mapping[str, Any]) -> Iterator[Objection]:
    """What is wrong with a message: its types first, then what its values must be."""
    yield from _typed(message, MESSAGE, "message")
    yield from _meant(message)


def _typed(value: Mapping[str, Any], members: Mapping[str, Any], place: str) -> Iterator[Objection]:
    for field, item in value.items():
        kind = members.get(_snake(field))
        where = f"{place}.{field}"
        if kind is None:
            text = f"Invalid JSON payload received. Unknown name \"{field}\" at '{place}': Cannot find field."
            yield Objection(place, text)
        elif item is not None:
            yield from _fits(item, kind, where)


def _fits(item: Any, kind: Any, where: str) -> Iterator[Objection]:
    if kind is Struct:
        return
    if isinstance(kind, Mapping):
        if isinstance(item, dict):
            yield from _typed(item, kind, where)
        else:
            yield _wrong(where, "TYPE_MESSAGE", item)
    elif kind is StringMap:
        if not isinstance(item, dict):
            yield _wrong(where, "TYPE_MESSAGE", item)
            return
        for position, each in enumerate(item.values()):
            if not isinstance(each, str):
                yield _wrong(f"{where}[{position}].value", "TYPE_STRING", each)
    elif kind is Strings:
        if not isinstance(item, list):
            yield _wrong(where, "TYPE_STRING", item)
            return
        for position, each in enumerate(item):
            if not isinstance(each, str):
                yield _wrong(f"{where}[{position}]", "TYPE_STRING", each)
    elif kind is Duration:
        if not isinstance(item, str) or not _DURATION.fullmatch(item):
            yield _wrong(where, "type.googleapis.com/google.protobuf.Duration", item)
    elif isinstance(kind, Enum):
        if item not in kind.values:
            yield _wrong(where, kind.name, item)
    elif type(item) is not kind:
        yield _wrong(where, _TYPES[kind], item)


def _wrong(where: str, name: str, item: object) -> Objection:
    return Objection(where, f"Invalid value at '{where}' ({name}), {orjson.dumps(item).decode()}")


def _meant(message: Mapping[str, Any]) -> Iterator[Objection]:
    topic, condition = message.get("topic"), message.get("condition")
    if isinstance(topic, str) and topic and not _TOPIC.fullmatch(topic.removeprefix("/topics/")):
        yield Objection("message.topic", "Invalid topic name", with_code=True)
    if isinstance(condition, str) and condition:
        topics = _IN_TOPICS.findall(condition)
        rest = re.sub(r"&&|\|\||[!()\s]", "", _IN_TOPICS.sub("", condition))
        if not topics or rest or not all(_TOPIC.fullmatch(each) for each in topics):
            yield Objection("message.condition", "Invalid condition expression provided.", with_code=True)
        elif len(topics) > MAX_CONDITION_TOPICS:
            yield Objection("message.condition", "Conditions support a maximum of 5 topics.", with_code=True)
    ttl = message.get("android", {}).get("ttl")
    if isinstance(ttl, str) and _DURATION.fullmatch(ttl) and float(ttl[:-1]) > MAX_TTL_S:
        yield Objection("message.android.ttl", "TTL must be between 0 and 2419200 seconds", with_code=True)
    for place, options in _options(message):
        label = options.get("analytics_label", options.get("analyticsLabel"))
        if isinstance(label, str) and not _LABEL.fullmatch(label):
            yield Objection(f"{place}.analytics_label", "Invalid analytics label", with_code=True)
    yield from _quiet(message)


def _options(message: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for place, holder in [
        ("message", message),
        *((f"message.{key}", message.get(key)) for key in ("android", "apns", "webpush")),
    ]:
        options = holder.get("fcm_options", holder.get("fcmOptions")) if isinstance(holder, dict) else None
        if isinstance(options, dict):
            yield f"{place}.fcm_options", options


def _quiet(message: Mapping[str, Any]) -> Iterator[Objection]:
    """Data alone must not ask iOS for more than priority 5."""
    apns = message.get("apns")
    if not isinstance(apns, dict) or message.get("notification"):
        return
    payload, headers = apns.get("payload"), apns.get("headers")
    aps = payload.get("aps") if isinstance(payload, dict) else None
    shows = isinstance(aps, dict) and any(key in aps for key in ("alert", "sound", "badge"))
    if not shows and isinstance(headers, dict) and headers.get("apns-priority", "5") != "5":
        yield Objection(
            "message.apns.headers.apns-priority",
            "Priority must be 5 for a message without an alert",
            with_code=True,
        )


def _snake(name: str) -> str:
    """Protobuf's JSON takes both spellings."""
    return _CAMEL.sub(lambda match: f"_{match[0].lower()}", name)
