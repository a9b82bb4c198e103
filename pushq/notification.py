"""The message: what the caller says, checked field by field, before any device is touched.

Pure: no I/O. What a provider makes of it is in ``pushq.providers.*.request``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, cast

from pushq.errors import InvalidRequest

Priority = Literal["high", "normal"]

#: A message that no phone fetched within a day is stale, unless the caller says otherwise.
DEFAULT_TTL_S: Final = 86_400
#: FCM stores a message for at most 28 days (ErrorCode page of the FCM v1 reference); APNs for 30.
MAX_TTL_S: Final = 2_419_200
#: APNs: `apns-collapse-id` is at most 64 bytes (Apple, "Sending notification requests to APNs").
MAX_COLLAPSE_BYTES: Final = 64


@dataclass(frozen=True)
class Notification:
    """One notification for every platform.

    Attributes:
        title, body: what the phone shows; at least one of them, or ``data`` alone for a silent push.
        data: string to string, handed to the app as it is.
        sound: name of the sound, ``default`` for the system's.
        badge: number on the app's icon (APNs, FCM), 0 removes it.
        image: https address of a picture (FCM shows it; on iOS the app's extension reads it from ``data``).
        collapse_id: a later message with the same id replaces an earlier one on the phone; at most 64 bytes.
        ttl: seconds that the provider keeps trying, and after which pushq does not send any more; 0 means once, now.
        priority: ``high`` wakes the phone, ``normal`` spares its battery.
    """

    title: str | None = None
    body: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    sound: str | None = None
    badge: int | None = None
    image: str | None = None
    collapse_id: str | None = None
    ttl: int = DEFAULT_TTL_S
    priority: Priority = "high"

    @property
    def silent(self) -> bool:
        return self.title is None and self.body is None

    def as_json(self) -> dict[str, Any]:
        """A JSON object that :func:`parse_notification` reads back; fields at their default are left out."""
        default = asdict(Notification())
        return {key: value for key, value in asdict(self).items() if value != default[key]}


FIELDS: Final = tuple(Notification.__dataclass_fields__)

#: FCM refuses these names in `data` (Message reference: reserved words).
_RESERVED_DATA: Final = frozenset({"from", "message_type", "gcm", "aps"})
_RESERVED_PREFIXES: Final = ("google.", "gcm.notification.")


def parse_notification(value: object, name: str = "notification") -> Notification:
    """Check what the caller passed.

    Args:
        value: a mapping with the fields of :class:`Notification`, or a Notification.
        name: what to call it in an error.

    Raises:
        InvalidRequest: names the field, what was found and what is allowed.
    """
    if isinstance(value, Notification):
        value = value.as_json()
    if not isinstance(value, Mapping):
        raise InvalidRequest(name, kind(value), f"a mapping with some of: {', '.join(FIELDS)}")
    for key in value:
        if key not in FIELDS:
            near = difflib.get_close_matches(str(key), FIELDS, n=1)
            raise InvalidRequest(
                f"{name}.{key}",
                "an unknown field",
                f"did you mean {near[0]!r}?" if near else f"one of: {', '.join(FIELDS)}",
            )
    title, body = _text(value, "title", name), _text(value, "body", name)
    data = _data(value.get("data"), f"{name}.data")
    if title is None and body is None and not data:
        raise InvalidRequest(name, "neither title, body nor data", "at least one of them")
    collapse_id = _text(value, "collapse_id", name)
    if collapse_id is not None and not 1 <= len(collapse_id.encode()) <= MAX_COLLAPSE_BYTES:
        raise InvalidRequest(
            f"{name}.collapse_id",
            f"{len(collapse_id.encode())} bytes",
            f"1 to {MAX_COLLAPSE_BYTES} bytes of UTF-8",
        )
    image = _text(value, "image", name)
    if image is not None and not image.startswith("https://"):
        raise InvalidRequest(f"{name}.image", repr(image[:60]), "an address that begins with https://")
    priority = value.get("priority", "high")
    if priority not in ("high", "normal"):
        raise InvalidRequest(f"{name}.priority", repr(priority), "'high' or 'normal'")
    ttl = _whole(value.get("ttl", DEFAULT_TTL_S), f"{name}.ttl", 0, MAX_TTL_S, "seconds")
    badge = value.get("badge")
    return Notification(
        title=title,
        body=body,
        data=data,
        sound=_text(value, "sound", name),
        badge=None if badge is None else _whole(badge, f"{name}.badge", 0, 99_999, ""),
        image=image,
        collapse_id=collapse_id,
        ttl=ttl,
        priority=cast(Priority, priority),
    )


def kind(value: object) -> str:
    """How an error message calls a value of the wrong type."""
    if value is None:
        return "nothing"
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"


def _text(source: Mapping[str, object], key: str, name: str) -> str | None:
    value = source.get(key)
    if value is None or (isinstance(value, str) and value):
        return _encodable(value, f"{name}.{key}")
    raise InvalidRequest(
        f"{name}.{key}", "an empty text" if value == "" else kind(value), "a text, or the field left out"
    )


def _encodable(value: str | None, name: str) -> str | None:
    if value is not None:
        if "\0" in value:
            raise InvalidRequest(name, "a NUL character", "text without NUL characters")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(
                name, "a lone surrogate (broken UTF-16)", "text that can be written as UTF-8"
            ) from None
    return value


def _whole(value: object, name: str, low: int, high: int, unit: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(name, kind(value), f"a whole number from {low:,} to {high:,} {unit}".rstrip())
    return value


def _data(value: object, name: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(name, kind(value), "a mapping of texts to texts")
    for key, item in value.items():
        if not isinstance(key, str) or not key:
            raise InvalidRequest(name, f"the key {key!r}", "keys that are texts")
        if key in _RESERVED_DATA or key.startswith(_RESERVED_PREFIXES):
            raise InvalidRequest(f"{name}.{key}", "a key that the providers reserve", "another name for it")
        if not isinstance(item, str):
            raise InvalidRequest(
                f"{name}.{key}", kind(item), "a text (FCM takes nothing else: write numbers as '42')"
            )
        _encodable(key, name)
        _encodable(item, f"{name}.{key}")
    return dict(value)
