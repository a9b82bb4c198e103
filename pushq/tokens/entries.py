"""Entries of the hot cache: what a user's devices of a platform look like in Redis. Pure.

A compact JSON list of ``[device_id, app, environment, token, language, attributes or null]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import orjson

DeviceEntry: TypeAlias = "list[Any]"


def tokens_at_once(
    raw: Mapping[int, bytes], device_ids: Sequence[int], app: str
) -> list[bytes | None] | None:
    """The tokens of all devices, cut out of the entries; None where that takes a closer look: one is missing, or is of the sandbox,
    or a user has another app, or attributes. Parsing them makes a dozen objects for each, which costs three times as much."""
    text = b"".join(raw.values())
    found = _pattern(app).findall(text)
    # So every list in the entries' lists was seen, none has attributes, which may look like anything, and no string hides a quote.
    if (
        not len(found) == text.count(b"[") - len(raw) == text.count(b",null]")
        or b"{" in text
        or b"\\" in text
    ):
        return None
    tokens = list(map(dict(found).get, ",".join(map(str, device_ids)).encode().split(b",")))
    return None if None in tokens else tokens


@lru_cache(maxsize=64)
def _pattern(app: str) -> re.Pattern[bytes]:
    name = re.escape(orjson.dumps(app))
    return re.compile(rb"\[(\d+)," + name + rb',"production","([^"]+)",')


def is_entry(value: Any) -> bool:
    """Whether a parsed value is an entry, or None for a miss."""
    if value is None:
        return True
    if type(value) is not list:
        return False
    for device in value:
        if type(device) is not list or len(device) != 6 or type(device[3]) is not str:
            return False
    return True


def encode_entries(
    platform: str, rows: Sequence[Sequence[Any]], *, skip: Iterable[int] = ()
) -> list[tuple[str, bytes]]:
    """The (key, value) pairs of users of whom at least one device was seen lately.

    Args:
        rows: user_id, id, app, environment, token, language, attributes, recent; one user's rows stand together.
    """
    entries: list[tuple[str, bytes]] = []
    skipped = set(skip)
    devices: list[DeviceEntry] = []
    current: int | None = None
    recent = False
    for user_id, device_id, app, environment, token, language, attributes, is_recent in rows:
        if user_id != current:
            if recent and current not in skipped:
                entries.append((f"user:{current}:tokens:{platform}", orjson.dumps(devices)))
            current, devices, recent = user_id, [], False
        devices.append([device_id, app, environment, token, language, attributes])
        recent = recent or is_recent
    if recent and current not in skipped:
        entries.append((f"user:{current}:tokens:{platform}", orjson.dumps(devices)))
    return entries
