"""Runs of answers that look alike, read by column.

A provider's good answers differ in their stream ids and in octets that nobody reads. So the frames of a few thousand of them have
the same size, and what must be equal can be compared for all at once with a stride through the data. Reading them one by
one costs two to four times as much.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from pushq.http2.frames import (
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD,
    FRAME_HEAD_SIZE,
    MIN_MAX_FRAME_SIZE,
    FrameType,
)
from pushq.http2.responses import STATUS_200

#: Fewer than these are read as fast one by one, and more are not looked at in one go.
FEWEST_ROWS: Final = 20
MOST_ROWS: Final = 4096

_HEADERS, _DATA, _RST_STREAM = int(FrameType.HEADERS), int(FrameType.DATA), int(FrameType.RST_STREAM)
_COMPLETE = END_HEADERS | END_STREAM
_STATUS_200 = bytes((STATUS_200,))
_RST_STREAM_SIZE = 4


class Run(NamedTuple):
    """``stream_ids`` are as they came, ``stop`` is where the run ends in the data, and ``data_size`` what DATA it had."""

    stream_ids: tuple[int, ...]
    stop: int
    data_size: int


def answers(data: bytes, offset: int, rows: int) -> Run | None:
    """The run of complete answers 200 that begins at ``offset``, of at most ``rows``. None if there is none worth the name.

    An answer is HEADERS that end the stream, alone or with an RST_STREAM behind it (as from a server that does not
    wait for the request's body), or HEADERS and one DATA that ends it. Its block begins with the octet that is ``:status: 200``,
    and in a state where blocks stand alone the rest of it is of no interest. Whether the streams are open is for the caller to see.
    """
    size = len(data)
    if offset + FRAME_HEAD_SIZE >= size or data[offset + FRAME_HEAD_SIZE] != _STATUS_200[0]:
        return None
    word, flags, stream_id = FRAME_HEAD.unpack_from(data, offset)
    length = word >> 8
    if word & 0xFF != _HEADERS or flags & ~END_STREAM != END_HEADERS or not 0 < length <= MIN_MAX_FRAME_SIZE:
        return None
    period = second = FRAME_HEAD_SIZE + length
    data_length = 0
    paired = False
    if offset + second + FRAME_HEAD_SIZE <= size:
        next_word, next_flags, next_id = FRAME_HEAD.unpack_from(data, offset + second)
        kind, length = next_word & 0xFF, next_word >> 8
        if next_id == stream_id:
            if flags == _COMPLETE:
                paired = kind == _RST_STREAM and length == _RST_STREAM_SIZE
            elif kind == _DATA and next_flags == END_STREAM and length <= MIN_MAX_FRAME_SIZE:
                paired = True
                data_length = length
    if paired:
        period += FRAME_HEAD_SIZE + length
    elif flags != _COMPLETE:
        return None

    rows = min(rows, (size - offset) // period)
    constant = (0, 1, 2, 3, 4, 9, *range(second, second + 5)) if paired else (0, 1, 2, 3, 4, 9)
    for at in constant:
        if rows < FEWEST_ROWS:
            return None
        rows = _alike(data, offset + at, period, rows)
    stop = offset + rows * period
    raw = bytearray(4 * rows)
    for place in range(4):
        column = data[offset + 5 + place : stop : period]
        if paired and data[offset + second + 5 + place : stop : period] != column:
            return None
        raw[place::4] = column
    return Run(struct.unpack(f">{rows}I", raw), stop, data_length * rows)


def _alike(data: bytes, start: int, period: int, rows: int) -> int:
    """How many of the ``rows`` octets from ``start`` on, one in each period, are equal to the first."""
    first = data[start : start + 1]
    column = data[start : start + (rows - 1) * period + 1 : period]
    return rows if column == first * rows else rows - len(column.lstrip(first))
