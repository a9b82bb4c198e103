"""What goes to APNs: body and headers. Pure.

Sources: Apple, "Sending notification requests to APNs", "Generating a remote notification", "Sending broadcast push notification
requests to APNs".
"""

from __future__ import annotations

import sys
import uuid
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from pushq.errors import InvalidRequest
from pushq.notification import DEFAULT_TTL_S, Notification
from pushq.providers.apns.options import PUSH_TYPES, UNLISTED, ApnsOptions, LiveActivity, PushType, parse
from pushq.providers.fields import merged

MAX_PAYLOAD_BYTES: Final = PUSH_TYPES["alert"].max_payload
#: Apple gives a channel's message a kilobyte more than a device's.
MAX_CHANNEL_PAYLOAD_BYTES: Final = 5120
PATH_PREFIX: Final = b"/3/device/"
#: Apple ("Sending notification requests", and its newer connection page agrees): values that change must not churn the
#: server's small header table.
UNINDEXED: Final = (b"apns-expiration", b"apns-collapse-id")
#: As long as any present time: sizes are checked before the time is known.
_SOME_TIME: Final = datetime(2030, 1, 1, tzinfo=UTC)

#: Fields of the message for which Apple has no key: they stand beside `aps`, for the app.
_BESIDE: Final = ("image", "link")
_ALERT_KEYS: Final = (
    "subtitle",
    "launch_image",
    "title_loc_key",
    "title_loc_args",
    "subtitle_loc_key",
    "subtitle_loc_args",
    "loc_key",
    "loc_args",
)
_APS_KEYS: Final = (
    "thread_id",
    "target_content_id",
    "interruption_level",
    "relevance_score",
    "filter_criteria",
)


def channel_path(bundle_id: str) -> bytes:
    return f"/4/broadcasts/apps/{bundle_id}".encode()


def payload(notification: Notification, *, at: datetime | None = None) -> bytes:
    """The body: the same bytes for every device of a send.

    Args:
        at: when the send was due: the time of a Live Activity's event that names none. Needed for such, and for nothing else.
    """
    options = parse(notification.apns)
    which = push_type(notification, options)
    custom = merged(notification.data, options.payload)
    if which == "mdm":
        return orjson.dumps(custom)
    aps = _aps(notification, options, which, at)
    if notification.image is not None:
        # iOS has no key for a picture: the app's extension fetches it, and must be allowed to change the notification.
        aps["mutable-content"] = 1
    custom |= {key: value for key in _BESIDE if (value := getattr(notification, key)) is not None}
    if options.mutable_content is not None:
        aps["mutable-content"] = int(options.mutable_content)
    return orjson.dumps({"aps": {**aps, **options.aps}, **custom})


def push_type(notification: Notification, options: ApnsOptions) -> str:
    """What ``apns-push-type`` says."""
    if options.push_type is not None:
        return options.push_type
    if options.live_activity is not None:
        return "liveactivity"
    return "alert" if _seen_or_heard(notification, options) else "background"


def _seen_or_heard(notification: Notification, options: ApnsOptions) -> bool:
    """Apple: a background push must have no alert, sound or badge."""
    return bool(_alert(notification, options)) or any(
        value is not None for value in (notification.sound, notification.badge, options.sound, options.badge)
    )


def _alert(notification: Notification, options: ApnsOptions) -> dict[str, Any]:
    title = options.title or (None if options.title_loc_key else notification.title)
    body = options.body or (None if options.loc_key else notification.body)
    alert: dict[str, Any] = {k: v for k, v in (("title", title), ("body", body)) if v is not None}
    for key in _ALERT_KEYS:
        value = getattr(options, key)
        if value is not None:
            alert[key.replace("_", "-")] = value
    return alert


def _aps(notification: Notification, options: ApnsOptions, which: str, at: datetime | None) -> dict[str, Any]:
    if options.live_activity is not None:
        return _live_activity(notification, options, options.live_activity, at)
    aps: dict[str, Any] = {}
    alert = _alert(notification, options)
    if alert:
        aps["alert"] = alert
    if which == "background" or options.content_available:
        aps["content-available"] = 1
    if which in ("widgets", "controls") if options.content_changed is None else options.content_changed:
        aps["content-changed"] = True
    for key in ("sound", "badge", "category"):
        value = getattr(options, key)
        value = getattr(notification, key) if value is None else value
        if value is not None:
            aps[key] = value
    for key in _APS_KEYS:
        value = getattr(options, key)
        if value is not None:
            aps[key.replace("_", "-")] = value
    return aps


