"""Header blocks read by likeness say the same as hpack does block by block."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder, HeaderTuple, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from pushq.mock.header_blocks import CompressionError, HeaderBlocks
from tests.unit.mock_provider import ALIVE

PREFIX = b"/3/device/"
APNS_ID = "123e4567-e89b-12d3-a456-42665544%04x"

names = st.sampled_from(["authorization", "apns-topic", "apns-id", "apns-collapse-id", "x-own"])
values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
paths = st.sampled_from(
    [f"/3/device/{ALIVE}", "/3/device/", "/3/device/" + "cd" * 32, "/other", "/3/device/" + "ab" * 80]
)
fields = st.tuples(names, values, st.booleans())
requests = st.tuples(paths, st.booleans(), st.lists(fields, max_size=6), st.booleans())


@given(st.lists(requests, min_size=1, max_size=8), st.sampled_from([0, 64, 200, 4096]))
def test_reading_by_likeness_equals_decoding(
    sent: list[tuple[str, bool, list[tuple[str, str, bool]], bool]], size: int
) -> None:
    encoder, blocks, reference = Encoder(), HeaderBlocks(PREFIX), Decoder()
    encoder.header_table_size = size
    for path, hidden_path, headers, huffman in sent:
        plain = [_field(":method", "POST", hidden=False), _field(":path", path, hidden=hidden_path)]
        block = encoder.encode(
            [*plain, *(_field(*header[:2], hidden=header[2]) for header in headers)], huffman=huffman
        )
        expected = [(str(name), str(value)) for name, value in reference.decode(block)]
        group, token, apns_id = blocks.read(block)
        found = [(":method", group.method), (":path", group.path + token.decode()), *group.headers]
        if apns_id:
            found.append(("apns-id", apns_id.decode()))
        assert sorted(found) == sorted(expected)


def _field(name: str, value: str, *, hidden: bool) -> HeaderTuple:
    return NeverIndexedHeaderTuple(name, value) if hidden else HeaderTuple(name, value)


def _like_a_sender(encoder: Encoder, token: str, apns_id: str) -> bytes:
    hidden = [NeverIndexedHeaderTuple(":path", f"/3/device/{token}")]
    pseudo = encoder.encode([(":method", "POST"), (":scheme", "https")], huffman=False)
    path = encoder.encode(hidden, huffman=False)
    rest = encoder.encode([("apns-topic", "com.example.shop")], huffman=False)
    return pseudo + path + rest + encoder.encode([NeverIndexedHeaderTuple("apns-id", apns_id)], huffman=False)


def test_only_the_token_and_the_id_vary_within_a_group() -> None:
    encoder, blocks = Encoder(), HeaderBlocks(PREFIX)
    groups = []
    for number in range(4):
        token = f"{number:064x}"
        group, found_token, found_id = blocks.read(_like_a_sender(encoder, token, APNS_ID % number))
        if number:
            assert (found_token.decode(), found_id.decode()) == (token, APNS_ID % number)
        groups.append(group)
    # The first block fills the dynamic table; from then on blocks are alike.
    assert groups[1] is groups[2] is groups[3] is not groups[0]
    assert groups[3].headers == (("apns-topic", "com.example.shop"),)
    layout = blocks.layouts[len(_like_a_sender(encoder, "0" * 64, APNS_ID % 0))]
    assert layout.group is groups[3]


def test_a_change_of_the_dynamic_table_ends_what_was_known() -> None:
    """Equal bytes mean other headers after an insertion: index 62 is the newest entry."""
    encoder, blocks = Encoder(), HeaderBlocks(PREFIX)
    first = encoder.encode([("apns-topic", "one")], huffman=False)
    indexed = encoder.encode([("apns-topic", "one")], huffman=False)
    blocks.read(first)
    before, _, _ = blocks.read(indexed)
    before.good.add(b"body")
    blocks.read(encoder.encode([("apns-topic", "two")], huffman=False))
    after, _, _ = blocks.read(indexed)
    assert (before.headers, after.headers) == ((("apns-topic", "one"),), (("apns-topic", "two"),))
    assert not before.good
    assert not after.good


def test_a_name_given_twice_is_not_cut_out() -> None:
    blocks = HeaderBlocks(PREFIX)
    encoder = Encoder()
    twice = [NeverIndexedHeaderTuple("apns-id", APNS_ID % number) for number in range(2)]
    group, token, apns_id = blocks.read(encoder.encode(twice, huffman=False))
    assert (token, apns_id) == (b"", b"")
    assert group.headers == tuple(("apns-id", APNS_ID % number) for number in range(2))


def test_a_repetition_from_the_dynamic_table_is_seen() -> None:
    """One of the two is a reference into the table, the other a literal that looks as if it could be cut out."""
    blocks, encoder = HeaderBlocks(PREFIX), Encoder()
    blocks.read(encoder.encode([("apns-id", "first")], huffman=False))
    twice = encoder.encode(
        [HeaderTuple("apns-id", "first"), NeverIndexedHeaderTuple("apns-id", "other")], huffman=False
    )
    for _ in range(2):
        group, _, apns_id = blocks.read(twice)
        assert (group.headers, apns_id) == ((("apns-id", "first"), ("apns-id", "other")), b"")


@pytest.mark.parametrize(
    "block", [b"\xff", b"\xbe", b"\x04\x05ab", b"\x00", b"\x0f", b"\x04\x7f\xff\xff\xff\xff\xff\x01"]
)
def test_a_broken_block_is_an_error_each_time(block: bytes) -> None:
    blocks = HeaderBlocks(PREFIX)
    for _ in range(2):
        with pytest.raises(CompressionError):
            blocks.read(block)


def test_what_is_remembered_is_bounded() -> None:
    blocks = HeaderBlocks(PREFIX)
    for number in range(2000):
        blocks.read(
            b"\x00\x01a\x05%05d" % number
            + b"\x00"
            + bytes([1 + number % 100])
            + b"b" * (1 + number % 100)
            + b"\x00"
        )
    assert len(blocks.layouts) <= 256
    assert len(blocks._groups) <= 256
