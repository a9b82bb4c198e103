"""What is said of the service itself: problems, the audit log, health."""

from __future__ import annotations

from typing import Final

from pushq.web.api.schemas.shapes import SEND_ID, TIME, WHOLE, Schema, page, said, thing

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
        "id": WHOLE,
        "at": TIME,
        "actor_kind": {"type": "string", "enum": ["key", "user", "local"]},
        "actor": said("Name of the key or user, or user@machine of a command", type="string"),
        "actor_id": said("The key's id, or the name again", type="string"),
        "action": {"type": "string"},
        "app": {"type": ["string", "null"]},
        "object_id": said("What it was done to", type=["string", "null"]),
        "remote": said("Network address", type=["string", "null"]),
        "detail": said("Numbers, names and states", type="object", additionalProperties=True),
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
    "AuditLog": page("audit", "AuditRow"),
    "AuditRow": AUDIT_ROW,
    "Health": thing({"ok": {"type": "boolean"}, "checks": _CHECKS}, ("ok", "checks")),
    "Problem": PROBLEM,
}
