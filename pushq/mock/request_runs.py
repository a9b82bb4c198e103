"""Requests that look alike, read by the hundred.

A client that sends to many devices writes requests side by side that differ in stream, token and ``apns-id`` only. One of them,
accepted, makes a regular expression of fixed length for all; reading them with it costs a third of reading them frame by frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pushq.mock.frames import DATA, END_HEADERS, END_STREAM, FRAME_HEADER_BYTES, HEADERS, WORD, frame
from pushq.mock.header_blocks import Layout

#: So many of a shape in a row, before an expression is made for it: that costs as much as reading hundreds of requests.
BEFORE_A_RUN = 8
#: Shapes of one layout. A client that writes each recipient another body has none twice.
MOST_SHAPES = 16
_APNS_ID_BYTES = 36
_APNS_ID = rb"([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})"
_HEAD_BYTES = FRAME_HEADER_BYTES - WORD.size


@dataclass(frozen=True, slots=True)
class RequestShape:
    """``pattern`` matches one request: stream (four octets), token and perhaps ``apns-id``; ``data_bytes`` are its DATA's."""

    pattern: re.Pattern[bytes]
    period: int
    data_bytes: int

    def read(self, buffer: bytes, at: int, most: int) -> list[tuple[bytes, ...]]:
        """The requests from ``at`` on, at most so many, up to the first that is different."""
        rows: list[tuple[bytes, ...]] = []
        for match in self.pattern.finditer(buffer, at, min(at + most * self.period, len(buffer))):
            if match.start() != at:
                break
            at += self.period
            rows.append(match.groups())
        return rows


def shape_of(
    layout: Layout,
    block_bytes: int,
    body: bytes,
    token: bytes,
    token_pattern: bytes,
    slow_prefixes: tuple[bytes, ...],
) -> RequestShape | None:
    """The shape of a request that was accepted; None where octets alone do not tell it.

    Args:
        body: with the token in it, where that is not in the path.
        token_pattern: what tokens of its length are made of.
        slow_prefixes: of tokens that are not answered from memory.
    """
    in_path = layout.b > layout.a
    id_bytes = layout.d - layout.c
    if id_bytes and (id_bytes != _APNS_ID_BYTES or not in_path):
        return None
    slow = b"(?!" + b"|".join(map(re.escape, slow_prefixes)) + b")" if slow_prefixes else b""
    found = b"(" + slow + token_pattern + b")"
    if in_path:
        path, rest = found, re.escape(body)
    else:
        before, _, after = body.partition(token)
        path, rest = b"", re.escape(before) + found + re.escape(after)
    text = (
        b"(?s)"
        + re.escape(frame(HEADERS, END_HEADERS, 0, bytes(block_bytes))[:_HEAD_BYTES])
        + b"(.{4})"
        + re.escape(layout.before)
        + path
        + re.escape(layout.between)
        + (_APNS_ID if id_bytes else b"")
        + re.escape(layout.after)
        + re.escape(frame(DATA, END_STREAM, 0, body)[:_HEAD_BYTES])
        + b"\\1"
        + rest
    )
    return RequestShape(re.compile(text), 2 * FRAME_HEADER_BYTES + block_bytes + len(body), len(body))
