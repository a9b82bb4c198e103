"""What the fast engine must know of a provider to answer a good request without building it.

A lane tells where the token stands, what is left of the body without it, and how the answer to a good request looks. Whether
a request is good is not decided here: ``Endpoint.decide`` said so before for one with the same headers and the same rest.
"""

from __future__ import annotations

import secrets
from itertools import count
from typing import Protocol

from pushq.mock import apns, fcm
from pushq.mock.frames import DATA, END_HEADERS, END_STREAM, HEADERS, frame, literal

TOKEN_KEY = b'"token":"'


class Lane(Protocol):
    @property
    def path_prefix(self) -> bytes | None:
        """The path up to the token, when the token is in the path."""

    @property
    def own_prefixes(self) -> tuple[bytes, ...]:
        """Tokens with one of these are never answered from memory."""

    @property
    def answer_data_bytes(self) -> int:
        """DATA bytes of one answer."""

    def split(self, token: bytes, body: bytes) -> tuple[bytes, bytes]:
        """Token and the rest that must be known; ``b""`` as the token when it cannot be told apart."""

    def well_formed(self, token: bytes) -> bool: ...

    def token_pattern(self, length: int) -> bytes:
        """A regular expression for well-formed tokens of a length that one of them had."""

    def success(self, stream: bytes, apns_id: bytes) -> bytes:
        """The frames of the answer 200. ``stream``: four octets; ``apns_id``: ``b""`` or a valid one to echo."""


class ApnsLane:
    path_prefix = apns.DEVICE_PATH.encode()
    answer_data_bytes = 0
    well_formed = staticmethod(apns.well_formed)

    def __init__(self, rules: apns.ApnsRules) -> None:
        self.own_prefixes = (rules.dead_prefix, rules.foreign_prefix)
        self._sandbox = rules.sandbox
        unique = literal("apns-unique-id", "0" * 36)[:-36] if self._sandbox else b""
        block = b"\x88" + literal("apns-id", "0" * 36)[:-36]
        size = len(block) + 36 + (len(unique) + 36 if unique else 0)
        self._head = frame(HEADERS, END_HEADERS | END_STREAM, 0, b"0" * size)[:5]
        self._block, self._unique = block, unique
        self._numbers = count()
        start = secrets.token_hex(10)
        self._id_start = f"{start[:8]}-{start[8:12]}-{start[12:16]}-{start[16:20]}-".encode()

    def split(self, token: bytes, body: bytes) -> tuple[bytes, bytes]:
        return token, body

    def token_pattern(self, length: int) -> bytes:
        return b"[0-9a-fA-F]{%d}" % length

    def success(self, stream: bytes, apns_id: bytes) -> bytes:
        given = apns_id or b"%b%012x" % (self._id_start, next(self._numbers))
        if self._sandbox:
            unique = b"%b%012x" % (self._id_start, next(self._numbers))
            return self._head + stream + self._block + given + self._unique + unique
        return self._head + stream + self._block + given


class FcmLane:
    path_prefix = None
    well_formed = staticmethod(fcm.well_formed)

    def __init__(self, rules: fcm.FcmRules) -> None:
        self.own_prefixes = (rules.dead_prefix,)
        block = b"\x88" + b"".join(literal(*header) for header in fcm.JSON_TYPE)
        start = f'{{\n  "name": "projects/{rules.project_id}/messages/0:{secrets.token_hex(8)}%'.encode()
        end = b'"\n}\n'
        self.answer_data_bytes = len(start) + 16 + len(end)
        self._headers = frame(HEADERS, END_HEADERS, 0, block)[:5]
        self._data_head = block + frame(DATA, END_STREAM, 0, b"0" * self.answer_data_bytes)[:5]
        self._start, self._end = start, end
        self._numbers = count()

    def split(self, token: bytes, body: bytes) -> tuple[bytes, bytes]:
        start = body.find(TOKEN_KEY) + len(TOKEN_KEY)
        end = body.find(b'"', start)
        if start < len(TOKEN_KEY) or end < 0:
            return b"", body
        return body[start:end], body[:start] + body[end:]

    def token_pattern(self, length: int) -> bytes:
        return b"[A-Za-z0-9_:-]{%d}" % length

    def success(self, stream: bytes, apns_id: bytes) -> bytes:
        number = b"%016x" % next(self._numbers)
        return b"".join((self._headers, stream, self._data_head, stream, self._start, number, self._end))
