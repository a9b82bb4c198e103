"""Frame layout and the numbers of RFC 9113: types, flags, error codes, settings."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

FRAME_HEAD_SIZE = 9
#: A frame's head read as (length * 256 + type, flags, stream id with the reserved bit): one unpack instead of three slices.
FRAME_HEAD = struct.Struct(">IBI")
UINT32 = struct.Struct(">I")
SETTING = struct.Struct(">HI")

#: The size of frame that every peer must accept, and the largest that a peer may ask for (section 4.2).
MIN_MAX_FRAME_SIZE = 16_384
MAX_MAX_FRAME_SIZE = 16_777_215
DEFAULT_WINDOW = 65_535
MAX_WINDOW = 2**31 - 1
MAX_STREAM_ID = 2**31 - 1
DEFAULT_HEADER_TABLE_SIZE = 4096


class FrameType(IntEnum):
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class ErrorCode(IntEnum):
    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


ACK = 0x1
END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FIELDS = 0x20


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame. The payload must fit the peer's MAX_FRAME_SIZE."""
    return FRAME_HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def settings_frame(values: Iterable[tuple[int, int]]) -> bytes:
    return frame(FrameType.SETTINGS, 0, 0, b"".join(SETTING.pack(key, value) for key, value in values))


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(FrameType.WINDOW_UPDATE, 0, stream_id, UINT32.pack(increment))


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    return frame(FrameType.RST_STREAM, 0, stream_id, UINT32.pack(code))


def goaway(code: int, debug: bytes = b"") -> bytes:
    """A client's GOAWAY: the server opened no stream, so the last stream id is 0."""
    return frame(FrameType.GOAWAY, 0, 0, UINT32.pack(0) + UINT32.pack(code) + debug)


def header_frames(stream_id: int, block: bytes, max_frame_size: int, *, end_stream: bool) -> bytes:
    """HEADERS, with CONTINUATION frames when the block is larger than one frame."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= max_frame_size:
        return frame(FrameType.HEADERS, flags | END_HEADERS, stream_id, block)
    parts = [frame(FrameType.HEADERS, flags, stream_id, block[:max_frame_size])]
    for start in range(max_frame_size, len(block), max_frame_size):
        last = END_HEADERS if start + max_frame_size >= len(block) else 0
        parts.append(frame(FrameType.CONTINUATION, last, stream_id, block[start : start + max_frame_size]))
    return b"".join(parts)


def data_frames(stream_id: int, data: bytes, max_frame_size: int, *, end_stream: bool) -> bytes:
    """DATA in frames of at most ``max_frame_size``; an empty ``data`` with ``end_stream`` is one empty frame."""
    parts = []
    for start in range(0, len(data), max_frame_size) or (0,):
        last = END_STREAM if end_stream and start + max_frame_size >= len(data) else 0
        parts.append(frame(FrameType.DATA, last, stream_id, data[start : start + max_frame_size]))
    return b"".join(parts)


def first_unread_stream(data: bytes, octets: int) -> int:
    """The first stream that a peer cannot know of when it reads only so many octets of our frames.

    ``data`` is whole frames, after the preface or not. A request is unread when its HEADERS frame is not whole: nobody can
    decode half a header block. All later ones are unread too. MAX_STREAM_ID + 1 if there is none.
    """
    offset = len(PREFACE) if data.startswith(PREFACE) else 0
    while offset < len(data):
        word, _, stream_id = FRAME_HEAD.unpack_from(data, offset)
        offset += FRAME_HEAD_SIZE + (word >> 8)
        if word & 0xFF == FrameType.HEADERS and offset > octets:
            return int(stream_id)
    return MAX_STREAM_ID + 1
