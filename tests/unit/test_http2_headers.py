"""HPACK on both sides: hpack's decoder reads what we encode, hpack's encoder makes what we read."""

from __future__ import annotations

import pytest
from h2.settings import SettingCodes
from hpack import Decoder, Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from pushq.errors import InvalidRequest
from pushq.http2 import packing
from pushq.http2.burst import Burst, Code
from pushq.http2.core import Core
from pushq.http2.errors import PeerViolation
from pushq.http2.frames import frame, settings_frame
from pushq.http2.responses import ResponseDecoder, headers_of, stands_alone, status_of
from pushq.http2.templates import HeaderTemplate, TemplateEncoder, integer
from tests.unit.http2_referee import APNS, burst_of, ready, settings_of, tokens

TABLE = SettingCodes.HEADER_TABLE_SIZE


def template(number: int, size: int = 200) -> HeaderTemplate:
    return HeaderTemplate(
        b"/3/device/",
        (
            (b"authorization", b"bearer %03d" % number + b"x" * size),
            (b"apns-topic", b"com.example.%d" % number),
        ),
    )


def expected(chosen: HeaderTemplate, token: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", chosen.path_prefix + token),
        *chosen.headers,
    ]


def blocks(encoder: TemplateEncoder, chosen: HeaderTemplate, count: int) -> list[bytes]:
    """The blocks of a run of requests, as the connection would write them."""
    encoded = encoder.encode(chosen, with_target=True)
    burst = Burst(chosen, count, targets=tokens(count), bodies=b"{}")
    return [packing.block(encoded, burst, index, first=index == 0) for index in range(count)]


def test_the_second_block_is_short_and_means_the_same() -> None:
    decoder = Decoder()
    first, second, third = blocks(TemplateEncoder(b"localhost"), APNS, 3)
    assert len(first) > 300
    assert len(second) < 100
    for block, token in zip((first, second, third), tokens(3), strict=True):
        assert decoder.decode(block, raw=True) == expected(APNS, token)


def test_a_template_used_again_teaches_nothing() -> None:
    encoder = TemplateEncoder(b"localhost")
    assert encoder.encode(APNS, with_target=True).teaches
    assert not encoder.encode(APNS, with_target=True).teaches


def test_unindexed_headers_stay_out_of_the_table() -> None:
    chosen = HeaderTemplate(
        b"/", ((b"apns-expiration", b"1767225600"), (b"apns-priority", b"5")), unindexed=(b"apns-expiration",)
    )
    decoder = Decoder()
    first, _ = blocks(TemplateEncoder(b"localhost"), chosen, 2)
    decoder.decode(first)
    names = [name for name, _ in decoder.header_table.dynamic_entries]
    assert names == [b"apns-priority", b":authority"]


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("use"), st.integers(0, 7)),
            st.tuples(st.just("limit"), st.sampled_from([0, 40, 300, 700, 4096, 65_536])),
        ),
        max_size=40,
    )
)
def test_any_sequence_of_templates_and_table_sizes_is_understood(steps: list[tuple[str, int]]) -> None:
    """Evictions, entries larger than the table, tables that shrink and grow between blocks."""
    templates = [
        template(number, size) for number, size in enumerate((10, 200, 700, 1500, 3000, 3900, 4100, 0))
    ]
    encoder, decoder = TemplateEncoder(b"localhost"), Decoder()
    for step, value in steps:
        if step == "limit":
            encoder.limit_table(value)
            decoder.max_allowed_table_size = value
            continue
        chosen = templates[value]
        for block, token in zip(blocks(encoder, chosen, 3), tokens(3), strict=True):
            assert decoder.decode(block, raw=True) == expected(chosen, token)


def test_two_templates_in_turn_on_one_connection() -> None:
    referee = ready()
    first, second = template(1), template(2)
    written = []
    for chosen in (first, second, first, second, second, first):
        burst = burst_of(3, template=chosen)
        written.append((chosen, burst))
        referee.write_all(burst)
    requests = iter(referee.requests.values())
    for chosen, _ in written:
        for token in tokens(3):
            headers = next(requests).headers
            assert headers[3] == (b":path", b"/3/device/" + token)
            assert tuple(headers[4:]) == chosen.headers


