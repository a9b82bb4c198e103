"""Every request ends in exactly one final code, whatever the peer does and wherever the bytes are cut."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from pushq.http2.burst import Burst, Code
from pushq.http2.core import Core
from pushq.http2.errors import BurstMisused, PeerViolation
from pushq.http2.frames import ErrorCode, FrameType, frame, settings_frame
from pushq.http2.queue import BurstQueue
from pushq.http2.reasons import Reason
from tests.unit.http2_referee import APNS, Referee, burst_of, tokens

FINAL = {Code.OK, Code.ANSWERED, Code.NOT_SENT, Code.REFUSED, Code.UNKNOWN}
STREAMS, WINDOW = SettingCodes.MAX_CONCURRENT_STREAMS, SettingCodes.INITIAL_WINDOW_SIZE

#: What may happen next, with a number that says which or how much.
STEPS = st.tuples(
    st.sampled_from(
        [
            "write",
            "write",
            "answer",
            "answer",
            "refuse_request",
            "headers",
            "reset",
            "refuse",
            "limit",
            "window",
            "credit",
            "time",
            "cancel",
            "goaway",
            "garbage",
            "retire",
        ]
    ),
    st.integers(0, 200),
)


class Watch:
    """Looks that a final code never changes."""

    def __init__(self, bursts: list[Burst]) -> None:
        self.bursts = bursts
        self.seen = [bytes(burst.codes) for burst in bursts]

    def look(self) -> None:
        for number, burst in enumerate(self.bursts):
            for before, now in zip(self.seen[number], burst.codes, strict=True):
                assert before == now or Code(before) not in FINAL, (before, now)
                assert not (before == Code.IN_FLIGHT and now == Code.QUEUED)
            self.seen[number] = bytes(burst.codes)
            left = sum(Code(code) not in FINAL for code in burst.codes)
            assert burst.done == (left == 0) or burst._remaining >= left


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(STEPS, max_size=40),
    limit=st.sampled_from([1, 5, 100]),
    window=st.sampled_from([0, 7, 65_535]),
)
def test_every_request_ends_exactly_once(steps: list[tuple[str, int]], limit: int, window: int) -> None:
    bursts = [
        burst_of(30),
        Burst(APNS, 20, targets=tokens(20), bodies=[b"x" * (number * 11) for number in range(20)]),
        burst_of(10, body=b"y" * 20_000),
    ]
    queue = BurstQueue(1000)
    for number, burst in enumerate(bursts):
        burst.attach(_Flag(), queue.withdraw)
        queue.add(burst, float(number))
    referee = Referee(Core(b"localhost"), {STREAMS: limit, WINDOW: window})
    core, watch, now, alive = referee.core, Watch(bursts), 0.0, True
    for step, number in steps:
        now += 0.1
        # h2 knows nothing any more of a stream that we have reset.
        open_ids = [each for each in referee.requests if each not in referee.resets]
        chosen = open_ids[number % len(open_ids)] if open_ids else None
        if not alive and step != "cancel":
            continue
        # h2 refuses to do what the state forbids, such as a second answer; that is not the point here.
        with contextlib.suppress(ProtocolError):
            try:
                if step == "write":
                    queue.feed(writer(core, now), number)
                    referee.exchange()
                elif (
                    step in ("answer", "headers", "refuse_request", "reset", "refuse") and chosen is not None
                ):
                    _act(referee, step, chosen)
                elif step == "limit":
                    referee.server.update_settings({STREAMS: number % 12})
                elif step == "window":
                    referee.server.update_settings({WINDOW: number * 5})
                elif step == "credit" and chosen is not None:
                    referee.server.increment_flow_control_window(number + 1, chosen)
                elif step == "time":
                    now += number / 100
                    core.expire(now)
                elif step == "cancel":
                    bursts[number % 3].cancel()
                elif step == "goaway":
                    payload = (number * 2 + 1).to_bytes(4, "big") + b"\0\0\0\0"
                    core.receive(frame(FrameType.GOAWAY, 0, 0, payload))
                elif step == "garbage" and number > 190:
                    core.receive(bytes((number,)) * 40)
                elif step == "retire" and number > 190:
                    core.retire()
                referee.exchange()
            except PeerViolation:
                alive = False
                core.abandon(Reason.PROTOCOL_VIOLATION)
        watch.look()
    core.abandon(Reason.CONNECTION_LOST)
    queue.clear(Reason.POOL_CLOSED)
    watch.look()
    assert queue.waiting == 0
    assert core.in_flight == 0
    for burst in bursts:
        assert burst.done
        assert burst._remaining == 0
        assert set(map(Code, burst.codes)) <= FINAL
        without_answer = {index for index, code in enumerate(burst.codes) if code > Code.ANSWERED}
        assert set(burst.reasons) == without_answer
        assert set(burst.answers) == {
            index for index, code in enumerate(burst.codes) if code == Code.ANSWERED
        }


def writer(core: Core, now: float) -> Callable[[Burst, int], int]:
    return lambda burst, most: core.write(burst, most, now, now + 1.0)


def _act(referee: Referee, step: str, stream_id: int) -> None:
    server = referee.server
    if step == "headers":
        server.send_headers(stream_id, [(":status", "200" if stream_id % 4 == 1 else "503")])
        return
    if step == "answer":
        referee.answer(stream_id)
    elif step == "refuse_request":
        referee.answer(stream_id, 410, (("apns-id", str(stream_id)),), b'{"reason":"Unregistered"}')
    else:
        server.reset_stream(stream_id, ErrorCode.REFUSED_STREAM if step == "refuse" else ErrorCode.CANCEL)
    # Not before: where h2 refuses it, the stream and what the request still writes go on.
    del referee.requests[stream_id]


class _Flag:
    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        assert not self.is_set, "a burst is done once"
        self.is_set = True

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set


@settings(max_examples=400, deadline=None)
@given(
    frames=st.lists(
        st.tuples(
            st.integers(0, 10),
            st.integers(0, 255),
            st.sampled_from([0, 1, 2, 3, 5, 7, 101, 2**31 + 1]),
            st.one_of(
                st.binary(max_size=30),
                st.sampled_from([b"\x88", b"\x20\x88", b"\x8c", b"\0\0\0\1", b"\0\0\0\5\0\0\0\0"]),
            ),
        ),
        max_size=25,
    ),
    piece=st.integers(1, 400),
    announced=st.sampled_from([0, 4096]),
)
def test_no_bytes_make_it_fail_in_any_other_way_than_by_name(
    frames: list[tuple[int, int, int, bytes]], piece: int, announced: int
) -> None:
    core = Core(b"localhost", first_request_alone=False, header_table_size=announced)
    core.receive(settings_frame([(STREAMS, 100)]))
    burst = burst_of(4)
    core.write(burst, 4, 0.0, 1.0)
    data = b"".join(frame(kind, flags, stream_id, payload) for kind, flags, stream_id, payload in frames)
    try:
        for start in range(0, len(data), piece):
            core.receive(data[start : start + piece])
    except PeerViolation as caught:
        violation: PeerViolation | None = caught
    else:
        violation = None
    if violation is not None:
        assert violation.code in set(ErrorCode)
        assert core.draining
    core.abandon(Reason.CONNECTION_LOST)
    assert burst.done
    assert set(map(Code, burst.codes)) <= FINAL


# Bursts


def test_cancel_takes_back_what_was_not_written() -> None:
    queue = BurstQueue(100)
    burst = burst_of(5)
    flag = _Flag()
    burst.attach(flag, queue.withdraw)
    queue.add(burst, 0.0)
    core = Core(b"localhost", first_request_alone=False)
    core.receive(settings_frame(()))
    assert queue.feed(lambda each, most: core.write(each, most, 0.0, 1.0), 2) == 2
    burst.cancel("paused")
    assert queue.waiting == 0
    assert list(burst.codes) == [Code.IN_FLIGHT] * 2 + [Code.NOT_SENT] * 3
    assert burst.reasons == {2: "paused", 3: "paused", 4: "paused"}
    assert not burst.done
    burst.cancel("again")
    assert burst.reasons[2] == "paused"
    core.abandon(Reason.CONNECTION_LOST)
    assert flag.is_set


def test_a_burst_is_submitted_once_and_waited_for_after_that() -> None:
    burst = burst_of(1)
    with pytest.raises(BurstMisused):
        burst.wait(0.1)
    burst.attach(_Flag(), lambda count: None)
    with pytest.raises(BurstMisused):
        burst.attach(_Flag(), lambda count: None)


def test_an_empty_burst_is_done() -> None:
    burst = Burst(APNS, 0, targets=[], bodies=b"")
    flag = _Flag()
    burst.attach(flag, lambda count: None)
    assert burst.done
    assert flag.is_set
    assert burst.wait(0)


# The queue


def test_the_queue_is_first_come_first_served_across_bursts() -> None:
    queue = BurstQueue(10)
    bursts = [burst_of(count) for count in (2, 3, 4)]
    for burst in bursts:
        queue.add(burst, 0.0)
    taken: list[tuple[int, int]] = []

    def take(burst: Burst, most: int) -> int:
        taken.append((bursts.index(burst), most))
        burst.cursor += most
        return most

    assert queue.feed(take, 4) == 4
    assert queue.feed(take, 100) == 5
    assert queue.feed(take, 100) == 0
    assert taken == [(0, 2), (1, 2), (1, 1), (2, 4)]
    assert queue.waiting == 0


def test_a_burst_larger_than_the_queue_gets_in_when_it_is_empty() -> None:
    queue = BurstQueue(10)
    assert queue.has_room(11)
    queue.add(burst_of(1), 0.0)
    assert not queue.has_room(10)
    assert queue.has_room(9)


def test_bursts_that_waited_too_long_are_not_sent() -> None:
    queue = BurstQueue(100)
    early, late = burst_of(2), burst_of(3)
    for burst, at in ((early, 1.0), (late, 2.0)):
        burst.attach(_Flag(), queue.withdraw)
        queue.add(burst, at)
    assert queue.expire(1.0, "dns") == 0
    assert queue.expire(1.5, "dns") == 2
    assert set(early.reasons.values()) == {"dns"}
    assert early.done
    assert not late.done
    assert queue.waiting == 3
