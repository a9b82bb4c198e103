"""How long answers took, told in bulk by the core."""

from __future__ import annotations

from pushq.http2.frames import FrameType, frame
from pushq.http2.reasons import Reason
from tests.unit.http2_referee import Referee, burst_of, ready


def test_answers_are_told_once_with_the_time_of_their_writing() -> None:
    referee = warm()
    core = referee.core
    referee.write(burst_of(3), now=10.0)
    referee.write(burst_of(2), now=20.0)
    assert core.waited() == []
    referee.answer(first(referee), 200)
    assert core.waited() == [(10.0, 1)]
    assert core.waited() == []
    for stream_id in sorted(referee.core._streams):
        referee.answer(stream_id, 200)
    assert sorted(core.waited()) == [(10.0, 2), (20.0, 2)]
    assert core.waited() == []


def test_refusals_are_answers() -> None:
    referee = warm()
    referee.write(burst_of(1), now=10.0)
    referee.answer(first(referee), 410, body=b'{"reason":"Unregistered"}')
    assert referee.core.waited() == [(10.0, 1)]


def test_requests_without_an_answer_have_no_time() -> None:
    referee = warm()
    core = referee.core
    referee.write(burst_of(4), now=10.0)
    one = first(referee)
    referee.answer(one, 200)
    referee.inject(frame(FrameType.RST_STREAM, 0, one + 2, b"\0\0\0\2"))
    core.abandon(Reason.CONNECTION_LOST)
    assert core.waited() == [(10.0, 1)]


def warm() -> Referee:
    """Its first answer, which connections wait for, is told already."""
    referee = ready()
    assert referee.core.waited() == [(0.0, 1)]
    return referee


def first(referee: Referee) -> int:
    """The oldest open stream."""
    return min(referee.core._streams)
