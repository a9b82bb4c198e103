"""Sends: how far they are, and orders to them."""

from __future__ import annotations

from typing import Final

from pushq.ledger.progress import COUNTS
from pushq.submission import GUARANTEES, MAX_RATE
from pushq.web.api.schemas.shapes import (
    PLATFORM,
    SEND_ID,
    TIME,
    TIME_OR_NULL,
    WHOLE,
    Schema,
    page,
    said,
    thing,
)

STATES: Final = ("scheduled", "planning", "sending", "paused", "done", "failed", "cancelled")
_STATE: Final[Schema] = {"type": "string", "enum": list(STATES)}
_COUNTED: Final[Schema] = dict.fromkeys(("devices", *COUNTS, "pending"), WHOLE)

SEND: Final = thing(
    {
        "send_id": {"type": "string", "format": "uuid"},
        "kind": {"type": "string", "enum": ["broadcast", "transactional"]},
        "app": {"type": "string"},
        "guarantee": {"type": "string", "enum": list(GUARANTEES)},
        "state": _STATE,
        "error": {"type": ["string", "null"]},
        "title": {"type": ["string", "null"]},
        "called_at": TIME,
        "finished_at": TIME_OR_NULL,
    },
    ("send_id", "kind", "app", "guarantee", "state", "called_at"),
)

_REASON: Final = thing(
    {
        "platform": {"type": "string"},
        "outcome": {"type": "string"},
        "reason": {"type": "string"},
        "recipients": WHOLE,
        "tokens_deactivated": WHOLE,
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
        "finished": said("Ended, and every recipient has an outcome", type="boolean"),
        **dict.fromkeys(("called_at", "send_at", "expires_at", "planned_at", "finished_at"), TIME_OR_NULL),
        "seconds": said("From the call to the end, or until now", type="number"),
        "rate": {"type": ["integer", "null"]},
        "retry": {"type": "object", "additionalProperties": {"type": "number"}},
        **_COUNTED,
        "platforms": {
            "type": "object",
            "additionalProperties": thing({**_COUNTED, "batches": WHOLE}),
        },
        "in_flight": said("Batches with the broker or a worker", **WHOLE),
        "parked": said("Batches that nobody takes up by itself", **WHOLE),
        "reasons": said("Why recipients were not reached, most frequent first", type="array", items=_REASON),
        "parked_batches": {"type": "array", "items": {"type": "object", "additionalProperties": True}},
        "per_second": said("Recipients settled a second, lately; in events", type=["number", "null"]),
        "eta_seconds": said("Left at that speed; in events", type=["number", "null"]),
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
        "changed": said("False when it was as ordered already", type="boolean"),
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
        "platforms": {"type": "array", "items": PLATFORM},
        "may_duplicate": said("Needed for unknown: some may get the message twice", type="boolean"),
        "dry_run": said("Only count", type="boolean"),
    },
    ("outcomes",),
    example={"outcomes": ["exhausted"], "dry_run": True},
)

REPLAYED: Final[Schema] = {
    "type": "object",
    "properties": {
        "recipients": WHOLE,
        "batches": WHOLE,
        "by_outcome": {
            "type": "array",
            "items": thing(
                {"platform": {"type": "string"}, "outcome": {"type": "string"}, "recipients": WHOLE}
            ),
        },
    },
    "required": ["recipients", "batches"],
    "additionalProperties": True,
}

RATE: Final = thing(
    {"rate": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_RATE}},
    ("rate",),
    description="null: no limit but the provider's own",
    example={"rate": 500},
)

RESUME: Final = thing(
    {
        "trust_rejections": said(
            "The tokens that were rejected are dead in truth", type="boolean", default=False
        )
    },
    example={"trust_rejections": False},
)

SCHEMAS: Final[dict[str, Schema]] = {
    "Change": CHANGE,
    "Progress": PROGRESS,
    "Rate": RATE,
    "Replay": REPLAY,
    "Replayed": REPLAYED,
    "Resume": RESUME,
    "Send": SEND,
    "Sends": page("sends", "Send"),
}
