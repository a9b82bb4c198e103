"""Bytes to lines: whatever the bytes are and wherever the blocks are cut."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushq.errors import InvalidRequest
from pushq.tokens.lines import SHOWN, read_blocks

Line = tuple[int, str | None, str | None]


def read(data: bytes, *, block: int = 1 << 20, max_line: int = 100) -> list[Line]:
    """(number, text or None, reason of the fault) of every line."""
    lines: list[Line] = []
    for part in read_blocks(io.BytesIO(data), block=block, max_line=max_line):
        assert set(part.faults) == {part.first + n for n, line in enumerate(part.lines) if line is None}
        for number, line in enumerate(part.lines, part.first):
            lines.append((number, line, part.faults[number][0] if line is None else None))
    return lines


def texts(data: bytes, **options: int) -> list[str | None]:
    return [line for _, line, _ in read(data, **options)]


def test_line_ends_and_the_byte_order_mark() -> None:
    assert texts(b"\xef\xbb\xbfa,b\r\n1,2\n\n3,4") == ["a,b", "1,2", "", "3,4"]
    assert texts(b"") == []
    assert texts(b"\n") == [""]


def test_only_line_feeds_end_a_line() -> None:
    assert texts("a\x0bb\x85c\u2028d\n".encode()) == ["a\x0bb\x85c\u2028d"]


def test_bytes_that_are_no_text_cost_one_line() -> None:
    lines = read(b"good\nb\xffd\nfine\n")
    assert [line for _, line, _ in lines] == ["good", None, "fine"]
    assert lines[1][0] == 2
    assert lines[1][2] == "not UTF-8: byte 0xff at position 2"


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
def test_a_line_that_is_too_long_costs_one_line(block: int) -> None:
    lines = read(b"a\n" + b"x" * 5000 + b"\nb\n" + b"y" * 101 + b"\n" + b"z" * 100 + b"\n", block=block)
    assert [(number, line) for number, line, _ in lines] == [
        (1, "a"),
        (2, None),
        (3, "b"),
        (4, None),
        (5, "z" * 100),
    ]
    assert lines[1][2] == "longer than 100 bytes"


def test_a_file_without_any_line_end_stays_small() -> None:
    class Endless(io.RawIOBase):
        """50 MB that no test should have to hold."""

        left = 50_000_000

        def read(self, size: int = -1) -> bytes:
            size = min(size, self.left)
            self.left -= size
            return b"x" * size

    blocks = list(read_blocks(Endless(), block=1 << 16))  # type: ignore[arg-type] # it has the one method that is used
    assert [len(block.lines) for block in blocks] == [1]
    assert blocks[0].faults[1] == ("longer than 65,536 bytes", "x" * SHOWN)


def test_other_encodings_are_named() -> None:
    with pytest.raises(InvalidRequest, match="UTF-16"):
        read("user_id\n".encode("utf-16"))


@given(
    data=st.lists(
        st.sampled_from([b"\n", b"\r", b"a", b'"', b"\xff", "é".encode(), b"\xc3", b"\0", b"x" * 30])
    ).map(b"".join),
    block=st.integers(1, 40),
)
def test_where_blocks_are_cut_makes_no_difference(data: bytes, block: int) -> None:
    """Against a plain reading of the whole."""
    whole = data.split(b"\n")
    if whole[-1] == b"":
        whole.pop()
    expected: list[str | None] = []
    for raw in whole:
        raw = raw.removesuffix(b"\r")  # noqa: PLW2901 - the line's end may be CRLF
        try:
            expected.append(raw.decode() if len(raw) <= 100 else None)
        except UnicodeDecodeError:
            expected.append(None)
    found = texts(data, block=block)
    # A line of exactly the limit and a CR behind it may count as too long: the CR is seen before it is known to end the line.
    assert len(found) == len(expected)
    for line, wanted in zip(found, expected, strict=True):
        assert line == wanted or (line is None and wanted is not None and len(wanted.encode()) == 100)
