"""``notification["fcm"]``: what a message says to Firebase alone. Parsed and checked at the call. Pure.

Source: Firebase, "REST Resource: projects.messages". Names are those of the REST resource, in snake_case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pushq.errors import InvalidRequest
from pushq.providers.fields import Fields

#: FCM stores a message for 28 days at most.
MAX_TTL_S: Final = 2_419_200
#: `data` must not use these (Message reference: reserved words).
RESERVED_DATA: Final = frozenset({"from", "message_type", "gcm"})
RESERVED_PREFIXES: Final = ("google.", "gcm.notification.")

LABEL: Final = re.compile(r"[a-zA-Z0-9\-_.~%]{1,50}").fullmatch
_LABEL_WORDS: Final = "1 to 50 letters, digits or - _ . ~ %"
_PACKAGE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z][A-Za-z0-9_]*)+").fullmatch
_COLOR: Final = re.compile(r"#[0-9A-Fa-f]{6}").fullmatch
_DURATION: Final = re.compile(r"[0-9]{1,10}(?:\.[0-9]{1,9})?s").fullmatch


@dataclass(frozen=True)
class FcmOptions:
    """Everything that can stand in ``notification["fcm"]``.

    Attributes:
        priority: Android's ``high`` or ``normal``.
        ttl: seconds that FCM stores the message; pushq itself stops at the message's own ``ttl``.
        collapse_key: Android keeps the last message of a key for a phone that is offline.
        title, body, image: in the place of the message's.
        data: keys over those of the message's ``data``; texts only.
        analytics_label: what the message is counted under in Firebase's reports.
        restricted_package_name: only this Android package gets it.
        direct_boot_ok: may be delivered while the phone is locked after a restart.
        android, apns, webpush: the resource's own objects, written over what pushq builds.
    """

    priority: str | None = None
    ttl: int | None = None
    collapse_key: str | None = None
    title: str | None = None
    body: str | None = None
    image: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    analytics_label: str | None = None
    restricted_package_name: str | None = None
    direct_boot_ok: bool | None = None
    android: Mapping[str, Any] = field(default_factory=dict)
    apns: Mapping[str, Any] = field(default_factory=dict)
    webpush: Mapping[str, Any] = field(default_factory=dict)


FIELDS: Final = tuple(FcmOptions.__dataclass_fields__)

Check = Callable[[Fields, str], Any]


def _text(fields: Fields, key: str) -> Any:
    return fields.text(key)


def _texts(fields: Fields, key: str) -> Any:
    texts = fields.texts(key)
    return None if texts is None else list(texts)


def _flag(fields: Fields, key: str) -> Any:
    return fields.flag(key)


def _map(fields: Fields, key: str) -> Any:
    return fields.mapping(key)


def _strings(fields: Fields, key: str) -> Any:
    return fields.string_map(key)


def _duration(fields: Fields, key: str) -> Any:
    return fields.text(key, _DURATION, "seconds and an s, such as '3.5s'")


def _https(fields: Fields, key: str) -> Any:
    return fields.text(key, lambda text: text.startswith("https://"), "an address that begins with https://")


def _one_of(*allowed: str) -> Check:
    return lambda fields, key: fields.one_of(key, allowed)


def _object(members: Mapping[str, Check]) -> Check:
    def check(fields: Fields, key: str) -> Any:
        return _members(fields.raw.get(key), fields.field(key), members)

    return check


def _members(raw: object, name: str, members: Mapping[str, Check]) -> dict[str, Any] | None:
    if raw is None:
        return None
    inner = Fields(raw, name, members)
    found = {key: check(inner, key) for key, check in members.items() if inner.given(key)}
    # In the order in which the caller wrote them: what pushq prints is then what he recognises.
    return {key: found[key] for key in inner.raw if key in found}


def _ttl(fields: Fields, key: str) -> Any:
    """Whole seconds as a number, or FCM's own spelling."""
    if isinstance(fields.raw.get(key), str):
        text = fields.text(key, _DURATION, "seconds, such as 3600 or '3600s'")
        if text is not None and float(text[:-1]) > MAX_TTL_S:
            raise fields.refuse(key, f"at most {MAX_TTL_S:,} seconds (28 days)")
        return text
    seconds = fields.whole(key, 0, MAX_TTL_S, "seconds")
    return None if seconds is None else f"{seconds}s"


def _label(fields: Fields, key: str) -> Any:
    return fields.text(key, LABEL, _LABEL_WORDS)


