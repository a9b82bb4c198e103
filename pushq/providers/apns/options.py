"""``notification["apns"]``: what a message says to Apple alone. Parsed and checked at the call. Pure.

Sources: Apple, "Sending notification requests to APNs", "Generating a remote notification", "Starting and updating Live Activities
with ActivityKit push notifications".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from pushq.errors import InvalidRequest
from pushq.notification import fits_header
from pushq.providers.fields import Fields

Event = Literal["start", "update", "end"]


@dataclass(frozen=True)
class PushType:
    """What Apple asks of one ``apns-push-type``.

    Attributes:
        suffix: what the topic has after the bundle id; None: the topic is no bundle id, and the caller has to give it.
        priorities: values of ``apns-priority`` that are taken.
        max_payload: bytes of the encoded body.
        token_only: a TLS client certificate cannot send it.
    """

    suffix: str | None = ""
    priorities: tuple[int, ...] = (1, 5, 10)
    max_payload: int = 4096
    token_only: bool = False


PUSH_TYPES: Final[Mapping[str, PushType]] = {
    "alert": PushType(),
    # 10 is an error; what 1 would mean is not said anywhere.
    "background": PushType(priorities=(5,)),
    "location": PushType(".location-query", token_only=True),
    "voip": PushType(".voip", max_payload=5120),
    "complication": PushType(".complication"),
    "fileprovider": PushType(".pushkit.fileprovider"),
    "mdm": PushType(None),
    "liveactivity": PushType(".push-type.liveactivity"),
    "pushtotalk": PushType(".voip-ptt"),
    "widgets": PushType(".push-type.widgets"),
    "controls": PushType(".push-type.controls"),
}
#: Apple adds push types every year: one that is not listed goes out as it is, with the topic that the caller gives.
UNLISTED: Final = PushType(None)

#: APNs keeps a message for 30 days at most.
MAX_TTL_S: Final = 30 * 86_400
MAX_COLLAPSE_BYTES: Final = 64
LEVELS: Final = ("passive", "active", "time-sensitive", "critical")
_MAX_UNIX: Final = 2**53

_PUSH_TYPE: Final = re.compile(r"[a-z][a-z0-9-]{0,63}").fullmatch
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,255}").fullmatch
#: Base64, of a length that Apple does not fix.
CHANNEL_ID: Final = re.compile(r"[A-Za-z0-9+/_-]{1,512}={0,2}").fullmatch


@dataclass(frozen=True)
class LiveActivity:
    """One remote start, update or end of a Live Activity.

    Attributes:
        event: ``start`` (to a push-to-start token), ``update`` or ``end``.
        content_state: the activity's new state, as the app's ``ContentState`` decodes it.
        timestamp: UNIX seconds; the phone ignores what is older than what it shows. Default: when the send was due.
        stale_date: UNIX seconds from which on the content counts as outdated.
        dismissal_date: UNIX seconds at which an ended activity leaves the lock screen; a past one removes it at once.
        attributes_type, attributes: the app's ``ActivityAttributes`` and their values; for ``start`` only.
        input_push_channel: channel id that the started activity listens to (iOS 18).
        input_push_token: the started activity asks for a token of its own (iOS 18).
    """

    event: Event
    content_state: Mapping[str, Any] | None = None
    timestamp: int | None = None
    stale_date: int | None = None
    dismissal_date: int | None = None
    attributes_type: str | None = None
    attributes: Mapping[str, Any] | None = None
    input_push_channel: str | None = None
    input_push_token: bool = False


@dataclass(frozen=True)
class ApnsOptions:
    """Everything that can stand in ``notification["apns"]``.

    Attributes:
        push_type: default: ``alert``, ``background`` for a silent push, ``liveactivity`` with ``live_activity``.
        topic: the whole ``apns-topic``; default: the app's bundle id with the suffix of the push type.
        priority: 10 at once, 5 sparing the battery, 1 never waking the phone.
        ttl: seconds that APNs stores the message; 0 is one attempt. pushq itself stops at the message's own ``ttl``.
        collapse_id: at most 64 bytes.
        title, subtitle, body: in the place of the message's texts.
        title_loc_key, title_loc_args, subtitle_loc_key, subtitle_loc_args, loc_key, loc_args: texts that the app holds.
        sound: a name, or a critical alert: ``{"name": ..., "critical": 1, "volume": 0.5}``.
        relevance_score: 0 to 1; any number for a Live Activity.
        content_available: wake the app as well.
        mutable_content: let the app's extension change the notification.
        content_changed: for ``widgets`` and ``controls``: reload (the default for these types).
        aps: further keys of ``aps``, in Apple's spelling.
        payload: keys beside ``aps``.
    """

    push_type: str | None = None
    topic: str | None = None
    priority: int | None = None
    ttl: int | None = None
    collapse_id: str | None = None
    title: str | None = None
    subtitle: str | None = None
    body: str | None = None
    launch_image: str | None = None
    title_loc_key: str | None = None
    title_loc_args: tuple[str, ...] | None = None
    subtitle_loc_key: str | None = None
    subtitle_loc_args: tuple[str, ...] | None = None
    loc_key: str | None = None
    loc_args: tuple[str, ...] | None = None
    sound: str | Mapping[str, Any] | None = None
    badge: int | None = None
    category: str | None = None
    thread_id: str | None = None
    target_content_id: str | None = None
    interruption_level: str | None = None
    relevance_score: float | None = None
    filter_criteria: str | None = None
    content_available: bool | None = None
    mutable_content: bool | None = None
    content_changed: bool | None = None
    live_activity: LiveActivity | None = None
    aps: Mapping[str, Any] = field(default_factory=dict)
    payload: Mapping[str, Any] = field(default_factory=dict)


FIELDS: Final = tuple(ApnsOptions.__dataclass_fields__)
_ACTIVITY_FIELDS: Final = tuple(LiveActivity.__dataclass_fields__)
_TEXTS: Final = (
    "title",
    "subtitle",
    "body",
    "launch_image",
    "title_loc_key",
    "subtitle_loc_key",
    "loc_key",
    "category",
    "thread_id",
    "target_content_id",
    "filter_criteria",
)
#: Keys of ``aps`` that a field of its own speaks for: written twice, one of the two would be lost.
_OWN_KEYS: Final = frozenset(
    {
        "alert", "badge", "sound", "category", "thread-id", "target-content-id", "interruption-level", "relevance-score",
        "filter-criteria", "content-available", "mutable-content", "content-changed", "timestamp", "event", "content-state",
        "stale-date", "dismissal-date", "attributes-type", "attributes", "input-push-channel", "input-push-token",
    }
)  # fmt: skip


def parse(raw: Mapping[str, Any] | None, name: str = "notification.apns") -> ApnsOptions:
    """Check what the caller wrote; nothing written is a set of defaults.

    Raises:
        InvalidRequest: names the field, what was found and what is allowed.
    """
    if not raw and isinstance(raw, Mapping | None):
        return ApnsOptions()
    fields = Fields(raw, name, FIELDS)
    activity = _activity(fields.raw.get("live_activity"), fields.field("live_activity"))
    push_type = fields.text("push_type", _PUSH_TYPE, f"one of: {', '.join(PUSH_TYPES)}")
    if activity is not None and push_type not in (None, "liveactivity"):
        raise fields.refuse("push_type", "'liveactivity', or the field left out: live_activity is given")
    if activity is None and push_type == "liveactivity":
        raise InvalidRequest(
            fields.field("live_activity"), "nothing", "a mapping: push_type is 'liveactivity'"
        )
    options = ApnsOptions(
        push_type=push_type,
        topic=fields.text("topic", _TOPIC, "letters, digits, . _ and -"),
        priority=fields.one_of("priority", (10, 5, 1)),
        ttl=fields.whole("ttl", 0, MAX_TTL_S, "seconds"),
        collapse_id=fields.text(
            "collapse_id",
            lambda text: len(text.encode()) <= MAX_COLLAPSE_BYTES and fits_header(text),
            "1 to 64 bytes of UTF-8, no control characters, and no space at either end",
        ),
        **{key: fields.text(key) for key in _TEXTS},
        title_loc_args=_arguments(fields, "title_loc"),
        subtitle_loc_args=_arguments(fields, "subtitle_loc"),
        loc_args=_arguments(fields, "loc"),
        sound=_sound(fields),
        badge=fields.whole("badge", 0, 99_999),
        interruption_level=fields.one_of("interruption_level", LEVELS),
        relevance_score=fields.number("relevance_score", 0, 1)
        if activity is None
        else fields.finite("relevance_score"),
        content_available=fields.flag("content_available"),
        mutable_content=fields.flag("mutable_content"),
        content_changed=fields.flag("content_changed"),
        live_activity=activity,
        aps=_aps(fields),
        payload=_payload(fields),
    )
    kind_of_push = PUSH_TYPES.get(push_type or "", UNLISTED)
    if push_type is not None and kind_of_push.suffix is None and options.topic is None:
        expected = (
            "the UID of the MDM push certificate"
            if push_type == "mdm"
            else f"the whole topic: pushq does not know the suffix of {push_type!r}"
        )
        raise InvalidRequest(fields.field("topic"), "nothing", expected)
    return options


def _arguments(fields: Fields, prefix: str) -> tuple[str, ...] | None:
    arguments = fields.texts(f"{prefix}_args")
    if arguments is not None and not fields.given(f"{prefix}_key"):
        raise fields.refuse(f"{prefix}_args", f"{prefix}_key as well: the text that they are put into")
    return arguments


def _sound(fields: Fields) -> str | dict[str, Any] | None:
    if not isinstance(fields.raw.get("sound"), Mapping):
        return fields.text("sound", None, "a name, or a mapping with name, critical and volume")
    sound = Fields(fields.raw["sound"], fields.field("sound"), ("name", "critical", "volume"))
    parts = {
        "critical": sound.one_of("critical", (0, 1)),
        "name": sound.text("name"),
        "volume": sound.number("volume", 0, 1),
    }
    if parts["name"] is None:
        raise sound.refuse("name", "the sound's name; 'default' is the system's")
    return {key: value for key, value in parts.items() if value is not None}


def _aps(fields: Fields) -> dict[str, Any]:
    aps = fields.mapping("aps") or {}
    for key in aps:
        if key in _OWN_KEYS:
            own = key.replace("-", "_")
            raise InvalidRequest(
                f"{fields.field('aps')}.{key}", "a key that has a field of its own", _where(own, fields)
            )
    return aps


def _where(own: str, fields: Fields) -> str:
    if own in FIELDS:
        return fields.field(own)
    if own in _ACTIVITY_FIELDS:
        return fields.field(f"live_activity.{own}")
    return f"{fields.field('title')}, {fields.field('body')} and the like"


def _payload(fields: Fields) -> dict[str, Any]:
    payload = fields.mapping("payload") or {}
    if "aps" in payload:
        raise InvalidRequest(f"{fields.field('payload')}.aps", "Apple's own key", fields.field("aps"))
    return payload


def _activity(raw: object, name: str) -> LiveActivity | None:
    if raw is None:
        return None
    fields = Fields(raw, name, _ACTIVITY_FIELDS)
    event = fields.one_of("event", ("start", "update", "end"))
    if event is None:
        raise fields.refuse("event", "'start', 'update' or 'end'")
    activity = LiveActivity(
        event=cast(Event, event),
        content_state=fields.mapping("content_state"),
        timestamp=fields.whole("timestamp", 1, _MAX_UNIX, "UNIX seconds"),
        stale_date=fields.whole("stale_date", 0, _MAX_UNIX, "UNIX seconds"),
        dismissal_date=fields.whole("dismissal_date", 0, _MAX_UNIX, "UNIX seconds"),
        attributes_type=fields.text("attributes_type"),
        attributes=fields.mapping("attributes"),
        input_push_channel=fields.text("input_push_channel", CHANNEL_ID, "a channel id (base64)"),
        input_push_token=bool(fields.flag("input_push_token")),
    )
    if event != "end" and activity.content_state is None:
        raise fields.refuse("content_state", f"the activity's state: the event is {event!r}")
    for key in ("attributes_type", "attributes"):
        if event == "start" and getattr(activity, key) is None:
            raise fields.refuse(key, "what the activity is started with: the event is 'start'")
    for key in ("attributes_type", "attributes", "input_push_channel", "input_push_token"):
        if event != "start" and fields.raw.get(key):
            raise fields.refuse(key, f"the field left out: only 'start' has it, the event is {event!r}")
    if event != "end" and activity.dismissal_date is not None:
        raise fields.refuse(
            "dismissal_date", f"the field left out: only 'end' has it, the event is {event!r}"
        )
    if activity.input_push_channel is not None and activity.input_push_token:
        raise fields.refuse("input_push_token", "one of input_push_channel and input_push_token")
    return activity