def _live_activity(
    notification: Notification, options: ApnsOptions, activity: LiveActivity, at: datetime | None
) -> dict[str, Any]:
    timestamp = activity.timestamp
    if timestamp is None:
        if at is None:
            raise ValueError("a Live Activity without a timestamp of its own needs the time of the send")
        timestamp = int(at.timestamp())
    aps: dict[str, Any] = {"timestamp": timestamp, "event": activity.event}
    for key in (
        "content_state",
        "stale_date",
        "dismissal_date",
        "attributes_type",
        "attributes",
        "input_push_channel",
    ):
        value = getattr(activity, key)
        if value is not None:
            aps[key.replace("_", "-")] = value
    if activity.input_push_token:
        aps["input-push-token"] = 1
    if options.relevance_score is not None:
        aps["relevance-score"] = options.relevance_score
    alert = _activity_alert(notification, options)
    if alert:
        aps["alert"] = alert
    return aps


def _activity_alert(notification: Notification, options: ApnsOptions) -> dict[str, Any]:
    """ActivityKit's own form: the texts hold their keys, and the sound is part of the alert."""
    alert: dict[str, Any] = {}
    for name, key, arguments, text in (
        ("title", options.title_loc_key, options.title_loc_args, options.title or notification.title),
        ("body", options.loc_key, options.loc_args, options.body or notification.body),
    ):
        if key is not None:
            alert[name] = {"loc-key": key} | ({} if arguments is None else {"loc-args": arguments})
        elif text is not None:
            alert[name] = text
    sound = options.sound or notification.sound
    if alert and sound is not None:
        alert["sound"] = sound
    return alert


def check(notification: Notification, name: str = "notification", *, limit: int | None = None) -> None:
    """Raise InvalidRequest when APNs would refuse the notification whatever the device.

    Args:
        limit: bytes of the payload; None: what the push type has.
    """
    options = parse(notification.apns, f"{name}.apns")
    which = push_type(notification, options)
    if which == "background" and not (
        notification.data or options.payload or options.aps or options.push_type
    ):
        raise InvalidRequest(
            name, "nothing for APNs", "a title, a body or data; or a push_type that needs none"
        )
    rules = PUSH_TYPES.get(which, UNLISTED)
    own = f"{name}.apns"
    if options.priority is not None and options.priority not in rules.priorities:
        allowed = " or ".join(map(str, rules.priorities))
        raise InvalidRequest(
            f"{own}.priority", str(options.priority), f"{allowed}: the push type is {which!r}"
        )
    if which == "background" and _seen_or_heard(notification, options):
        raise InvalidRequest(
            f"{own}.push_type", "'background' with an alert, a sound or a badge", "'alert', or data alone"
        )
    activity = options.live_activity
    if activity is not None and activity.event == "start" and not _activity_alert(notification, options):
        raise InvalidRequest(
            own, "a Live Activity's start without an alert", "a title or a body: Apple asks for it"
        )
    for key in _BESIDE:
        if getattr(notification, key) is not None and (key in notification.data or key in options.payload):
            raise InvalidRequest(
                f"{name}.data.{key}", f"a key that notification.{key} needs on iOS", "one of the two"
            )
    for key in options.payload:
        if key in notification.data:
            raise InvalidRequest(f"{own}.payload.{key}", f"a key that {name}.data has too", "one of the two")
    if "aps" in notification.data:
        raise InvalidRequest(f"{name}.data.aps", "a key that Apple reserves", "another name for it")
    size = len(payload(notification, at=_SOME_TIME))
    limit = limit or rules.max_payload
    if size > limit:
        raise InvalidRequest(name, f"{size:,} bytes as an APNs payload", f"at most {limit:,} bytes")


def check_certificate(notification: Notification, name: str = "notification") -> None:
    """Raise InvalidRequest for what an app with a TLS client certificate cannot send."""
    if rules_of(notification).token_only:
        which = push_type(notification, parse(notification.apns))
        raise InvalidRequest(
            f"{name}.apns.push_type",
            repr(which),
            "another one: Apple takes it with a key (.p8) only, not with a certificate",
        )


def check_channel(notification: Notification, name: str = "notification") -> None:
    """Raise InvalidRequest for what a broadcast channel does not take."""
    options = parse(notification.apns, f"{name}.apns")
    activity = options.live_activity
    own = f"{name}.apns.live_activity"
    if activity is None:
        raise InvalidRequest(
            own, "nothing", "an update or end of a Live Activity: a channel carries nothing else"
        )
    if activity.event == "start":
        raise InvalidRequest(
            f"{own}.event", "'start'", "'update' or 'end': a channel cannot start an activity"
        )
    if notification.collapse_id is not None:
        raise InvalidRequest(f"{name}.collapse_id", "a value", "nothing: a channel's message has none")
    for field in ("topic", "collapse_id"):
        if getattr(options, field) is not None:
            raise InvalidRequest(f"{name}.apns.{field}", "a value", "nothing: a channel's message has none")
    check(notification, name, limit=MAX_CHANNEL_PAYLOAD_BYTES)


