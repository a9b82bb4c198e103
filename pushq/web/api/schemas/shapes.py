"""What schemas are made of: kinds of values that occur in many of them, and how an object is written. Pure."""

from __future__ import annotations

from typing import Any, Final

from pushq.audience.request import MAX_USER_ID
from pushq.platforms import PLATFORMS

Schema = dict[str, Any]

SEND_ID: Final = "0e746def-93b2-458b-8ff6-2de807c49363"
TOKEN: Final = "fcm-000000000000000000000000000042"  # noqa: S105 - an example
APP_PATTERN: Final = "^[a-z0-9][a-z0-9_-]{0,62}$"
SEGMENT_PATTERN: Final = "^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$"


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def thing(properties: Schema, required: tuple[str, ...] = (), **more: Any) -> Schema:
    """An object with these members and no others."""
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False, **more}
    return found | ({"required": list(required)} if required else {})


def or_null(schema: Schema) -> Schema:
    kind = schema.get("type")
    if isinstance(kind, str) and "enum" not in schema:
        return {**schema, "type": [kind, "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def said(description: str, **schema: Any) -> Schema:
    return {**schema, "description": description}


TEXT: Final[Schema] = {"type": ["string", "null"], "minLength": 1}
WHOLE: Final[Schema] = {"type": "integer", "minimum": 0}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
TIME_OR_NULL: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
TEXTS: Final[Schema] = {"type": ["object", "null"], "additionalProperties": {"type": "string"}}
PLATFORM: Final[Schema] = {"type": "string", "enum": list(PLATFORMS)}
USER: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": MAX_USER_ID}
APP: Final[Schema] = {"type": "string", "pattern": APP_PATTERN}
NAME: Final[Schema] = {"type": "string", "pattern": SEGMENT_PATTERN}

PLATFORM_NAMES: Final[Schema] = {"type": ["array", "null"], "items": PLATFORM}

REJECTS: Final[Schema] = {
    "type": "array",
    "items": thing({"line": {"type": "integer"}, "reason": {"type": "string"}}, ("line", "reason")),
    "description": "The first 100 of them",
}


def page(items: str, name: str) -> Schema:
    """A page of a list, and where the next one begins."""
    return thing(
        {
            items: {"type": "array", "items": ref(name)},
            "next_cursor": said("For the parameter cursor; null on the last page", type=["string", "null"]),
        },
        (items, "next_cursor"),
    )
