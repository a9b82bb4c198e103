"""Segments and their members."""

from __future__ import annotations

from typing import Final

from pushq.web.api.schemas.shapes import (
    NAME,
    REJECTS,
    TIME,
    WHOLE,
    Schema,
    or_null,
    page,
    ref,
    said,
    thing,
)

SEGMENT: Final = thing(
    {
        "app": {"type": "string"},
        "name": {"type": "string"},
        "kind": {"type": "string", "enum": ["static", "filter"]},
        "filter": {"type": ["object", "null"], "additionalProperties": True},
        "created_at": TIME,
        "updated_at": TIME,
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
        "name": NAME,
        "filter": or_null({**ref("Filter"), "description": "Without one, the segment has members"}),
    },
    ("name",),
    example={"name": "german", "filter": {"language": "de"}},
)

SEGMENT_COUNT: Final = thing(
    {
        "members": said("Users of a static segment", type=["integer", "null"]),
        "devices": said("Active ones by platform", type="object", additionalProperties=WHOLE),
        "total": WHOLE,
    },
    ("members", "devices", "total"),
    example={"members": None, "devices": {"apns": 120, "fcm": 340}, "total": 460},
)

MEMBERS: Final = thing(
    {
        "read": said("Lines with a user id", **WHOLE),
        "changed": said("Users who are in it now (PUT), or are new in it (POST)", **WHOLE),
        "rejected": WHOLE,
        "rejects": REJECTS,
    },
    ("read", "changed", "rejected", "rejects"),
    example={"read": 3, "changed": 3, "rejected": 0, "rejects": []},
)

SCHEMAS: Final[dict[str, Schema]] = {
    "Members": MEMBERS,
    "NewSegment": NEW_SEGMENT,
    "Segment": SEGMENT,
    "SegmentCount": SEGMENT_COUNT,
    "Segments": page("segments", "Segment"),
}
