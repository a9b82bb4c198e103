"""What goes in and out, as JSON Schema for the OpenAPI document, with examples.

Input is checked by the parsers that every call of pushq goes through (:mod:`pushq.submission`, :mod:`pushq.tokens.device`,
:mod:`pushq.audience.request`), which know more than a schema can say; tests hold the two against each other. Facts only.
"""

from __future__ import annotations

from typing import Any, Final

from pushq.audience.request import MAX_DAYS, MAX_SEGMENTS, MAX_USER_ID, MAX_USER_IDS, MAX_VALUES
from pushq.ledger.export import FORMATS
from pushq.ledger.progress import COUNTS
from pushq.ledger.recipients import OUTCOMES
from pushq.notification import MAX_COLLAPSE_BYTES, MAX_LANGUAGES, MAX_TTL_S
from pushq.platforms import PLATFORMS
from pushq.submission import GUARANTEES, MAX_KEY_LENGTH, MAX_RATE
from pushq.tokens.device import ENVIRONMENTS, MAX_TAG_LENGTH, MAX_TAGS

Schema = dict[str, Any]

SEND_ID: Final = "0e746def-93b2-458b-8ff6-2de807c49363"
TOKEN: Final = "fcm-000000000000000000000000000042"  # noqa: S105 - an example
STATES: Final = ("scheduled", "planning", "sending", "paused", "done", "failed", "cancelled")
APP_PATTERN: Final = "^[a-z0-9][a-z0-9_-]{0,62}$"
SEGMENT_PATTERN: Final = "^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$"


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def thing(properties: Schema, required: tuple[str, ...] = (), **more: Any) -> Schema:
    """An object with these members and no others."""
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False, **more}
    return found | ({"required": list(required)} if required else {})


