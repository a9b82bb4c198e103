"""Cursors: where a page ended, as a text that callers hand back and need not understand. Pure."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import orjson

from pushq.errors import InvalidRequest

MOST: Final = 200
DEFAULT: Final = 50
_EXPECTED: Final = "next_cursor of the page before, as it was"


def encode(*parts: object) -> str:
    """A cursor for a place in an order."""
    return base64.urlsafe_b64encode(orjson.dumps(parts)).rstrip(b"=").decode()


def _decode(cursor: str, many: int) -> list[str]:
    try:
        parts = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
    except (binascii.Error, ValueError):
        parts = None
    if (
        isinstance(parts, list)
        and len(parts) == many
        and all(isinstance(p, str) and "\0" not in p for p in parts)
    ):
        return parts
    raise InvalidRequest("cursor", repr(cursor[:40]), _EXPECTED)


def after_send(cursor: str | None) -> tuple[datetime, uuid.UUID] | None:
    """The place of a send in the order of :func:`pushq.ledger.progress.recent`.

    Raises:
        InvalidRequest: the cursor is none of ours.
    """
    if cursor is None:
        return None
    at, send_id = _decode(cursor, 2)
    try:
        moment = datetime.fromisoformat(at)
        known = uuid.UUID(send_id)
    except ValueError:
        raise InvalidRequest("cursor", repr(cursor[:40]), _EXPECTED) from None
    if moment.tzinfo is None:
        raise InvalidRequest("cursor", repr(cursor[:40]), _EXPECTED)
    return moment, known


def after_segment(cursor: str | None) -> str:
    """The name of the last segment of the page before; empty for the first page.

    Raises:
        InvalidRequest: the cursor is none of ours.
    """
    return "" if cursor is None else _decode(cursor, 1)[0]


def after_row(cursor: str | None) -> int | None:
    """The id of the last row of the page before.

    Raises:
        InvalidRequest: the cursor is none of ours.
    """
    if cursor is None:
        return None
    text = _decode(cursor, 1)[0]
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InvalidRequest("cursor", repr(cursor[:40]), _EXPECTED)
    return int(text)


def next_cursor(rows: Sequence[object], limit: int, *last: object) -> str | None:
    """The cursor of the page after ``rows``; None when they are the last, as far as their number tells."""
    return encode(*last) if len(rows) == limit else None