def test_more_templates_than_the_table_holds() -> None:
    referee = ready()
    for round_number in range(3):
        for number in range(30):
            burst = burst_of(2, template=template(number))
            referee.write_all(burst)
            assert all(
                tuple(each.headers[4:]) == template(number).headers for each in referee.requests.values()
            ), (round_number, number)
            referee.answer_all()
            assert burst.done


def test_a_peer_without_a_table_and_one_that_changes_its_mind() -> None:
    referee = ready({TABLE: 0})
    for size in (0, 4096, 100, 0, 4096):
        referee.server.update_settings({TABLE: size})
        referee.exchange()
        for number in (1, 2):
            referee.write_all(burst_of(3, template=template(number)))
            requests = list(referee.requests.values())
            assert all(tuple(each.headers[4:]) == template(number).headers for each in requests)
            referee.answer_all()


def test_a_table_size_that_falls_and_rises_in_one_settings_frame_is_announced() -> None:
    """hpack's decoder would accept silence here; RFC 7541 section 4.2 does not."""
    core = Core(b"localhost", first_request_alone=False)
    core.receive(settings_frame(()))
    burst = burst_of(4)
    assert core.write(burst, 2, 0.0, 1.0) == 2
    core.output()
    core.receive(settings_frame([(TABLE, 0), (TABLE, 4096)]))
    core.output()
    assert core.write(burst, 1, 0.0, 1.0) == 1
    block = core.output()[9:]
    assert block.startswith(b"\x20" + b"\x3f\xe1\x1f")


def test_integers_of_the_specification() -> None:
    assert integer(10, 5) == b"\x0a"
    assert integer(1337, 5) == b"\x1f\x9a\x0a"
    assert integer(42, 8) == b"\x2a"


# Answers


def answer_block(encoder: Encoder, *fields: tuple[str, str]) -> bytes:
    return encoder.encode(fields)


def test_answers_are_stateless_from_the_size_update_on() -> None:
    encoder, decoder = Encoder(), ResponseDecoder(0)
    before = answer_block(encoder, (":status", "200"), ("apns-id", "before"))
    encoder.header_table_size = 0
    update = answer_block(encoder, (":status", "200"), ("apns-id", "update"))
    assert headers_of(decoder.decode(before)) == {"apns-id": "before"}
    states = [decoder.stateless]
    assert headers_of(decoder.decode(update)) == {"apns-id": "update"}
    states.append(decoder.stateless)
    assert states == [False, True]
    after = answer_block(encoder, (":status", "410"), ("apns-id", "after"))
    assert status_of(decoder.decode(after)) == 410


def test_a_table_that_was_given_up_must_not_be_used() -> None:
    encoder, decoder = Encoder(), ResponseDecoder(0)
    encoder.header_table_size = 0
    decoder.decode(answer_block(encoder, (":status", "200")))
    with pytest.raises(PeerViolation):
        decoder.decode(b"\xbe")
    with pytest.raises(PeerViolation):
        decoder.decode(b"\x3f\xe1\x1f\x88")


@pytest.mark.parametrize("announced", [0, 4096])
def test_a_peer_that_ignores_the_setting_is_decoded_with_its_table(announced: int) -> None:
    """Each block may refer to what the ones before it have put into the table, also those of streams that have ended."""
    core = Core(b"localhost", first_request_alone=False, header_table_size=announced)
    core.receive(settings_frame(()))
    burst = burst_of(60)
    assert core.write(burst, 60, 0.0, 1.0) == 60
    encoder = Encoder()
    core.expire(0.5)
    for index in range(60):
        status = ("200", "410", "200", "429")[index % 4]
        block = answer_block(encoder, (":status", status), ("apns-id", f"id-{index % 7}"), ("server", "x"))
        core.receive(frame(1, 5, 1 + 2 * index, block))
    assert [burst.codes[index] for index in range(4)] == [Code.OK, Code.ANSWERED, Code.OK, Code.ANSWERED]
    assert all(burst.answers[index].headers["apns-id"] == f"id-{index % 7}" for index in burst.answers)
    assert len(burst.answers) == 30


