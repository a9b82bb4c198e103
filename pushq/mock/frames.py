"""HTTP/2 frames as bytes (RFC 9113, section 4 and 6), and header blocks that need no dynamic table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct, unpack

from hpack.hpack import encode_integer

from pushq.mock.exchange import Answer, Headers

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20
MAX_FRAME_SIZE = 16_384
DEFAULT_WINDOW = 65_535
MAX_WINDOW = (1 << 31) - 1
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 2, 3, 4
DEFAULT_HEADER_TABLE_SIZE = 4096

# Length (upper 8 and lower 16 bits), type, flags, stream.
FRAME_HEADER = Struct(">BHBBI")
FRAME_HEADER_BYTES = 9
WORD = Struct(">I")
SETTING = Struct(">HI")

# Statuses that the static table holds complete; others name entry 8 and carry the digits.
_STATIC_STATUS = {
    200: b"\x88",
    204: b"\x89",
    206: b"\x8a",
    304: b"\x8b",
    400: b"\x8c",
    404: b"\x8d",
    500: b"\x8e",
}
# Set the table to size zero: owed once after the client lowered HEADER_TABLE_SIZE (RFC 7541, 4.2).
SIZE_UPDATE = b"\x20"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return FRAME_HEADER.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def numbers(words: Sequence[bytes]) -> tuple[int, ...]:
    """Four octets each, big-endian."""
    return unpack(f">{len(words)}I", b"".join(words))


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*pair) for pair in pairs))


def goaway(last_stream: int, code: int, debug: bytes) -> bytes:
    return frame(GOAWAY, 0, 0, WORD.pack(last_stream) + WORD.pack(code) + debug)


def window_update(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, WORD.pack(size))


def literal(name: str, value: str) -> bytes:
    """A header field without indexing and without Huffman."""
    raw_name, raw_value = name.encode("latin-1"), value.encode("latin-1")
    return b"\x00%b%b%b%b" % (
        bytes(encode_integer(len(raw_name), 7)),
        raw_name,
        bytes(encode_integer(len(raw_value), 7)),
        raw_value,
    )


def header_block(answer: Answer) -> bytes:
    return _block(answer.status, answer.headers)


@lru_cache(maxsize=256)
def _block(status: int, headers: Headers) -> bytes:
    line = _STATIC_STATUS.get(status) or b"\x08\x03%d" % status
    return line + b"".join(literal(name, value) for name, value in headers)


def answer_frames(stream: int, answer: Answer) -> bytes:
    """A complete answer: HEADERS, then DATA when there is a body."""
    block = header_block(answer)
    if not answer.body:
        return frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
    parts = [frame(HEADERS, END_HEADERS, stream, block)]
    for start in range(0, len(answer.body), MAX_FRAME_SIZE):
        piece = answer.body[start : start + MAX_FRAME_SIZE]
        last = start + MAX_FRAME_SIZE >= len(answer.body)
        parts.append(frame(DATA, END_STREAM if last else 0, stream, piece))
    return b"".join(parts)


def data_bytes(frames: bytes) -> int:
    """How much of the flow-control window some frames need."""
    at = size = 0
    while at < len(frames):
        high, low, kind, _, _ = FRAME_HEADER.unpack_from(frames, at)
        length = high << 16 | low
        if kind == DATA:
            size += length
        at += FRAME_HEADER_BYTES + length
    return size


def with_size_update(frames: bytes) -> bytes:
    """The same frames, the first of which is HEADERS, with a table size update in front of its block."""
    high, low, kind, flags, stream = FRAME_HEADER.unpack_from(frames)
    length = high << 16 | low
    end = FRAME_HEADER_BYTES + length
    return frame(kind, flags, stream, SIZE_UPDATE + frames[FRAME_HEADER_BYTES:end]) + frames[end:]