def _or_null(schema: Schema) -> Schema:
    kind = schema.get("type")
    if isinstance(kind, str) and "enum" not in schema:
        return {**schema, "type": [kind, "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _said(description: str, **schema: Any) -> Schema:
    return {**schema, "description": description}


_TEXT: Final[Schema] = {"type": ["string", "null"], "minLength": 1}
_WHOLE: Final[Schema] = {"type": "integer", "minimum": 0}
_TIME: Final[Schema] = {"type": "string", "format": "date-time"}
_TIME_OR_NULL: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
_TEXTS: Final[Schema] = {"type": ["object", "null"], "additionalProperties": {"type": "string"}}
_PLATFORM: Final[Schema] = {"type": "string", "enum": list(PLATFORMS)}
_USER: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": MAX_USER_ID}
_APP: Final[Schema] = {"type": "string", "pattern": APP_PATTERN}
_NAME: Final[Schema] = {"type": "string", "pattern": SEGMENT_PATTERN}

_FREE: Final[Schema] = {"type": ["object", "null"], "additionalProperties": True}
_VARIANT: Final = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": False,
    "properties": {
        "title": _TEXT,
        "body": _TEXT,
        "image": {"type": ["string", "null"], "pattern": "^https://"},
        "link": {"type": ["string", "null"], "pattern": r"^[A-Za-z][A-Za-z0-9+.\-]*:\S"},
        **dict.fromkeys(PLATFORMS, _FREE),
    },
}

NOTIFICATION: Final = thing(
    {
        "title": _said("What the phone shows; may hold placeholders, {first_name|friend}", **_TEXT),
        "body": _said("What the phone shows; may hold placeholders", **_TEXT),
        "data": _said("For the app, as it is", **_TEXTS),
        "data_templates": _said("More of data, with placeholders in the values", **_TEXTS),
        "sound": _said("A sound's name, or default", **_TEXT),
        "badge": _said(
            "Number on the icon; 0 removes it", type=["integer", "null"], minimum=0, maximum=99_999
        ),
        "image": _said("Address of a picture", type=["string", "null"], pattern="^https://"),
        "link": _said("What a tap opens", type=["string", "null"], pattern=r"^[A-Za-z][A-Za-z0-9+.\-]*:\S"),
        "category": _said("Which of the app's actions belong to it", **_TEXT),
        "collapse_id": _said(
            "A later message with the same id replaces this one",
            type=["string", "null"],
            minLength=1,
            maxLength=MAX_COLLAPSE_BYTES,
        ),
        "ttl": _said(
            "Seconds until it is stale; 0 is once, now",
            type="integer",
            minimum=0,
            maximum=MAX_TTL_S,
            default=86_400,
        ),
        "priority": _said("high wakes the phone", type="string", enum=["high", "normal"], default="high"),
        "defaults": _said("What stands in for a value that a recipient has not, by its name", **_TEXTS),
        "languages": _said(
            "By language tag, what is said otherwise there",
            type=["object", "null"],
            additionalProperties=_VARIANT,
            maxProperties=MAX_LANGUAGES,
        ),
        **{
            platform: _said(f"What differs for {platform}, and its own options (docs/{platform}.md)", **_FREE)
            for platform in PLATFORMS
        },
    },
    minProperties=1,
    description="One message for every platform (docs/messages.md).",
)


def _one_or_many(item: Schema) -> Schema:
    return {"anyOf": [item, {"type": "array", "items": item, "minItems": 1, "maxItems": MAX_VALUES}]}


_TAG: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": 64}
_VERSION: Final[Schema] = {"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,9}){0,9}$"}
_DAYS: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": MAX_DAYS}

FILTER: Final = thing(
    {
        "platform": _one_or_many(_PLATFORM),
        "language": _one_or_many({"type": "string", "pattern": "^[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8}){0,4}$"}),
        "country": _one_or_many({"type": "string", "pattern": "^[A-Za-z]{2}$"}),
        "app_version": thing({"min": _VERSION, "max": _VERSION}, minProperties=1),
        "tags": thing({name: _one_or_many(_TAG) for name in ("any", "all", "none")}, minProperties=1),
        "last_seen": thing({"within_days": _DAYS, "before_days": _DAYS}, minProperties=1),
    },
    minProperties=1,
    description="Conditions on a device, all of which must hold (docs/tokens.md).",
    example={"language": "de", "app_version": {"min": "4.2"}, "tags": {"any": ["news", "vip"]}},
)

_SEGMENT_NAMES: Final[Schema] = {"type": ["array", "null"], "items": _NAME, "maxItems": MAX_SEGMENTS}
_PLATFORM_NAMES: Final[Schema] = {"type": ["array", "null"], "items": _PLATFORM}

AUDIENCE: Final = thing(
    {
        "segments": _said("Users in any of them; all is everybody", **_SEGMENT_NAMES),
        "exclude_segments": _said("Without users in any of them", **_SEGMENT_NAMES),
        "user_ids": _said(
            "Only these users", type=["array", "null"], items=_USER, minItems=1, maxItems=MAX_USER_IDS
        ),
        "exclude_user_ids": _said(
            "Without these users", type=["array", "null"], items=_USER, maxItems=MAX_USER_IDS
        ),
        "platforms": _said("Only devices of these; all when left out", **_PLATFORM_NAMES),
        "filter": _or_null(ref("Filter")),
        "topic": _said("A topic of FCM; then the audience has nothing else", type=["string", "null"]),
        "condition": _said("A condition on FCM's topics", type=["string", "null"]),
        "channel": _said("A broadcast channel of APNs", type=["string", "null"]),
        "environment": _said("Of the channel", type=["string", "null"], enum=[*ENVIRONMENTS, None]),
    },
    minProperties=1,
    description="Whom a send goes to: what is given is combined with and (docs/tokens.md).",
    example={"segments": ["all"], "filter": {"language": "de"}},
)

RETRY: Final = thing(
    {
        "max_attempts": {"type": "integer", "minimum": 0, "maximum": 20},
        "initial_delay": {"type": "number", "exclusiveMinimum": 0, "maximum": 3600},
        "max_delay": {"type": "number", "exclusiveMinimum": 0, "maximum": 86_400},
    },
    description="What differs from the configured retry policy (docs/control.md).",
)

_COMMON: Final[Schema] = {
    "notification": ref("Notification"),
    "app": _said(
        "May be left out where only one app is configured",
        type=["string", "null"],
        pattern=APP_PATTERN,
    ),
    "guarantee": {"type": "string", "enum": list(GUARANTEES)},
    "send_at": _said("When to send it, with its zone; at once when left out", **_TIME_OR_NULL),
    "rate": _said(
        "Requests a second at most, of all workers together",
        type=["integer", "null"],
        minimum=1,
        maximum=MAX_RATE,
    ),
    "retry": _or_null(ref("Retry")),
}

BROADCAST: Final = thing(
    {**_COMMON, "audience": ref("Audience")},
    ("notification", "audience"),
    example={
        "app": "shop",
        "notification": {
            "title": "{first_name|Good news}: the sale is on",
            "body": "20% off until midnight",
            "link": "shop://sale",
            "ttl": 3600,
            "languages": {"de": {"body": "20 % Rabatt bis Mitternacht"}},
        },
        "audience": {"segments": ["all"], "filter": {"last_seen": {"within_days": 90}}},
        "rate": 5000,
    },
)

NOTIFICATIONS: Final = thing(
    {
        **_COMMON,
        "user_ids": {"type": "array", "items": _USER, "minItems": 1, "maxItems": MAX_USER_IDS},
        "platforms": _said("Only devices of these; all when left out", **_PLATFORM_NAMES),
        "values": _said(
            "By user id, what the placeholders say to him",
            type=["object", "null"],
            patternProperties={
                "^[0-9]{1,19}$": {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
            },
            additionalProperties=False,
        ),
    },
    ("user_ids", "notification"),
    example={
        "app": "shop",
        "user_ids": [42],
        "notification": {"title": "Order {order}", "body": "It is on its way", "link": "shop://orders"},
        "values": {"42": {"order": "A-17"}},
    },
)

ACCEPTED: Final = thing(
    {
        "send_id": {"type": "string", "format": "uuid"},
        "repeated": _said("Whether a call with this idempotency key was accepted before", type="boolean"),
    },
    ("send_id", "repeated"),
    example={"send_id": SEND_ID, "repeated": False},
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
    "app_version": _said(
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
    "attributes": _said(
        "Values for placeholders; at most 4,096 bytes",
        type=["object", "null"],
        additionalProperties={"type": ["string", "number", "boolean"]},
    ),
}

DEVICE: Final = thing(
    {
        "user_id": {"anyOf": [_USER, _said("Decimal digits", type="string", pattern="^[0-9]{1,19}$")]},
        "app": _APP,
        "platform": _PLATFORM,
        "token": _said(
            "A secret: never in an answer, never in a log", type="string", minLength=20, maxLength=4096
        ),
        "environment": {"type": ["string", "null"], "enum": ["", *ENVIRONMENTS, None]},
        **_DEVICE,
        "last_seen": _said(
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
    {**_DEVICE, "last_seen": _said("A time since 1970", type="string", pattern=_MOMENT)},
    minProperties=1,
    description="What is left out stays; null removes.",
    example={"language": "pt-BR", "tags": ["vip"]},
)

UNREGISTRATION: Final = thing(
    {
        "app": _APP,
        "platform": _PLATFORM,
        "token": {"type": "string", "minLength": 20, "maxLength": 4096},
        "environment": {"type": ["string", "null"], "enum": ["", *ENVIRONMENTS, None]},
        "user_id": _said("Only if it is this user's", **_or_null(_USER)),
    },
    ("app", "platform", "token"),
    example={"app": "shop", "platform": "fcm", "token": TOKEN},
)

_DEVICE_ID: Final[Schema] = {"type": "integer", "minimum": 1}

REGISTRATION: Final = thing(
    {
        "device_id": _DEVICE_ID,
        "created": _said("Whether the user had never registered this token before", type="boolean"),
        "moved_from": _said("Users who had the token until now", type="array", items=_USER),
    },
    ("device_id", "created", "moved_from"),
    example={"device_id": 7, "created": True, "moved_from": []},
)

KNOWN_DEVICE: Final = thing(
    {
        "device_id": _DEVICE_ID,
        "app": {"type": "string"},
        "platform": _PLATFORM,
        "environment": {"type": "string", "enum": list(ENVIRONMENTS)},
        "token_hash": _said("The first 8 hex digits of its sha256, as in the logs", type="string"),
        "is_active": {"type": "boolean"},
        "deactivation_reason": {"type": ["string", "null"]},
        "registered_at": _TIME,
        "last_seen": _TIME,
        "deactivated_at": _TIME_OR_NULL,
        "language": {"type": ["string", "null"]},
        "country": {"type": ["string", "null"]},
        "timezone": {"type": ["string", "null"]},
        "app_version": {"type": ["string", "null"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "attributes": {"type": "object", "additionalProperties": True},
    },
    ("device_id", "app", "platform", "environment", "token_hash", "is_active", "registered_at", "last_seen"),
)

_REJECTS: Final[Schema] = {
    "type": "array",
    "items": thing({"line": {"type": "integer"}, "reason": {"type": "string"}}, ("line", "reason")),
    "description": "The first 100 of them",
}

IMPORTED: Final = thing(
    {
        **dict.fromkeys(
            ("records", "inserted", "updated", "superseded", "repeated", "rejected", "moved"), _WHOLE
        ),
        "seconds": {"type": "number"},
        "rejects": _REJECTS,
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

SEGMENT: Final = thing(
    {
        "app": {"type": "string"},
        "name": {"type": "string"},
        "kind": {"type": "string", "enum": ["static", "filter"]},
        "filter": {"type": ["object", "null"], "additionalProperties": True},
        "created_at": _TIME,
        "updated_at": _TIME,
    },
    ("app", "name", "kind", "filter", "created_at", "updated_at"),
    example={
        "app": "shop",
        "name": "german",
        "kind": "filter",
        "filter": {"language": ["de"]},
        "created_at": "2026-11-01T12:00:00Z",
        "updated_at": "2026-11-01T12:00:00Z",
    },
)

NEW_SEGMENT: Final = thing(
    {
        "name": _NAME,
        "filter": _or_null({**ref("Filter"), "description": "Without one, the segment has members"}),
    },
    ("name",),
    example={"name": "german", "filter": {"language": "de"}},
)

SEGMENT_COUNT: Final = thing(
    {
        "members": _said("Users of a static segment", type=["integer", "null"]),
        "devices": _said("Active ones by platform", type="object", additionalProperties=_WHOLE),
        "total": _WHOLE,
    },
    ("members", "devices", "total"),
    example={"members": None, "devices": {"apns": 120, "fcm": 340}, "total": 460},
)

MEMBERS: Final = thing(
    {
        "read": _said("Lines with a user id", **_WHOLE),
        "changed": _said("Users who are in it now (PUT), or are new in it (POST)", **_WHOLE),
        "rejected": _WHOLE,
        "rejects": _REJECTS,
    },
    ("read", "changed", "rejected", "rejects"),
    example={"read": 3, "changed": 3, "rejected": 0, "rejects": []},
)

_STATE: Final[Schema] = {"type": "string", "enum": list(STATES)}
_COUNTED: Final[Schema] = dict.fromkeys(("devices", *COUNTS, "pending"), _WHOLE)

SEND: Final = thing(
    {
        "send_id": {"type": "string", "format": "uuid"},
        "kind": {"type": "string", "enum": ["broadcast", "transactional"]},
        "app": {"type": "string"},
        "guarantee": {"type": "string", "enum": list(GUARANTEES)},
        "state": _STATE,
        "error": {"type": ["string", "null"]},
        "title": {"type": ["string", "null"]},
        "called_at": _TIME,
        "finished_at": _TIME_OR_NULL,
    },
    ("send_id", "kind", "app", "guarantee", "state", "called_at"),
)

_REASON: Final = thing(
    {
        "platform": {"type": "string"},
        "outcome": {"type": "string"},
        "reason": {"type": "string"},
        "recipients": _WHOLE,
        "tokens_deactivated": _WHOLE,
    }
)

PROGRESS: Final = thing(
    {
        "send_id": {"type": "string", "format": "uuid"},
        "kind": {"type": "string", "enum": ["broadcast", "transactional"]},
        "app": {"type": ["string", "null"]},
        "guarantee": {"type": ["string", "null"], "enum": [*GUARANTEES, None]},
        "state": {
            "type": "string",
            "enum": ["accepted", *STATES],
            "description": "accepted: in the queue, not yet taken up by a worker",
        },
        "error": {"type": ["string", "null"]},
        "finished": _said("Ended, and every recipient has an outcome", type="boolean"),
        **dict.fromkeys(("called_at", "send_at", "expires_at", "planned_at", "finished_at"), _TIME_OR_NULL),
        "seconds": _said("From the call to the end, or until now", type="number"),
        "rate": {"type": ["integer", "null"]},
        "retry": {"type": "object", "additionalProperties": {"type": "number"}},
        **_COUNTED,
        "platforms": {
            "type": "object",
            "additionalProperties": thing({**_COUNTED, "batches": _WHOLE}),
        },
        "in_flight": _said("Batches with the broker or a worker", **_WHOLE),
        "parked": _said("Batches that nobody takes up by itself", **_WHOLE),
        "reasons": _said("Why recipients were not reached, most frequent first", type="array", items=_REASON),
        "parked_batches": {"type": "array", "items": {"type": "object", "additionalProperties": True}},
        "per_second": _said("Recipients settled a second, lately; in events", type=["number", "null"]),
        "eta_seconds": _said("Left at that speed; in events", type=["number", "null"]),
    },
    ("send_id", "kind", "state", "finished", "devices", "pending", "platforms"),
    example={
        "send_id": SEND_ID,
        "kind": "broadcast",
        "app": "shop",
        "guarantee": "at_most_once",
        "state": "sending",
        "error": None,
        "finished": False,
        "called_at": "2026-11-01T12:00:00Z",
        "send_at": None,
        "expires_at": "2026-11-02T12:00:00Z",
        "planned_at": "2026-11-01T12:00:01Z",
        "finished_at": None,
        "seconds": 2.5,
        "rate": None,
        "retry": {},
        "devices": 1000,
        "accepted": 600,
        "dead": 12,
        **dict.fromkeys(COUNTS[2:], 0),
        "pending": 388,
        "platforms": {
            "fcm": {
                "devices": 1000,
                "batches": 1,
                "accepted": 600,
                "dead": 12,
                **dict.fromkeys(COUNTS[2:], 0),
                "pending": 388,
            }
        },
        "in_flight": 1,
        "parked": 0,
        "reasons": [
            {
                "platform": "fcm",
                "outcome": "dead",
                "reason": "UNREGISTERED",
                "recipients": 12,
                "tokens_deactivated": 12,
            }
        ],
        "parked_batches": [],
    },
)

CHANGE: Final = thing(
    {
        "send_id": {"type": "string", "format": "uuid"},
        "changed": _said("False when it was as ordered already", type="boolean"),
        "state": _STATE,
    },
    ("send_id", "changed", "state"),
    example={"send_id": SEND_ID, "changed": True, "state": "paused"},
)

REPLAY: Final = thing(
    {
        "outcomes": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "string",
                "enum": ["exhausted", "expired", "cancelled", "rejected", "suppressed", "unknown"],
            },
        },
        "reasons": {"type": "array", "items": {"type": "string"}, "maxItems": 100},
        "platforms": {"type": "array", "items": _PLATFORM},
        "may_duplicate": _said("Needed for unknown: some may get the message twice", type="boolean"),
        "dry_run": _said("Only count", type="boolean"),
    },
    ("outcomes",),
    example={"outcomes": ["exhausted"], "dry_run": True},
)


def page(items: str, name: str) -> Schema:
    """A page of a list, and where the next one begins."""
    return thing(
        {
            items: {"type": "array", "items": ref(name)},
            "next_cursor": _said("For the parameter cursor; null on the last page", type=["string", "null"]),
        },
        (items, "next_cursor"),
    )


PROBLEM: Final[Schema] = {
    "type": "object",
    "description": "RFC 9457. What goes wrong has a type; what is wrong in the request also names the field.",
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "field": {"type": "string"},
        "found": {"type": "string"},
        "expected": {"type": "string"},
    },
    "required": ["type", "title", "status", "detail"],
    "additionalProperties": True,
    "example": {
        "type": "urn:pushq:problem:invalid-request",
        "title": "A field of the request is wrong",
        "status": 422,
        "detail": "notification.ttl: found int -1; expected a whole number from 0 to 2,419,200 seconds",
        "field": "notification.ttl",
        "found": "int -1",
        "expected": "a whole number from 0 to 2,419,200 seconds",
    },
}

AUDIT_ROW: Final = thing(
    {
        "id": _WHOLE,
        "at": _TIME,
        "actor_kind": {"type": "string", "enum": ["key", "user", "local"]},
        "actor": _said("Name of the key or user, or user@machine of a command", type="string"),
        "actor_id": _said("The key's id, or the name again", type="string"),
        "action": {"type": "string"},
        "app": {"type": ["string", "null"]},
        "object_id": _said("What it was done to", type=["string", "null"]),
        "remote": _said("Network address", type=["string", "null"]),
        "detail": _said("Numbers, names and states", type="object", additionalProperties=True),
    },
    ("id", "at", "actor_kind", "actor", "actor_id", "action", "app", "object_id", "remote", "detail"),
    example={
        "id": 17,
        "at": "2030-01-31T18:00:00+00:00",
        "actor_kind": "key",
        "actor": "shop-backend",
        "actor_id": "3f1c9a0b7d5e2468",
        "action": "send.pause",
        "app": "shop",
        "object_id": SEND_ID,
        "remote": "192.0.2.7",
        "detail": {},
    },
)

_CHECKS: Final[Schema] = {"type": "object", "additionalProperties": {"type": "boolean"}}

SCHEMAS: Final[dict[str, Schema]] = {
    "Accepted": ACCEPTED,
    "Audience": AUDIENCE,
    "AuditLog": page("audit", "AuditRow"),
    "AuditRow": AUDIT_ROW,
    "Broadcast": BROADCAST,
    "Change": CHANGE,
    "Device": DEVICE,
    "DeviceChange": DEVICE_CHANGE,
    "Devices": thing({"devices": {"type": "array", "items": ref("KnownDevice")}}, ("devices",)),
    "Filter": FILTER,
    "Health": thing({"ok": {"type": "boolean"}, "checks": _CHECKS}, ("ok", "checks")),
    "Imported": IMPORTED,
    "KnownDevice": KNOWN_DEVICE,
    "Members": MEMBERS,
    "NewSegment": NEW_SEGMENT,
    "Notification": NOTIFICATION,
    "Notifications": NOTIFICATIONS,
    "Problem": PROBLEM,
    "Progress": PROGRESS,
    "Rate": thing(
        {"rate": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_RATE}},
        ("rate",),
        description="null: no limit but the provider's own",
        example={"rate": 500},
    ),
    "Registration": REGISTRATION,
    "Replay": REPLAY,
    "Replayed": {
        "type": "object",
        "properties": {
            "recipients": _WHOLE,
            "batches": _WHOLE,
            "by_outcome": {
                "type": "array",
                "items": thing(
                    {"platform": {"type": "string"}, "outcome": {"type": "string"}, "recipients": _WHOLE}
                ),
            },
        },
        "required": ["recipients", "batches"],
        "additionalProperties": True,
    },
    "Resume": thing(
        {
            "trust_rejections": _said(
                "The tokens that were rejected are dead in truth", type="boolean", default=False
            )
        },
        example={"trust_rejections": False},
    ),
    "Retry": RETRY,
    "Segment": SEGMENT,
    "SegmentCount": SEGMENT_COUNT,
    "Segments": page("segments", "Segment"),
    "Send": SEND,
    "Sends": page("sends", "Send"),
    "Unregistered": thing({"unregistered": _WHOLE}, ("unregistered",), example={"unregistered": 1}),
    "Unregistration": UNREGISTRATION,
}

#: For parameters.
OUTCOME_NAMES: Final = tuple(OUTCOMES)
FORMAT_NAMES: Final = tuple(FORMATS)
KEY_LENGTH: Final = MAX_KEY_LENGTH