def test_stateful_answers_to_streams_that_ended_still_count() -> None:
    core = Core(b"localhost", first_request_alone=False, header_table_size=4096)
    core.receive(settings_frame(()))
    burst = burst_of(2)
    core.write(burst, 2, 0.0, 1.0)
    core.expire(1.0)
    assert core.in_flight == 0
    second = burst_of(1)
    core.write(second, 1, 2.0, 3.0)
    encoder = Encoder()
    core.receive(frame(1, 5, 1, answer_block(encoder, (":status", "410"), ("apns-id", "one"))))
    core.receive(frame(1, 5, 5, answer_block(encoder, (":status", "410"), ("apns-id", "one"))))
    assert second.answers[0].headers == {"apns-id": "one"}


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["date", "server", "apns-id", "x-long", "retry-after", "content-type"]),
            st.text("abc0123 -", max_size=150),
            st.booleans(),
        ),
        max_size=5,
    ),
    st.booleans(),
)
def test_a_block_that_stands_alone_leaves_hpacks_table_alone(
    fields: list[tuple[str, str, bool]], huffman: bool
) -> None:
    encoder = Encoder()
    block = encoder.encode([(":status", "200"), *fields], huffman=huffman)
    if stands_alone(block):
        decoder = Decoder()
        decoder.decode(block)
        assert not decoder.header_table.dynamic_entries
        assert not encoder.header_table.dynamic_entries
    elif all(sensitive and len(value) < 100 for _, value, sensitive in fields):
        pytest.fail("nothing in it touches the table")


@given(st.binary(max_size=40))
def test_a_damaged_block_never_stands_alone_unless_hpack_can_read_it(block: bytes) -> None:
    if stands_alone(block):
        decoder = Decoder()
        try:
            decoder.decode(block, raw=True)
        except Exception as error:  # noqa: BLE001 - Huffman padding is the one thing that is not looked at
            assert "uffman" in str(error) or "uffman" in type(error).__name__  # noqa: PT017
        assert not decoder.header_table.dynamic_entries


# Bad input


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"path_prefix": b"3/device", "headers": ()}, "template.path_prefix"),
        ({"path_prefix": b"/a b", "headers": ()}, "template.path_prefix"),
        ({"path_prefix": b"/", "headers": ((b"Apns-Topic", b"x"),)}, "template.headers"),
        ({"path_prefix": b"/", "headers": ((b":path", b"x"),)}, "template.headers"),
        ({"path_prefix": b"/", "headers": ((b"a", b"x\r\nb: c"),)}, "template.headers[a]"),
        ({"path_prefix": b"/", "headers": ((b"a", b" x"),)}, "template.headers[a]"),
        ({"path_prefix": b"/", "headers": (), "varying": (b"",)}, "template.headers"),
    ],
)
def test_templates_that_http2_cannot_carry(arguments: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        HeaderTemplate(**arguments)  # type: ignore[arg-type]
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"targets": tokens(2), "bodies": b""}, "targets"),
        ({"bodies": [b"x"]}, "bodies"),
        ({"targets": [b"ok", b"not ok", b"ok"], "bodies": b""}, "targets[1]"),
        ({"targets": [b"ok", b"ok", b"\xff"], "bodies": b""}, "targets[2]"),
        ({"bodies": b"", "values": [()]}, "values"),
    ],
)
def test_bursts_that_do_not_add_up(arguments: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Burst(APNS, 3, **arguments)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert "not ok" not in str(caught.value), "a target is a push token"


def test_varying_values_are_checked() -> None:
    varying = HeaderTemplate(b"/", (), varying=(b"apns-id",))
    with pytest.raises(InvalidRequest, match="values"):
        Burst(varying, 1, bodies=b"")
    with pytest.raises(InvalidRequest, match="rows of 1"):
        Burst(varying, 1, bodies=b"", values=[(b"a", b"b")])
    with pytest.raises(InvalidRequest) as caught:
        Burst(varying, 2, bodies=b"", values=[(b"a",), (b"a\n",)])
    assert caught.value.field == "values[apns-id][1]"


def test_no_credential_in_a_repr() -> None:
    assert "bearer" not in repr(APNS)
    assert "bearer" not in repr(burst_of(1))
    assert "bearer" not in repr(TemplateEncoder(b"localhost").encode(APNS, with_target=True))


def test_settings_frame_by_name() -> None:
    assert settings_of(HEADER_TABLE_SIZE=1) == settings_frame([(1, 1)])
