"""Bytes of a file in, physical lines out: in bounded memory, whatever is in the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from pushq.errors import InvalidRequest

#: A record has at most 4 KB of attributes and 4 KB of token; what is longer than this is no record.
MAX_LINE: Final = 65_536
BLOCK: Final = 1 << 20
#: How much of a line that is too long is kept to be shown.
SHOWN: Final = 1000

_UTF8_BOM: Final = b"\xef\xbb\xbf"
_OTHER_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")


@dataclass(slots=True)
class Block:
    """Whole lines that follow one another.

    Attributes:
        first: number of the first line, counted from 1.
        lines: without their ends. A line that is too long or is not UTF-8 stands here as None.
        faults: for each None in ``lines``, by line number: the reason and what can be shown of the line.
    """

    first: int
    lines: list[str | None]
    faults: dict[int, tuple[str, str]]


def read_blocks(stream: BinaryIO, *, block: int = BLOCK, max_line: int = MAX_LINE) -> Iterator[Block]:
    """Cut a stream into blocks of whole lines, decoded as UTF-8 (a byte order mark is dropped).

    Lines end with LF or CRLF. Memory stays below a few blocks even if the stream has no line end at all.

    Raises:
        InvalidRequest: the stream begins with the byte order mark of UTF-16.
    """
    number = 1
    rest = b""
    overlong: bytes | None = (
        None  # the beginning of a line whose end has not come yet and which is too long already
    )
    start = True
    while chunk := stream.read(block):
        if start:
            start = False
            if chunk.startswith(_OTHER_BOMS):
                raise InvalidRequest("file", "text in UTF-16", "text in UTF-8")
            chunk = chunk.removeprefix(_UTF8_BOM)
        data = rest + chunk
        rest = b""
        head: list[bytes] = []
        if overlong is not None:
            end = data.find(b"\n")
            if end < 0:
                continue
            head, data, overlong = [overlong], data[end + 1 :], None
        body, newline, tail = data.rpartition(b"\n")
        if len(tail) > max_line:
            overlong = tail[:SHOWN]
        else:
            rest = tail
        if head or newline:
            lines = _decode(number, head, body if newline else None, max_line)
            number += len(lines.lines)
            yield lines
    if overlong is not None:
        yield _decode(number, [overlong], None, max_line)
    elif rest:
        yield _decode(number, [], rest, max_line)


def _decode(number: int, overlong: list[bytes], body: bytes | None, max_line: int) -> Block:
    """One block: at most one line known to be too long, then the lines of ``body``."""
    result = Block(number, [], {})
    for shown in overlong:
        _fault(result, f"longer than {max_line:,} bytes", shown)
    if body is None:
        return result
    try:
        text = body.decode()
    except UnicodeDecodeError:
        for raw in body.split(b"\n"):
            _append(result, raw.removesuffix(b"\r"), max_line)
        return result
    lines = text.split("\n")
    if "\r" in text:
        lines = [line.removesuffix("\r") for line in lines]
    if max(map(len, lines)) > max_line // 4:  # a character has at most 4 bytes
        for line in lines:
            _append(result, line.encode(), max_line)
    elif result.lines:
        result.lines += lines
    else:
        result.lines = lines  # type: ignore[assignment] # a list of str where None is allowed as well
    return result


def _append(block: Block, raw: bytes, max_line: int) -> None:
    if len(raw) > max_line:
        _fault(block, f"longer than {max_line:,} bytes", raw[:SHOWN])
        return
    try:
        block.lines.append(raw.decode())
    except UnicodeDecodeError as error:
        _fault(block, f"not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start + 1}", raw)


def _fault(block: Block, reason: str, shown: bytes) -> None:
    block.faults[block.first + len(block.lines)] = (reason, shown.decode(errors="backslashreplace"))
    block.lines.append(None)
