"""Devices: registered, changed, unregistered, looked up, and uploaded in bulk."""

from __future__ import annotations

from typing import Final

from pushq.tokens.device import ENVIRONMENTS, MAX_TAG_LENGTH, MAX_TAGS
from pushq.web.api.schemas.shapes import (
    APP,
    PLATFORM,
    REJECTS,
    TIME,
    TIME_OR_NULL,
    TOKEN,
    USER,
    WHOLE,
    Schema,
    or_null,
    ref,
    said,
    thing,
)

_MOMENT: Final = (
    r"^(19[789][0-9]|20[0-9]{2})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"([T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6})?)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?)?$"
)

_DEVICE: Final[Schema] = {
    "language": {
        "type": ["string", "null"],
        "pattern": "^$|^[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8}){0,4}$",
        "maxLength": 35,
    },
    "country": {"type": ["string", "null"], "pattern": "^$|^[A-Za-z]{2}$"},
    "timezone": {"type": ["string", "null"], "pattern": r"^[A-Za-z0-9_+:/\-]{0,64}$"},
    "app_version": said(
        "Begins with numbers: 4.12.0-beta1",
        type=["string", "null"],
        maxLength=64,
        pattern=r"^([0-9]{1,9}(\.[0-9]{1,9})*([^0-9.\s\\][\x21-\x5b\x5d-\x7e]*)?)?$",
    ),
    "tags": {
        "type": ["array", "null"],
        "items": {"type": "string", "minLength": 1, "maxLength": MAX_TAG_LENGTH},
        "maxItems": MAX_TAGS,
    },
    "attributes": said(
        "Values for placeholders; at most 4,096 bytes",
        type=["object", "null"],
        additionalProperties={"type": ["string", "number", "boolean"]},
    ),
}

DEVICE: Final = thing(
    {
        "user_id": {"anyOf": [USER, said("Decimal digits", type="string", pattern="^[0-9]{1,19}$")]},
        "app": APP,
        "platform": PLATFORM,
        "token": said(
            "A secret: never in an answer, never in a log", type="string", minLength=20, maxLength=4096
        ),
        "environment": {"type": ["string", "null"], "enum": ["", *ENVIRONMENTS, None]},
        **_DEVICE,
        "last_seen": said(
            "When the user last used the app there; default: now",
            type=["string", "null"],
            pattern=f"^$|{_MOMENT}",
        ),
    },
    ("user_id", "app", "platform", "token"),
    description="What is left out stays as it is stored.",
    example={
        "user_id": 42,
        "app": "shop",
        "platform": "fcm",
        "token": TOKEN,
        "language": "de",
        "app_version": "4.12.0",
        "tags": ["news"],
        "attributes": {"first_name": "Ada"},
    },
)

DEVICE_CHANGE: Final = thing(
    {**_DEVICE, "last_seen": said("A time since 1970", type="string", pattern=_MOMENT)},
    minProperties=1,
    description="What is left out stays; null removes.",
    example={"language": "pt-BR", "tags": ["vip"]},
)

UNREGISTRATION: Final = thing(
    {
        "app": APP,
        "platform": PLATFORM,
        "token": {"type": "string", "minLength": 20, "maxLength": 4096},
        "environment": {"type": ["string", "null"], "enum": ["", *ENVIRONMENTS, None]},
        "user_id": said("Only if it is this user's", **or_null(USER)),
    },
    ("app", "platform", "token"),
    example={"app": "shop", "platform": "fcm", "token": TOKEN},
)

_DEVICE_ID: Final[Schema] = {"type": "integer", "minimum": 1}

REGISTRATION: Final = thing(
    {
        "device_id": _DEVICE_ID,
        "created": said("Whether the user had never registered this token before", type="boolean"),
        "moved_from": said("Users who had the token until now", type="array", items=USER),
    },
    ("device_id", "created", "moved_from"),
    example={"device_id": 7, "created": True, "moved_from": []},
)

KNOWN_DEVICE: Final = thing(
    {
        "device_id": _DEVICE_ID,
        "app": {"type": "string"},
        "platform": PLATFORM,
        "environment": {"type": "string", "enum": list(ENVIRONMENTS)},
        "token_hash": said("The first 8 hex digits of its sha256, as in the logs", type="string"),
        "is_active": {"type": "boolean"},
        "deactivation_reason": {"type": ["string", "null"]},
        "registered_at": TIME,
        "last_seen": TIME,
        "deactivated_at": TIME_OR_NULL,
        "language": {"type": ["string", "null"]},
        "country": {"type": ["string", "null"]},
        "timezone": {"type": ["string", "null"]},
        "app_version": {"type": ["string", "null"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "attributes": {"type": "object", "additionalProperties": True},
    },
    ("device_id", "app", "platform", "environment", "token_hash", "is_active", "registered_at", "last_seen"),
)

IMPORTED: Final = thing(
    {
        **dict.fromkeys(
            ("records", "inserted", "updated", "superseded", "repeated", "rejected", "moved"), WHOLE
        ),
        "seconds": {"type": "number"},
        "rejects": REJECTS,
    },
    ("records", "inserted", "updated", "superseded", "repeated", "rejected", "moved", "seconds", "rejects"),
    example={
        "records": 3,
        "inserted": 2,
        "updated": 0,
        "superseded": 0,
        "repeated": 0,
        "rejected": 1,
        "moved": 0,
        "seconds": 0.041,
        "rejects": [{"line": 4, "reason": "platform: found 'wns'; expected apns, fcm or hms"}],
    },
)

SCHEMAS: Final[dict[str, Schema]] = {
    "Device": DEVICE,
    "DeviceChange": DEVICE_CHANGE,
    "Devices": thing({"devices": {"type": "array", "items": ref("KnownDevice")}}, ("devices",)),
    "Imported": IMPORTED,
    "KnownDevice": KNOWN_DEVICE,
    "Registration": REGISTRATION,
    "Unregistered": thing({"unregistered": WHOLE}, ("unregistered",), example={"unregistered": 1}),
    "Unregistration": UNREGISTRATION,
}