def _data(fields: Fields, key: str) -> Any:
    data = fields.string_map(key)
    for name in data or ():
        if name in RESERVED_DATA or name.startswith(RESERVED_PREFIXES):
            raise InvalidRequest(
                f"{fields.field(key)}.{name[:60]}", "a key that FCM reserves", "another name for it"
            )
    return data


def _count(fields: Fields, key: str) -> Any:
    return fields.whole(key, 0, 99_999)


def _durations(fields: Fields, key: str) -> Any:
    texts = _texts(fields, key)
    for text in texts or ():
        if not _DURATION(text):
            raise fields.refuse(key, "a list of seconds with an s, such as ['0.5s', '1s']", repr(text[:40]))
    return texts


_FCM_OPTIONS: Final = _object({"analytics_label": _label})
_ANDROID_NOTIFICATION: Final[Mapping[str, Check]] = {
    **dict.fromkeys(
        ("title", "body", "icon", "sound", "tag", "click_action", "body_loc_key", "title_loc_key", "channel_id", "ticker",
         "event_time"),
        _text,
    ),
    "color": lambda fields, key: fields.text(key, _COLOR, "a colour such as #ff8800"),
    "body_loc_args": _texts,
    "title_loc_args": _texts,
    **dict.fromkeys(
        ("sticky", "local_only", "default_sound", "default_vibrate_timings", "default_light_settings",
         "bypass_proxy_notification"),
        _flag,
    ),
    "notification_priority": _one_of(
        "PRIORITY_UNSPECIFIED", "PRIORITY_MIN", "PRIORITY_LOW", "PRIORITY_DEFAULT", "PRIORITY_HIGH", "PRIORITY_MAX"
    ),
    "visibility": _one_of("VISIBILITY_UNSPECIFIED", "PRIVATE", "PUBLIC", "SECRET"),
    "proxy": _one_of("PROXY_UNSPECIFIED", "ALLOW", "DENY", "IF_PRIORITY_LOWERED"),
    "vibrate_timings": _durations,
    "notification_count": _count,
    "light_settings": _object(
        {"color": _map, "light_on_duration": _duration, "light_off_duration": _duration}
    ),
    "image": _https,
}  # fmt: skip
_ANDROID: Final[Mapping[str, Check]] = {
    "collapse_key": _text,
    "priority": _one_of("HIGH", "NORMAL", "high", "normal"),
    "ttl": _ttl,
    "restricted_package_name": lambda fields, key: fields.text(
        key, _PACKAGE, "a package such as com.example.shop"
    ),
    "data": _data,
    "notification": _object(_ANDROID_NOTIFICATION),
    "fcm_options": _FCM_OPTIONS,
    "direct_boot_ok": _flag,
    "bandwidth_constrained_ok": _flag,
    "restricted_satellite_ok": _flag,
}
_APNS: Final[Mapping[str, Check]] = {
    "headers": _strings,
    "payload": _map,
    "fcm_options": _object({"analytics_label": _label, "image": _https}),
    "live_activity_token": _text,
}
_WEBPUSH: Final[Mapping[str, Check]] = {
    "headers": _strings,
    "data": _strings,
    "notification": _map,
    "fcm_options": _object({"link": _https, "analytics_label": _label}),
}


def parse(raw: Mapping[str, Any] | None, name: str = "notification.fcm") -> FcmOptions:
    """Check what the caller wrote; nothing written is a set of defaults.

    Raises:
        InvalidRequest: names the field, what was found and what is allowed.
    """
    if not raw and isinstance(raw, Mapping | None):
        return FcmOptions()
    fields = Fields(raw, name, FIELDS)
    return FcmOptions(
        priority=fields.one_of("priority", ("high", "normal")),
        ttl=fields.whole("ttl", 0, MAX_TTL_S, "seconds"),
        collapse_key=fields.text("collapse_key"),
        title=fields.text("title"),
        body=fields.text("body"),
        image=_https(fields, "image"),
        data=_data(fields, "data") or {},
        analytics_label=_label(fields, "analytics_label"),
        restricted_package_name=_ANDROID["restricted_package_name"](fields, "restricted_package_name"),
        direct_boot_ok=fields.flag("direct_boot_ok"),
        android=_members(fields.raw.get("android"), fields.field("android"), _ANDROID) or {},
        apns=_members(fields.raw.get("apns"), fields.field("apns"), _APNS) or {},
        webpush=_members(fields.raw.get("webpush"), fields.field("webpush"), _WEBPUSH) or {},
    )
