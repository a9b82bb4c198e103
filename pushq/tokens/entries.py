"""Entries of the hot cache: what the devices of a bucket's users look like in Redis. Pure.

A value is, in this order and each of them or not:

- ``!nonce``: somebody is writing this entry anew;
- ``~user_id`` for each user who is struck out: what the entry says of them holds no more;
- a compact JSON list of ``[user_id, device_id, app, environment, token, language, attributes or null]``.

Without the list it is a tombstone: it reads as a miss for everybody, and keeps who read PostgreSQL too early from filling the entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, TypeAlias

import orjson

from pushq.tokens.buckets import SHIFT, Bucket, cache_key
from pushq.tokens.partitions import partition_of

DeviceEntry: TypeAlias = "list[Any]"

#: Who is struck out, and the list.
_STRUCK: Final = re.compile(rb"((?:~-?\d{1,19})+)(\[.*)", re.DOTALL)


@dataclass(slots=True)
class Contents:
    """What was found in the cache.

    Attributes:
        lists: the JSON of the entries that have one.
        absent: buckets of which there is nothing, not even a tombstone.
        struck: users of whom the lists are not to be believed.
    """

    lists: dict[Bucket, bytes] = field(default_factory=dict)
    absent: set[Bucket] = field(default_factory=set)
    struck: set[int] = field(default_factory=set)


def sort_out(buckets: Sequence[Bucket], values: Sequence[bytes | None]) -> Contents:
    """Args: what each bucket's key holds."""
    contents = Contents()
    for bucket, value in zip(buckets, values, strict=True):
        if value is None:
            contents.absent.add(bucket)
        elif value.startswith(b"["):
            contents.lists[bucket] = value
        elif (parts := _STRUCK.fullmatch(value)) is not None:
            contents.struck.update(map(int, parts[1].split(b"~")[1:]))
            contents.lists[bucket] = parts[2]
    return contents


def tokens_at_once(
    lists: Mapping[Bucket, bytes], device_ids: Sequence[int], app: str
) -> list[bytes | None] | None:
    """The tokens of all devices, cut out of the lists; None where that takes a closer look: one is missing, or is of the sandbox,
    or somebody has attributes. Parsing them makes a dozen objects for each, which costs three times as much."""
    text = b"".join(lists.values())
    # Without attributes, which may look like anything, and without a string that hides a quote, what looks like a device is one.
    if text.count(b"[") - len(lists) != text.count(b",null]") or b"{" in text or b"\\" in text:
        return None
    return _in_order(text, device_ids, app) or _in_any_order(text, device_ids, app)


def _in_order(text: bytes, device_ids: Sequence[int], app: str) -> list[bytes | None] | None:
    """As a planned batch asks, of whose neighbours the audience may have few: what lies between is skipped, not looked at."""
    tokens: list[bytes | None] = []
    found, find = 0, text.find
    middle = b",%b," % _middle(app)
    for device_id in device_ids:
        name = b",%d%b" % (device_id, middle)
        found = find(name, found)
        if found < 0:
            return None
        begin = found + len(name) + 1
        found = find(b'"', begin)
        tokens.append(text[begin:found])
    return tokens


def _in_any_order(text: bytes, device_ids: Sequence[int], app: str) -> list[bytes | None] | None:
    devices = dict(_pattern(app).findall(text))
    tokens = list(map(devices.get, ",".join(map(str, device_ids)).encode().split(b",")))
    return None if None in tokens else tokens


@lru_cache(maxsize=64)
def _middle(app: str) -> bytes:
    return orjson.dumps(app) + b',"production"'


@lru_cache(maxsize=64)
def _pattern(app: str) -> re.Pattern[bytes]:
    return re.compile(rb'\[-?\d+,(\d+),%b,"([^"]+)",' % re.escape(_middle(app)))


def parse(lists: Mapping[Bucket, bytes]) -> tuple[dict[int, DeviceEntry], list[Bucket]]:
    """The devices by id, and the buckets whose list cannot be read."""
    try:
        # One parse for all: mostly so.
        parsed = orjson.loads(b"[%b]" % b",".join(lists.values()))
    except orjson.JSONDecodeError:
        parsed = []  # which of them is broken shows below
    broken = []
    if len(parsed) != len(lists) or not all(map(_is_list_of_devices, parsed)):
        parsed = []
        for bucket, value in lists.items():
            devices = _parse_alone(value)
            if devices is None:
                broken.append(bucket)
            else:
                parsed.append(devices)
    return {device[1]: device for devices in parsed for device in devices}, broken


def _parse_alone(value: bytes) -> list[DeviceEntry] | None:
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return parsed if _is_list_of_devices(parsed) else None


def _is_list_of_devices(value: Any) -> bool:
    if type(value) is not list:
        return False
    for device in value:
        if (
            type(device) is not list
            or len(device) != 7
            or type(device[1]) is not int
            or type(device[4]) is not str
        ):
            return False
    return True


def encode(platform: str, partition: int, rows: Iterable[Sequence[Any]]) -> list[tuple[str, bytes]]:
    """The (key, value) pairs of a partition's buckets, with the users of whom at least one device was seen lately.

    Args:
        rows: user_id, id, app, environment, token, language, attributes, recent, ...; one user's rows stand together.
    """
    pages: dict[int, list[Sequence[Any]]] = {}
    for user_id, of_user in groupby(rows, itemgetter(0)):
        devices = list(of_user)
        if any(map(itemgetter(7), devices)):
            pages.setdefault(user_id >> SHIFT, []).extend(device[:7] for device in devices)
    return [
        (cache_key(platform, (partition, page)), orjson.dumps(devices))
        for page, devices in pages.items()
        # Whoever strikes a user out finds the bucket by the user's id. If PostgreSQL had another mind of where users belong,
        # these would never be found: better not kept.
        if partition_of(devices[0][0]) == partition
    ]
