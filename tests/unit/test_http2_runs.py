"""Answers taken by the thousand mean the same as answers taken one by one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushq.http2 import runs
from pushq.http2.burst import Burst, Code
from pushq.http2.core import Core
from pushq.http2.errors import PeerViolation
from pushq.http2.frames import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    ErrorCode,
    FrameType,
    frame,
    rst_stream,
    settings_frame,
    window_update,
)
from pushq.http2.reasons import Reason
from tests.unit.http2_referee import burst_of

COMPLETE = END_HEADERS | END_STREAM
BLOCK = b"\x88\x00\x07apns-id\x24" + b"0" * 36
ERROR = b"\x08\x03410"  # :status 410, not indexed


def headers(stream_id: int, block: bytes = BLOCK, flags: int = COMPLETE) -> bytes:
    return frame(FrameType.HEADERS, flags, stream_id, block)


def answer(stream_id: int) -> bytes:
    return headers(stream_id)


def answer_and_reset(stream_id: int) -> bytes:
    return headers(stream_id) + rst_stream(stream_id, ErrorCode.NO_ERROR)


def answer_and_data(stream_id: int, body: bytes = b'{"name":"m"}') -> bytes:
    return headers(stream_id, flags=END_HEADERS) + frame(FrameType.DATA, END_STREAM, stream_id, body)


def sent(count: int) -> tuple[Core, Burst]:
    """A core with ``count`` requests in flight on streams 3, 5, ..., whose peer keeps no header table any more."""
    core = Core(b"localhost", first_request_alone=False, max_streams=count + 1)
    core.receive(settings_frame(()))
    first = burst_of(1)
    assert core.write(first, 1, 0.0, 60.0) == 1
    core.receive(headers(1, b"\x20" + BLOCK))
    burst = burst_of(count)
    # Several chunks, so that a run goes over their borders.
    while core.write(burst, 40, 0.0, 60.0):
        pass
    core.output()
    assert core.in_flight == count
    return core, burst


@pytest.mark.parametrize("shape", [answer, answer_and_reset, answer_and_data])
def test_a_run_is_recognized_whole(shape: Callable[[int], bytes]) -> None:
    data = b"".join(shape(stream) for stream in range(3, 403, 2))
    run = runs.answers(data, 0, 1000)
    assert run is not None
    assert run.stream_ids == tuple(range(3, 403, 2))
    assert run.stop == len(data)
    assert run.data_size == (200 * 12 if shape is answer_and_data else 0)


def test_a_run_has_at_most_the_rows_asked_for() -> None:
    run = runs.answers(b"".join(map(answer, range(1, 201, 2))), 0, 30)
    assert run is not None
    assert (run.stream_ids, run.stop) == (tuple(range(1, 61, 2)), 30 * len(answer(1)))


def test_a_run_ends_before_the_first_row_that_differs() -> None:
    alike = b"".join(map(answer, range(1, 41, 2)))
    for other in (
        headers(41, BLOCK[:-1]),
        headers(41, b"\x89" + BLOCK[1:]),
        headers(41, flags=COMPLETE | PADDED),
        headers(41, flags=END_HEADERS),
        frame(FrameType.PING, 0, 0, b"x" * len(BLOCK)),
    ):
        run = runs.answers(alike + other + alike, 0, 1000)
        assert run is not None
        assert (run.stream_ids, run.stop) == (tuple(range(1, 41, 2)), len(alike))


@pytest.mark.parametrize(
    "first",
    [
        headers(1, ERROR),
        headers(1, flags=END_STREAM),
        headers(1, flags=COMPLETE | PADDED),
        headers(1, flags=END_HEADERS),
        headers(1, flags=END_HEADERS) + frame(FrameType.DATA, 0, 1, b"part"),
        headers(1, flags=END_HEADERS) + frame(FrameType.DATA, END_STREAM | PADDED, 1, b"\x00part"),
        headers(1, flags=END_HEADERS) + rst_stream(1, ErrorCode.CANCEL),
        headers(1, b""),
        frame(FrameType.DATA, END_STREAM, 1, BLOCK),
        b"",
    ],
)
def test_other_frames_begin_no_run(first: bytes) -> None:
    assert runs.answers(first * 40, 0, 1000) is None


def test_data_of_another_stream_makes_no_run() -> None:
    pair = headers(1, flags=END_HEADERS) + frame(FrameType.DATA, END_STREAM, 3, b'{"name":"m"}')
    assert runs.answers(answer_and_data(1) * 40, 0, 1000) is not None
    assert runs.answers(pair * 40, 0, 1000) is None
    assert runs.answers(answer_and_data(1) * 30 + pair, 0, 1000) is None


def test_few_answers_are_no_run() -> None:
    alike = b"".join(map(answer, range(1, 2 * runs.FEWEST_ROWS + 1, 2)))
    assert runs.answers(alike, 0, 1000) is not None
    assert runs.answers(alike[:-1], 0, 1000) is None


@pytest.mark.parametrize("shape", [answer, answer_and_reset, answer_and_data])
def test_every_request_of_a_run_ends_ok(shape: Callable[[int], bytes]) -> None:
    core, burst = sent(500)
    core.receive(b"".join(shape(stream) for stream in range(3, 1003, 2)))
    assert burst.codes == bytes((Code.OK,)) * 500
    assert burst.done
    assert core.in_flight == 0
    assert core.answered == 501
    assert core.oldest_written_at is None


def test_a_stream_answered_twice_in_a_run_ends_once() -> None:
    core, burst = sent(100)
    core.receive(b"".join(map(answer, [*range(3, 43, 2), 3, 5, *range(43, 83, 2)])))
    assert burst.codes.count(Code.OK) == 40
    assert core.in_flight == 60
    assert core.answered == 41


def test_a_run_on_streams_that_were_never_opened_is_a_violation() -> None:
    core, burst = sent(10)
    with pytest.raises(PeerViolation, match="not opened"):
        core.receive(b"".join(map(answer, range(3, 43, 2))))
    assert burst.codes.count(Code.OK) == 10


def test_a_second_answer_on_streams_that_are_being_answered_is_malformed() -> None:
    core, burst = sent(100)
    core.receive(b"".join(headers(stream, flags=END_HEADERS) for stream in range(3, 203, 2)))
    core.receive(b"".join(map(answer, range(3, 203, 2))))
    assert set(burst.reasons.values()) == {Reason.MALFORMED_ANSWER}
    assert burst.codes == bytes((Code.UNKNOWN,)) * 100


def test_the_data_of_a_run_goes_back_into_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    core, _ = sent(200)
    monkeypatch.setattr("pushq.http2.core.CONNECTION_WINDOW", 2 * 200 * 12)
    core.receive(b"".join(map(answer_and_data, range(3, 403, 2))))
    assert core.output() == window_update(0, 200 * 12)


def test_late_answers_among_a_run_are_ignored() -> None:
    core, burst = sent(100)
    core.receive(rst_stream(9, ErrorCode.CANCEL))
    core.receive(b"".join(map(answer, range(3, 203, 2))))
    assert burst.codes.count(Code.OK) == 99
    assert burst.codes[3] == Code.UNKNOWN
    assert burst.done


SHAPES: dict[str, Callable[[int], bytes]] = {
    "answer": answer,
    "longer": lambda stream: headers(stream, BLOCK + b"\x00\x01a\x01b"),
    "reset": answer_and_reset,
    "data": answer_and_data,
    "more data": lambda stream: answer_and_data(stream, b"{}" * 40),
    "headers only": lambda stream: headers(stream, flags=END_HEADERS),
    "data only": lambda stream: frame(FrameType.DATA, END_STREAM, stream, b"end"),
    "error": lambda stream: headers(stream, ERROR),
    "refused": lambda stream: rst_stream(stream, ErrorCode.REFUSED_STREAM),
    "padded": lambda stream: headers(stream, b"\x00" + BLOCK, COMPLETE | PADDED),
    "ping": lambda _: frame(FrameType.PING, 0, 0, b"12345678"),
}
STREAMS = 120


@settings(max_examples=150, deadline=None)
@given(
    groups=st.lists(
        st.tuples(st.sampled_from(sorted(SHAPES)), st.integers(1, 60), st.sampled_from((-2, 2, 4))),
        max_size=8,
    ),
    data=st.data(),
)
def test_with_and_without_runs_everything_ends_the_same(
    groups: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    octets = bytearray()
    for name, count, step in groups:
        stream = 2 * data.draw(st.integers(1, STREAMS)) + 1
        for _ in range(count):
            if not 3 <= stream < 3 + 2 * STREAMS:
                break
            octets += SHAPES[name](stream)
            stream += step
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=4)))
    pieces = [bytes(octets[a:b]) for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]

    by_run, one_by_one = sent(STREAMS), sent(STREAMS)
    found = [feed(*by_run, pieces)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "answers", lambda *_: None)
        found.append(feed(*one_by_one, pieces))
    assert found[0] == found[1]


def feed(core: Core, burst: Burst, pieces: list[bytes]) -> tuple[object, ...]:
    violation = ""
    try:
        for piece in pieces:
            core.receive(piece)
    except PeerViolation as error:
        violation = str(error)
    state = violation, bytes(burst.codes), burst.answers, burst.reasons, core.in_flight, core.output()
    core.abandon("test")
    assert burst.done
    return state