def topic_of(bundle_id: str, which: str, options: ApnsOptions) -> str:
    """The ``apns-topic``. A configured topic that has the suffix already is left as it is."""
    if options.topic is not None:
        return options.topic
    suffix = PUSH_TYPES.get(which, UNLISTED).suffix or ""
    return bundle_id if bundle_id.endswith(suffix) else bundle_id + suffix


def headers(
    notification: Notification, *, topic: str, authorization: bytes, expires_at: int, collapse_id: str | None
) -> tuple[tuple[bytes, bytes], ...]:
    """Headers that all requests of a send share.

    Args:
        topic: the app's bundle id.
        expires_at: UNIX seconds after which APNs gives up; 0 = one attempt (see :func:`expiration`).
        authorization: ``bearer <jwt>``; empty where a client certificate stands for it.
    """
    options = parse(notification.apns)
    which = push_type(notification, options)
    result = [
        (b"apns-topic", topic_of(topic, which, options).encode()),
        *_delivery(notification, options, which, expires_at),
    ]
    collapse = options.collapse_id or collapse_id
    if collapse is not None:
        result.append((b"apns-collapse-id", collapse.encode()))
    return _authorized(authorization, result)


def channel_headers(
    notification: Notification, *, channel_id: str, authorization: bytes, expires_at: int
) -> tuple[tuple[bytes, bytes], ...]:
    """Headers of a message to a broadcast channel: no topic, for the bundle id stands in the path."""
    options = parse(notification.apns)
    result = [
        (b"apns-channel-id", channel_id.encode()),
        *_delivery(notification, options, "liveactivity", expires_at),
    ]
    return _authorized(authorization, result)


def _authorized(authorization: bytes, rest: list[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"authorization", authorization), *rest) if authorization else tuple(rest)


def _delivery(
    notification: Notification, options: ApnsOptions, which: str, expires_at: int
) -> list[tuple[bytes, bytes]]:
    allowed = PUSH_TYPES.get(which, UNLISTED).priorities
    wanted = options.priority or (10 if notification.priority == "high" else 5)
    priority = wanted if wanted in allowed else allowed[-1]
    return [
        (b"apns-push-type", which.encode()),
        (b"apns-priority", b"%d" % priority),
        (b"apns-expiration", b"%d" % expires_at),
    ]


def expiration(notification: Notification, starts_at: datetime, *, channel: bool = False) -> int:
    """``apns-expiration``: UNIX seconds, or 0 for one attempt.

    A channel that stores nothing refuses every other value (BadExpirationDate), so its messages have 0 unless the caller names
    a time: ``apns.ttl``, or a ``ttl`` that is not the default.

    Args:
        starts_at: when the send was due.
    """
    own = parse(notification.apns).ttl
    if own is None and channel and notification.ttl == DEFAULT_TTL_S:
        return 0
    seconds = notification.ttl if own is None else own
    return int(starts_at.timestamp()) + seconds if seconds else 0


def apns_id(send_id: uuid.UUID, device_id: int) -> bytes:
    """The ``apns-id`` of one recipient: the same for every attempt, so that repetitions can be joined up."""
    return apns_ids(send_id, [device_id])[0]


def apns_ids(send_id: uuid.UUID, device_ids: Sequence[int]) -> list[bytes]:
    """The ``apns-id`` of each recipient: the send's id, the device's in its last 8 octets by XOR; the send's own for 0.

    All in one go: putting them together one by one was a tenth of what a worker did for a recipient.
    """
    if not device_ids:
        return []
    octets = array("q", device_ids)
    if sys.byteorder == "little":
        octets.byteswap()
    mixed = int.from_bytes(octets.tobytes()) ^ int.from_bytes(send_id.bytes[8:] * len(octets))
    rows = "\n" + mixed.to_bytes(8 * len(octets)).hex("\n", 8)
    start, head = str(send_id)[:18], send_id.hex[16:20]
    # A dash belongs behind the first four of 16 digits. They are the send's for all devices below 2**48.
    if rows.count("\n" + head) == len(octets):
        return rows.replace("\n" + head, f"\n{start}-{head}-").encode().split(b"\n")[1:]
    return [f"{start}-{row[:4]}-{row[4:]}".encode() for row in rows.split("\n")[1:]]


def rules_of(notification: Notification) -> PushType:
    """What Apple asks of this notification's push type."""
    return PUSH_TYPES.get(push_type(notification, parse(notification.apns)), UNLISTED)
