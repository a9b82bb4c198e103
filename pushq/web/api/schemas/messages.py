"""Calls that send: the message, whom it goes to, and how."""

from __future__ import annotations

from typing import Final

from pushq.audience.request import MAX_DAYS, MAX_SEGMENTS, MAX_USER_IDS, MAX_VALUES
from pushq.notification import MAX_COLLAPSE_BYTES, MAX_LANGUAGES, MAX_TTL_S
from pushq.platforms import PLATFORMS
from pushq.submission import GUARANTEES, MAX_RATE
from pushq.tokens.device import ENVIRONMENTS
from pushq.web.api.schemas.shapes import (
    APP_PATTERN,
    NAME,
    PLATFORM,
    PLATFORM_NAMES,
    SEND_ID,
    TEXT,
    TEXTS,
    TIME_OR_NULL,
    USER,
    Schema,
    or_null,
    ref,
    said,
    thing,
)

_FREE: Final[Schema] = {"type": ["object", "null"], "additionalProperties": True}
_VARIANT: Final = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": False,
    "properties": {
        "title": TEXT,
        "body": TEXT,
        "image": {"type": ["string", "null"], "pattern": "^https://"},
        "link": {"type": ["string", "null"], "pattern": r"^[A-Za-z][A-Za-z0-9+.\-]*:\S"},
        **dict.fromkeys(PLATFORMS, _FREE),
    },
}

NOTIFICATION: Final = thing(
    {
        "title": said("What the phone shows; may hold placeholders, {first_name|friend}", **TEXT),
        "body": said("What the phone shows; may hold placeholders", **TEXT),
        "data": said("For the app, as it is", **TEXTS),
        "data_templates": said("More of data, with placeholders in the values", **TEXTS),
        "sound": said("A sound's name, or default", **TEXT),
        "badge": said(
            "Number on the icon; 0 removes it", type=["integer", "null"], minimum=0, maximum=99_999
        ),
        "image": said("Address of a picture", type=["string", "null"], pattern="^https://"),
        "link": said("What a tap opens", type=["string", "null"], pattern=r"^[A-Za-z][A-Za-z0-9+.\-]*:\S"),
        "category": said("Which of the app's actions belong to it", **TEXT),
        "collapse_id": said(
            "A later message with the same id replaces this one",
            type=["string", "null"],
            minLength=1,
            maxLength=MAX_COLLAPSE_BYTES,
        ),
        "ttl": said(
            "Seconds until it is stale; 0 is once, now",
            type="integer",
            minimum=0,
            maximum=MAX_TTL_S,
            default=86_400,
        ),
        "priority": said("high wakes the phone", type="string", enum=["high", "normal"], default="high"),
        "defaults": said("What stands in for a value that a recipient has not, by its name", **TEXTS),
        "languages": said(
            "By language tag, what is said otherwise there",
            type=["object", "null"],
            additionalProperties=_VARIANT,
            maxProperties=MAX_LANGUAGES,
        ),
        **{
            platform: said(f"What differs for {platform}, and its own options (docs/{platform}.md)", **_FREE)
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
        "platform": _one_or_many(PLATFORM),
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

_SEGMENT_NAMES: Final[Schema] = {"type": ["array", "null"], "items": NAME, "maxItems": MAX_SEGMENTS}

AUDIENCE: Final = thing(
    {
        "segments": said("Users in any of them; all is everybody", **_SEGMENT_NAMES),
        "exclude_segments": said("Without users in any of them", **_SEGMENT_NAMES),
        "user_ids": said(
            "Only these users", type=["array", "null"], items=USER, minItems=1, maxItems=MAX_USER_IDS
        ),
        "exclude_user_ids": said(
            "Without these users", type=["array", "null"], items=USER, maxItems=MAX_USER_IDS
        ),
        "platforms": said("Only devices of these; all when left out", **PLATFORM_NAMES),
        "filter": or_null(ref("Filter")),
        "topic": said("A topic of FCM; then the audience has nothing else", type=["string", "null"]),
        "condition": said("A condition on FCM's topics", type=["string", "null"]),
        "channel": said("A broadcast channel of APNs", type=["string", "null"]),
        "environment": said("Of the channel", type=["string", "null"], enum=[*ENVIRONMENTS, None]),
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
    "app": said(
        "May be left out where only one app is configured",
        type=["string", "null"],
        pattern=APP_PATTERN,
    ),
    "guarantee": {"type": "string", "enum": list(GUARANTEES)},
    "send_at": said("When to send it, with its zone; at once when left out", **TIME_OR_NULL),
    "rate": said(
        "Requests a second at most, of all workers together",
        type=["integer", "null"],
        minimum=1,
        maximum=MAX_RATE,
    ),
    "retry": or_null(ref("Retry")),
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
        "user_ids": {"type": "array", "items": USER, "minItems": 1, "maxItems": MAX_USER_IDS},
        "platforms": said("Only devices of these; all when left out", **PLATFORM_NAMES),
        "values": said(
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
        "repeated": said("Whether a call with this idempotency key was accepted before", type="boolean"),
    },
    ("send_id", "repeated"),
    example={"send_id": SEND_ID, "repeated": False},
)

SCHEMAS: Final[dict[str, Schema]] = {
    "Accepted": ACCEPTED,
    "Audience": AUDIENCE,
    "Broadcast": BROADCAST,
    "Filter": FILTER,
    "Notification": NOTIFICATION,
    "Notifications": NOTIFICATIONS,
    "Retry": RETRY,
}
