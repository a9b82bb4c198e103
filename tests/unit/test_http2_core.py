"""The connection's edges, byte by byte, with h2 as the server."""

from __future__ import annotations

import gc
import weakref

import pytest
from h2.events import ConnectionTerminated, PingReceived
from h2.settings import SettingCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    WindowUpdateFrame,
)

from pushq.http2.burst import Answer, Burst, Code
from pushq.http2.core import BODY_KEPT, BODY_READ, Core
from pushq.http2.errors import PeerViolation
from pushq.http2.events import GoAwayReceived
from pushq.http2.frames import ErrorCode, FrameType, frame, settings_frame
from pushq.http2.reasons import Reason
from pushq.http2.templates import HeaderTemplate
from tests.unit.http2_referee import APNS, Referee, burst_of, ready, settings_of, tokens

STREAMS = SettingCodes.MAX_CONCURRENT_STREAMS
WINDOW = SettingCodes.INITIAL_WINDOW_SIZE


def codes(burst: Burst) -> list[Code]:
    return [Code(code) for code in burst.codes]


# Start


def test_nothing_is_written_before_the_servers_settings() -> None:
    core = Core(b"localhost")
    burst = burst_of(3)
    assert core.write(burst, 3, 0.0, 1.0) == 0
    assert codes(burst) == [Code.QUEUED] * 3


def test_the_first_request_goes_alone_until_it_is_answered() -> None:
    referee = Referee(Core(b"localhost"))
    burst = burst_of(10)
    assert referee.write(burst) == 1
    assert referee.write(burst) == 0
    referee.answer(1, 400, body=b'{"reason":"BadDeviceToken"}')
    assert referee.write(burst) == 9


def test_without_that_rule_all_go_at_once() -> None:
    referee = Referee(Core(b"localhost", first_request_alone=False))
    assert referee.write(burst_of(10)) == 10


def test_a_first_frame_that_is_not_settings_is_a_violation() -> None:
    core = Core(b"localhost")
    with pytest.raises(PeerViolation, match="not SETTINGS"):
        core.receive(frame(FrameType.PING, 0, 0, b"12345678"))
    with pytest.raises(PeerViolation, match="not SETTINGS"):
        Core(b"localhost").receive(frame(FrameType.SETTINGS, 1, 0))


def test_our_preface_asks_for_stateless_answers_and_no_push() -> None:
    referee = Referee(Core(b"localhost"))
    assert referee.server.remote_settings.header_table_size == 0
    assert referee.server.remote_settings.enable_push == 0
    assert referee.server.remote_settings.initial_window_size == 1 << 20
    assert referee.server.outbound_flow_control_window == 1 << 30


# Requests as the server sees them


def test_requests_arrive_as_they_were_given() -> None:
    referee = ready()
    burst = burst_of(300, body=b'{"aps":{"alert":"hi"}}')
    referee.write_all(burst)
    assert len(referee.requests) == 300
    for request, token in zip(referee.requests.values(), tokens(300), strict=True):
        assert request.complete
        assert request.body == b'{"aps":{"alert":"hi"}}'
        assert request.headers == [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", b"localhost:8443"),
            (b":path", b"/3/device/" + token),
            *APNS.headers,
        ]
    referee.answer_all()
    assert codes(burst) == [Code.OK] * 300
    assert burst.done


def test_bodies_of_their_own_on_one_path() -> None:
    template = HeaderTemplate(b"/v1/projects/p/messages:send", ((b"content-type", b"application/json"),))
    referee = ready()
    bodies = [b"x" * (1 + number * 7 % 50) for number in range(200)]
    burst = Burst(template, 200, bodies=bodies)
    referee.write_all(burst)
    assert [bytes(request.body) for request in referee.requests.values()] == bodies
    assert {request.path for request in referee.requests.values()} == {b"/v1/projects/p/messages:send"}


def test_varying_headers_and_targets_of_unequal_length() -> None:
    template = HeaderTemplate(b"/d/", ((b"apns-topic", b"t"),), varying=(b"apns-id", b"apns-collapse-id"))
    referee = ready()
    targets = [b"a" * (1 + number % 130) for number in range(100)]
    values = [(b"i" * (number % 40), b"c" * (number % 200)) for number in range(100)]
    burst = Burst(template, 100, targets=targets, bodies=b"{}", values=values)
    referee.write_all(burst)
    for request, target, (first, second) in zip(referee.requests.values(), targets, values, strict=True):
        assert request.headers[3:] == [
            (b":path", b"/d/" + target),
            (b"apns-topic", b"t"),
            (b"apns-id", first),
            (b"apns-collapse-id", second),
        ]


def test_equal_lengths_beside_unequal_ones() -> None:
    template = HeaderTemplate(b"/d/", (), varying=(b"a", b"b"))
    referee = ready()
    values = [(b"x" * (number % 5), b"same") for number in range(50)]
    burst = Burst(template, 50, targets=tokens(50), bodies=b"{}", values=values)
    referee.write_all(burst)
    assert [tuple(value for _, value in each.headers[4:]) for each in referee.requests.values()] == values


def test_an_empty_body_ends_the_stream_with_its_headers() -> None:
    referee = ready()
    burst = Burst(APNS, 3, targets=tokens(3), bodies=[b"a", b"", b"c"])
    referee.write_all(burst)
    assert [bytes(each.body) for each in referee.requests.values()] == [b"a", b"", b"c"]
    assert all(each.complete for each in referee.requests.values())


def test_a_body_larger_than_a_frame_is_split() -> None:
    referee = ready()
    burst = Burst(APNS, 2, targets=tokens(2), bodies=[b"x" * 40_000, b"y"])
    referee.write_all(burst)
    assert [len(each.body) for each in referee.requests.values()] == [40_000, 1]


def test_a_header_block_larger_than_a_frame_is_continued() -> None:
    template = HeaderTemplate(b"/", ((b"long", b"v" * 40_000), (b"short", b"s")))
    referee = ready()
    burst = Burst(template, 3, targets=tokens(3), bodies=b"{}")
    referee.write_all(burst)
    assert all(dict(each.headers)[b"long"] == b"v" * 40_000 for each in referee.requests.values())
    assert len(referee.requests) == 3


# Stream limit


def test_the_stream_limit_is_kept_with_a_margin() -> None:
    referee = ready({STREAMS: 100})
    burst = burst_of(200)
    assert referee.write(burst) == 90
    assert referee.write(burst) == 0
    referee.answer_all()
    assert referee.write(burst) == 90


def test_limit_one_then_many() -> None:
    referee = Referee(Core(b"localhost"), {STREAMS: 1})
    burst = burst_of(50)
    assert referee.write(burst) == 1
    referee.server.update_settings({STREAMS: 100})
    referee.exchange()
    assert referee.write(burst) == 0, "the first answer is still awaited"
    referee.answer(1)
    assert referee.write(burst) == 49


def test_a_limit_lowered_in_flight_stops_new_streams_and_cancels_none() -> None:
    referee = ready({STREAMS: 100})
    burst = burst_of(120)
    assert referee.write(burst) == 90
    referee.server.update_settings({STREAMS: 1})
    referee.exchange()
    assert referee.core.capacity == 0
    for _ in range(89):
        stream_id = next(iter(referee.requests))
        referee.answer(stream_id)
        del referee.requests[stream_id]
        assert referee.write(burst) == 0
    referee.answer_all()
    assert referee.write(burst) == 1
    assert referee.resets == {}


def test_limit_zero_lets_nothing_out() -> None:
    referee = ready({STREAMS: 100})
    referee.server.update_settings({STREAMS: 0})
    referee.exchange()
    assert referee.write(burst_of(1)) == 0


def test_no_limit_named_means_our_own() -> None:
    core = Core(b"localhost", max_streams=7, first_request_alone=False)
    core.receive(settings_frame(()))
    assert core.write(burst_of(20), 20, 0.0, 1.0) == 7


# Flow control


def test_the_connection_window_holds_requests_back_without_a_stream() -> None:
    referee = ready()
    referee.consumes = False
    burst = burst_of(20, body=b"x" * 4096)
    assert referee.write(burst) == 15  # 15 * 4096 = 61,440 of 65,535, less the first request
    assert referee.write(burst) == 0
    assert len(referee.requests) == 15
    referee.server.increment_flow_control_window(4096)
    referee.exchange()
    assert referee.write(burst) == 1


def test_bodies_of_unequal_size_fill_the_connection_window() -> None:
    referee = ready()
    referee.consumes = False
    bodies = [b"x" * size for size in (30_000, 30_000, 10_000, 1)]
    burst = Burst(APNS, 4, targets=tokens(4), bodies=bodies)
    assert referee.write(burst) == 1  # larger than a frame: one at a time
    assert referee.write(burst) == 1
    assert referee.write(burst) == 0
    referee.server.increment_flow_control_window(20_000)
    referee.exchange()
    referee.write_all(burst)
    assert [len(each.body) for each in referee.requests.values()] == [30_000, 30_000, 10_000, 1]


def test_a_stream_window_smaller_than_the_body_is_filled_as_it_opens() -> None:
    referee = ready({WINDOW: 100})
    referee.consumes = False
    burst = Burst(APNS, 1, targets=tokens(1), bodies=b"x" * 250)
    assert referee.write(burst) == 1
    (request,) = referee.requests.values()
    assert (len(request.body), request.complete) == (100, False)
    referee.server.increment_flow_control_window(120, request.stream_id)
    referee.exchange()
    assert (len(request.body), request.complete) == (220, False)
    referee.server.increment_flow_control_window(120, request.stream_id)
    referee.exchange()
    assert (len(request.body), request.complete) == (250, True)
    referee.answer(request.stream_id)
    assert codes(burst) == [Code.OK]


def test_initial_window_zero_then_larger() -> None:
    referee = ready()
    referee.server.update_settings({WINDOW: 0})
    referee.exchange()
    burst = Burst(APNS, 2, targets=tokens(2), bodies=b"x" * 50)
    referee.write_all(burst)
    assert [len(each.body) for each in referee.requests.values()] == [0, 0]
    referee.server.update_settings({WINDOW: 1000})
    referee.exchange()
    assert [len(each.body) for each in referee.requests.values()] == [50, 50]
    assert all(each.complete for each in referee.requests.values())


def test_a_stream_window_made_negative_needs_to_be_positive_again() -> None:
    referee = ready({WINDOW: 100})
    referee.consumes = False
    burst = Burst(APNS, 1, targets=tokens(1), bodies=b"x" * 150)
    referee.write(burst)
    (request,) = referee.requests.values()
    assert len(request.body) == 100
    referee.server.update_settings({WINDOW: 40})  # the stream's window is -60 now
    referee.exchange()
    referee.server.increment_flow_control_window(60, request.stream_id)
    referee.exchange()
    assert len(request.body) == 100
    referee.server.increment_flow_control_window(50, request.stream_id)
    referee.exchange()
    assert (len(request.body), request.complete) == (150, True)


def test_a_body_that_no_window_can_ever_hold_goes_when_nothing_else_is_in_flight() -> None:
    referee = ready({WINDOW: 1 << 20})
    burst = Burst(APNS, 2, targets=tokens(2), bodies=[b"small", b"x" * 200_000])
    assert referee.write(burst) == 1
    assert referee.write(burst) == 0, "it waits for others that may open the window"
    referee.answer_all()
    assert referee.write(burst) == 1
    (request,) = referee.requests.values()
    assert (len(request.body), request.complete) == (200_000, True)


def test_an_answer_before_the_request_is_complete_ends_it() -> None:
    referee = ready({WINDOW: 10})
    referee.consumes = False
    burst = Burst(APNS, 1, targets=tokens(1), bodies=b"x" * 50)
    referee.write(burst)
    (stream_id,) = referee.requests
    referee.answer(stream_id, 413)
    assert codes(burst) == [Code.ANSWERED]
    assert referee.resets == {stream_id: ErrorCode.CANCEL}
    assert referee.core.in_flight == 0


@pytest.mark.parametrize(
    ("increment", "code"),
    [(0, ErrorCode.PROTOCOL_ERROR), (2**31 - 1, ErrorCode.FLOW_CONTROL_ERROR)],
)
def test_a_wrong_window_update_for_the_connection_ends_it(increment: int, code: ErrorCode) -> None:
    referee = ready()
    update = WindowUpdateFrame(0)
    update.window_increment = increment
    with pytest.raises(PeerViolation) as caught:
        referee.core.receive(update.serialize())
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("increment", "code"),
    [(0, ErrorCode.PROTOCOL_ERROR), (2**31 - 1, ErrorCode.FLOW_CONTROL_ERROR)],
)
def test_a_wrong_window_update_for_a_stream_ends_that_stream(increment: int, code: ErrorCode) -> None:
    referee = ready({WINDOW: 1 << 20})
    referee.consumes = False
    burst = Burst(APNS, 1, targets=tokens(1), bodies=b"x" * 100_000)
    referee.write(burst)
    (stream_id,) = referee.requests
    assert referee.core.window == 0, "the stream's own window is still open"
    update = WindowUpdateFrame(stream_id)
    update.window_increment = increment
    referee.inject(update.serialize())
    assert codes(burst) == [Code.UNKNOWN]
    assert referee.resets == {stream_id: code}


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("opens", ["stream", "connection", "settings"])
def test_no_body_goes_on_after_the_answer_in_the_same_read(opens: str, reset: bool) -> None:
    """After an RST_STREAM not even a reset of ours."""
    referee = ready({WINDOW: 10})
    referee.consumes = False
    burst = burst_of(1, body=b"x" * 50)
    referee.write(burst)
    stream_id = max(referee.requests)
    data = HeadersFrame(stream_id, b"\x88", flags=["END_HEADERS", "END_STREAM"]).serialize()
    if reset:
        data += RstStreamFrame(stream_id, error_code=0).serialize()
    if opens == "settings":
        data += settings_of(INITIAL_WINDOW_SIZE=1000)
    else:
        data += WindowUpdateFrame(stream_id if opens == "stream" else 0, window_increment=1000).serialize()
    referee.core.receive(data)
    assert codes(burst) == [Code.OK]
    cancel = RstStreamFrame(stream_id, error_code=ErrorCode.CANCEL).serialize()
    acknowledgement = frame(FrameType.SETTINGS, 1, 0) if opens == "settings" else b""
    assert referee.core.output() == (b"" if reset else cancel) + acknowledgement


def test_no_body_is_kept_after_an_answer_and_a_violation_in_one_read() -> None:
    """Found by the random peers, seed 3030386511."""
    referee = ready({WINDOW: 10})
    referee.consumes = False
    burst = burst_of(1, body=b"x" * 50)
    referee.write(burst)
    answer = HeadersFrame(max(referee.requests), b"\x88", flags=["END_HEADERS", "END_STREAM"]).serialize()
    with pytest.raises(PeerViolation):
        referee.core.receive(answer + b"\xff" * 9)
    referee.core.abandon(Reason.PROTOCOL_VIOLATION)
    assert codes(burst) == [Code.OK]
    assert referee.core.answered == 2, "the one that opened the connection, and this one"
    assert not referee.core._out.partial


def test_what_we_receive_is_acknowledged_before_the_window_is_used_up() -> None:
    referee = ready()
    before = referee.server.outbound_flow_control_window
    body = b"x" * 16_000
    data = DataFrame(1, body).serialize()  # for a stream that has ended: counted all the same
    for _ in range((1 << 29) // len(body) // 64 + 1):
        referee.core.receive(data * 64)
    assert referee.core.has_output
    referee.exchange()
    assert referee.server.outbound_flow_control_window > before


# Answers


def test_an_answer_other_than_200_is_kept() -> None:
    referee = ready()
    burst = burst_of(3)
    referee.write_all(burst)
    first, second, third = referee.requests
    referee.answer(second, 410, (("apns-id", "abc"),), b'{"reason":"Unregistered"}')
    referee.answer(first)
    referee.answer(third, 429, (("retry-after", "7"), ("x", "1"), ("x", "2")))
    assert codes(burst) == [Code.OK, Code.ANSWERED, Code.ANSWERED]
    assert burst.answers == {
        1: Answer(410, {"apns-id": "abc"}, b'{"reason":"Unregistered"}'),
        2: Answer(429, {"retry-after": "7", "x": "1, 2"}, b""),
    }
    assert list(burst.answers.values()) == referee.events[-2:]


def test_answers_with_a_body_in_pieces_and_interleaved() -> None:
    referee = ready()
    burst = burst_of(2)
    referee.write_all(burst)
    first, second = referee.requests
    server = referee.server
    server.send_headers(first, [(":status", "200")])
    server.send_headers(second, [(":status", "404")])
    server.send_data(second, b"not ")
    server.send_data(first, b'{"name":')
    server.send_data(second, b"found", end_stream=True)
    referee.exchange()
    assert codes(burst) == [Code.IN_FLIGHT, Code.ANSWERED]
    server.send_data(first, b'"x"}', end_stream=True)
    referee.exchange()
    assert codes(burst) == [Code.OK, Code.ANSWERED]
    assert burst.answers[1].body == b"not found"


def test_padding_is_not_part_of_the_body() -> None:
    referee = ready()
    burst = burst_of(2)
    referee.write_all(burst)
    first, second = referee.requests
    referee.server.send_headers(first, [(":status", "500")])
    referee.server.send_data(first, b"oops", end_stream=True, pad_length=200)
    referee.exchange()
    assert burst.answers[0].body == b"oops"
    padded = HeadersFrame(second, b"\x88", flags=["END_HEADERS", "END_STREAM", "PADDED", "PRIORITY"])
    padded.pad_length = 30
    referee.core.receive(padded.serialize())
    assert codes(burst) == [Code.ANSWERED, Code.OK]


def test_headers_in_continuations() -> None:
    referee = ready()
    burst = burst_of(2)
    referee.write_all(burst)
    first, second = referee.requests
    long = "v" * 40_000
    referee.answer(first, 503, (("long", long),), b"busy")
    assert burst.answers[0].headers["long"] == long
    parts = (
        HeadersFrame(second, b"", flags=["END_STREAM"]).serialize()
        + ContinuationFrame(second, b"").serialize()
        + ContinuationFrame(second, b"\x88", flags=["END_HEADERS"]).serialize()
    )
    referee.core.receive(parts)
    assert codes(burst) == [Code.ANSWERED, Code.OK]


def test_informational_answers_are_skipped() -> None:
    referee = ready()
    burst = burst_of(1)
    referee.write_all(burst)
    (stream_id,) = referee.requests
    referee.server.send_headers(stream_id, [(":status", "103"), ("link", "</x>")])
    referee.exchange()
    assert codes(burst) == [Code.IN_FLIGHT]
    referee.answer(stream_id)
    assert codes(burst) == [Code.OK]


@pytest.mark.parametrize("status", [200, 400])
def test_trailers_end_an_answer(status: int) -> None:
    referee = ready()
    burst = burst_of(1)
    referee.write_all(burst)
    (stream_id,) = referee.requests
    referee.server.send_headers(stream_id, [(":status", str(status))])
    referee.server.send_data(stream_id, b"body")
    referee.exchange()
    assert codes(burst) == [Code.IN_FLIGHT]
    referee.server.send_headers(stream_id, [("grpc-status", "0")], end_stream=True)
    referee.exchange()
    assert codes(burst) == [Code.OK if status == 200 else Code.ANSWERED]


def test_the_kept_body_is_capped() -> None:
    referee = ready()
    burst = burst_of(1)
    referee.write_all(burst)
    (stream_id,) = referee.requests
    referee.server.send_headers(stream_id, [(":status", "500")])
    for _ in range(5):
        referee.server.send_data(stream_id, b"x" * 10_000)
    referee.server.end_stream(stream_id)
    referee.exchange()
    assert burst.answers[0].body == b"x" * BODY_KEPT


@pytest.mark.parametrize(("status", "code"), [(200, Code.OK), (500, Code.ANSWERED)])
def test_an_endless_answer_is_cut_off_with_what_is_known(status: int, code: Code) -> None:
    referee = ready()
    burst = burst_of(1)
    referee.write_all(burst)
    (stream_id,) = referee.requests
    referee.server.send_headers(stream_id, [(":status", str(status))])
    for _ in range(BODY_READ // 16_000 + 1):
        referee.server.send_data(stream_id, b"x" * 16_000)
    referee.exchange()
    assert codes(burst) == [code]
    assert referee.resets == {stream_id: ErrorCode.CANCEL}


@pytest.mark.parametrize(
    "block",
    [
        b"\x00\x01x\x011",  # no status
        b"\x8c\x8c",  # two
        b"\x48\x03abc",  # not a number
        b"\x48\x03099",
        b"\x48\x02\x32\x30",
        b"\x48\x03103",  # informational, and the end of the stream
        b"",
    ],
)
def test_a_malformed_answer_costs_its_own_stream_only(block: bytes) -> None:
    referee = ready()
    burst = burst_of(2)
    referee.write_all(burst)
    first, second = referee.requests
    referee.inject(HeadersFrame(first, block, flags=["END_HEADERS", "END_STREAM"]).serialize())
    assert codes(burst) == [Code.UNKNOWN, Code.IN_FLIGHT]
    assert burst.reasons == {0: "malformed_answer"}
    assert referee.resets == {first: ErrorCode.PROTOCOL_ERROR}
    referee.answer(second)
    assert codes(burst) == [Code.UNKNOWN, Code.OK]


def test_data_before_headers_and_headers_between_are_malformed() -> None:
    referee = ready()
    burst = burst_of(2)
    referee.write_all(burst)
    first, second = referee.requests
    early = DataFrame(first, b"body", flags=["END_STREAM"]).serialize()
    opening = HeadersFrame(second, b"\x88", flags=["END_HEADERS"]).serialize()
    referee.inject(early + opening + opening)
    assert codes(burst) == [Code.UNKNOWN] * 2
    assert set(burst.reasons.values()) == {"malformed_answer"}


def test_a_second_status_in_place_of_trailers_is_malformed() -> None:
    referee = ready()
    burst = burst_of(1)
    referee.write_all(burst)
    (stream_id,) = referee.requests
    opening = HeadersFrame(stream_id, b"\x88", flags=["END_HEADERS"]).serialize()
    again = HeadersFrame(stream_id, b"\x88", flags=["END_HEADERS", "END_STREAM"]).serialize()
    referee.inject(opening + again)
    assert codes(burst) == [Code.UNKNOWN]


# Resets


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (ErrorCode.REFUSED_STREAM, Code.REFUSED, "refused_stream"),
        (ErrorCode.NO_ERROR, Code.UNKNOWN, "stream_reset"),
        (ErrorCode.INTERNAL_ERROR, Code.UNKNOWN, "stream_reset"),
        (ErrorCode.ENHANCE_YOUR_CALM, Code.UNKNOWN, "stream_reset"),
    ],
)
def test_reset_before_the_answer(error: ErrorCode, code: Code, reason: str) -> None:
    referee = ready()
    burst = burst_of(2)
    referee.write_all(burst)
    first, second = referee.requests
    referee.server.reset_stream(first, error)
    referee.exchange()
    assert codes(burst) == [code, Code.IN_FLIGHT]
    assert burst.reasons == {0: reason}
    referee.answer(second)
    assert codes(burst)[1] == Code.OK


def test_reset_in_the_middle_of_an_answer_is_unknown() -> None:
    referee = ready()
    burst = burst_of(1)
    referee.write_all(burst)
    (stream_id,) = referee.requests
    referee.server.send_headers(stream_id, [(":status", "200")])
    referee.server.reset_stream(stream_id, ErrorCode.INTERNAL_ERROR)
    referee.exchange()
    assert codes(burst) == [Code.UNKNOWN]


def test_reset_without_error_after_a_complete_answer_changes_nothing() -> None:
    referee = ready({WINDOW: 10})
    referee.consumes = False
    burst = Burst(APNS, 1, targets=tokens(1), bodies=b"x" * 50)
    referee.write(burst)
    (stream_id,) = referee.requests
    referee.server.send_headers(stream_id, [(":status", "200")], end_stream=True)
    referee.server.reset_stream(stream_id, ErrorCode.NO_ERROR)
    referee.exchange()
    assert codes(burst) == [Code.OK]
    assert burst.reasons == {}


# GOAWAY


def test_goaway_above_the_last_id_is_refused_and_below_it_finishes() -> None:
    referee = ready()
    burst = burst_of(5)
    referee.write_all(burst)
    ids = list(referee.requests)
    # h2 would close its state machine, and could not answer any more.
    goaway = GoAwayFrame(0)
    goaway.last_stream_id = ids[1]
    goaway.error_code = 0
    goaway.additional_data = b'{"reason":"Shutdown"}'
    events = referee.core.receive(goaway.serialize())
    assert events == [GoAwayReceived(0, ids[1], b'{"reason":"Shutdown"}', 3)]
    assert codes(burst) == [Code.IN_FLIGHT] * 2 + [Code.REFUSED] * 3
    assert set(burst.reasons.values()) == {"goaway"}
    assert referee.core.write(burst_of(1), 1, 0.0, 1.0) == 0
    referee.answer(ids[0])
    referee.answer(ids[1], 400, body=b"{}")
    assert codes(burst) == [Code.OK, Code.ANSWERED] + [Code.REFUSED] * 3
    assert burst.done


@pytest.mark.parametrize(
    ("debug", "reason"),
    [
        (b'{"reason":"ExpiredProviderToken"}', "ExpiredProviderToken"),
        (b' { "reason" : "Shutdown", "timestamp": 1 } ', "Shutdown"),
        (b"", ""),
        (b"Maximum active streams violated for this endpoint", ""),
        (b'{"reason":', ""),
        (b'{"reason":403}', ""),
        (b'["reason"]', ""),
        (b'"ExpiredProviderToken"', ""),
        (b"[" * 16_000, ""),
        (b"\xff\xfe", ""),
    ],
)
def test_the_reason_in_a_goaway(debug: bytes, reason: str) -> None:
    payload = (1).to_bytes(4, "big") + bytes(4) + debug
    (event,) = ready().core.receive(frame(FrameType.GOAWAY, 0, 0, payload))
    assert isinstance(event, GoAwayReceived)
    assert event.reason == reason


def test_goaway_below_the_last_id_is_unknown_when_the_connection_dies() -> None:
    referee = ready()
    burst = burst_of(3)
    referee.write_all(burst)
    ids = list(referee.requests)
    goaway = GoAwayFrame(0)
    goaway.last_stream_id = ids[1]
    referee.core.receive(goaway.serialize())
    referee.core.abandon("connection_lost")
    assert codes(burst) == [Code.UNKNOWN, Code.UNKNOWN, Code.REFUSED]
    assert burst.reasons == {0: "connection_lost", 1: "connection_lost", 2: "goaway"}


def test_graceful_goaway_in_two_steps() -> None:
    referee = ready()
    burst = burst_of(4)
    referee.write_all(burst)
    ids = list(referee.requests)
    first, second, third = GoAwayFrame(0), GoAwayFrame(0), GoAwayFrame(0)
    first.last_stream_id = 2**31 - 1
    referee.core.receive(first.serialize())
    assert codes(burst) == [Code.IN_FLIGHT] * 4
    second.last_stream_id = ids[2]
    referee.core.receive(second.serialize())
    assert codes(burst) == [Code.IN_FLIGHT] * 3 + [Code.REFUSED]
    again = referee.core.receive(second.serialize())
    assert again == []
    third.last_stream_id = 2**31 - 1  # must not rise; what was refused stays refused
    assert referee.core.receive(third.serialize()) == []
    assert codes(burst) == [Code.IN_FLIGHT] * 3 + [Code.REFUSED]


def test_a_second_goaway_that_says_why_is_heard_and_a_flood_is_not() -> None:
    core = ready().core
    told = 0
    for number in range(100):
        payload = (2**31 - 1).to_bytes(4, "big") + bytes(4) + b"%d" % number
        told += len(core.receive(frame(FrameType.GOAWAY, 0, 0, payload) * 2))
    assert told == 8


def test_goaway_refuses_a_half_sent_request() -> None:
    referee = ready({WINDOW: 10})
    referee.consumes = False
    burst = Burst(APNS, 1, targets=tokens(1), bodies=b"x" * 50)
    referee.write(burst)
    goaway = GoAwayFrame(0)
    goaway.last_stream_id = 1
    referee.core.receive(goaway.serialize())
    assert codes(burst) == [Code.REFUSED]
    update = WindowUpdateFrame(0)
    update.window_increment = 100
    referee.core.receive(update.serialize())
    assert not referee.core.has_output


# Loss and time-outs


def test_a_lost_connection_leaves_what_was_written_unknown_and_what_was_not_not_sent() -> None:
    referee = ready()
    burst = burst_of(6)
    assert referee.write(burst, 4) == 4
    unsent_from = referee.core.next_stream_id
    assert referee.core.write(burst, 2, 0.0, 1.0) == 2
    referee.core.abandon("connection_lost", unsent_from=unsent_from)
    assert codes(burst) == [Code.UNKNOWN] * 4 + [Code.NOT_SENT] * 2
    assert burst.done
    assert referee.core.write(burst_of(1), 1, 0.0, 1.0) == 0


def test_time_out_by_chunk() -> None:
    referee = ready()
    early, late = burst_of(3), burst_of(2)
    referee.write(early, deadline=10.0)
    referee.write(late, now=1.0, deadline=11.0)
    second = list(referee.requests)[1]
    referee.answer(second)
    assert referee.core.oldest_written_at == 0.0
    assert referee.core.expire(9.9) == []
    assert len(referee.core.expire(10.0)) == 1
    referee.exchange()
    assert codes(early) == [Code.UNKNOWN, Code.OK, Code.UNKNOWN]
    assert set(early.reasons.values()) == {"timeout"}
    assert codes(late) == [Code.IN_FLIGHT] * 2
    assert set(referee.resets.values()) == {ErrorCode.CANCEL}
    assert len(referee.resets) == 2
    assert referee.core.oldest_written_at == 1.0
    assert referee.core.in_flight == 2


def test_an_answer_after_our_time_out_is_ignored() -> None:
    referee = ready()
    burst = burst_of(1)
    referee.write(burst, deadline=1.0)
    (stream_id,) = referee.requests
    referee.server.send_headers(stream_id, [(":status", "400"), ("insert", "me")])
    crossing = referee.server.data_to_send()
    referee.core.expire(2.0)
    referee.core.receive(crossing)
    late_data = DataFrame(stream_id, b"late", flags=["END_STREAM"]).serialize()
    late_reset = RstStreamFrame(stream_id).serialize()
    late_window = WindowUpdateFrame(stream_id)
    late_window.window_increment = 5
    referee.core.receive(late_data + late_reset + late_window.serialize())
    assert codes(burst) == [Code.UNKNOWN]
    assert burst.answers == {}


def test_a_time_out_frees_the_stream() -> None:
    referee = ready({STREAMS: 10})
    referee.write(burst_of(20), deadline=1.0)
    assert referee.core.capacity == 0
    referee.core.expire(2.0)
    assert referee.core.capacity == 9


# Connection frames


def test_ping_is_echoed_and_settings_are_acknowledged() -> None:
    referee = ready()
    ping = PingFrame(0)
    ping.opaque_data = b"abcdefgh"
    referee.core.receive(ping.serialize() + settings_of(MAX_FRAME_SIZE=20_000))
    output = referee.core.output()
    assert output == frame(FrameType.PING, 1, 0, b"abcdefgh") + frame(FrameType.SETTINGS, 1, 0)
    assert referee.core.peer.max_frame_size == 20_000


def test_our_ping_is_acknowledged_by_the_referee() -> None:
    referee = ready()
    referee.core.ping(b"12345678")
    referee.exchange()
    assert isinstance(referee.seen[-1], PingReceived)
    assert referee.core.in_flight == 0


def test_a_flood_of_pings_is_answered_only_up_to_a_bound() -> None:
    referee = ready()
    ping = PingFrame(0)
    ping.opaque_data = b"abcdefgh"
    with pytest.raises(PeerViolation) as caught:
        for _ in range(100):
            referee.core.receive(ping.serialize() * 1000)
    assert caught.value.code == ErrorCode.ENHANCE_YOUR_CALM
    assert len(referee.core.output()) < 200_000


def test_frames_that_end_no_request_are_bounded() -> None:
    """Each of them is legal. A thousand streams in small pieces stay far below the bound."""
    referee = ready()
    referee.write_all(burst_of(1))
    (stream_id,) = referee.requests
    opening = HeadersFrame(stream_id, b"\x88", flags=["END_HEADERS"]).serialize()
    referee.inject(opening + DataFrame(stream_id, b"").serialize() * 20_000)
    with pytest.raises(PeerViolation) as caught:
        referee.core.receive(DataFrame(stream_id, b"").serialize() * 40_000)
    assert caught.value.code == ErrorCode.ENHANCE_YOUR_CALM


def test_answers_start_the_count_of_idle_frames_again() -> None:
    referee = ready()
    for _ in range(3):
        burst = burst_of(1)
        referee.write_all(burst)
        stream_id = max(referee.requests)
        opening = HeadersFrame(stream_id, b"\x88", flags=["END_HEADERS"]).serialize()
        referee.inject(opening + DataFrame(stream_id, b"").serialize() * 30_000)
        referee.inject(DataFrame(stream_id, b"", flags=["END_STREAM"]).serialize())
        assert codes(burst) == [Code.OK]


def test_http1_in_place_of_http2_is_named() -> None:
    core = Core(b"localhost")
    with pytest.raises(PeerViolation, match="speaks HTTP/1"):
        core.receive(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_unknown_frames_and_settings_and_priority_are_ignored() -> None:
    referee = ready()
    burst = burst_of(1)
    referee.write_all(burst)
    priority = PriorityFrame(1)
    unknown = frame(0x42, 0xFF, 3, b"whatever") + settings_frame([(0x77, 7)]) + priority.serialize()
    referee.inject(unknown)
    referee.answer(next(iter(referee.requests)))
    assert codes(burst) == [Code.OK]


def test_an_orderly_end_says_goaway() -> None:
    referee = ready()
    referee.core.say_goodbye()
    referee.take(referee.server.receive_data(referee.core.output()))
    assert isinstance(referee.seen[-1], ConnectionTerminated)


# Violations

_PUSH = PushPromiseFrame(1)
_PUSH.promised_stream_id = 2


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (frame(FrameType.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR, "DATA on stream 0"),
        (frame(FrameType.DATA, 0, 2, b"x"), ErrorCode.PROTOCOL_ERROR, "DATA on stream 2"),
        (frame(FrameType.HEADERS, 4, 99, b"\x88"), ErrorCode.PROTOCOL_ERROR, "not opened"),
        (frame(FrameType.HEADERS, 4 | 8, 1, b"\x05\x88"), ErrorCode.PROTOCOL_ERROR, "padding"),
        (frame(FrameType.HEADERS, 4 | 0x20, 1, b"\x05"), ErrorCode.FRAME_SIZE_ERROR, "priority"),
        (frame(FrameType.RST_STREAM, 0, 99, b"\0\0\0\0"), ErrorCode.PROTOCOL_ERROR, "not opened"),
        (frame(FrameType.RST_STREAM, 0, 1, b"\0"), ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM"),
        (frame(FrameType.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR, "SETTINGS on stream"),
        (frame(FrameType.SETTINGS, 0, 0, b"12345"), ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of 5"),
        (frame(FrameType.SETTINGS, 1, 0, b"123456"), ErrorCode.FRAME_SIZE_ERROR, "ACK"),
        (settings_of(ENABLE_PUSH=1), ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH"),
        (settings_of(INITIAL_WINDOW_SIZE=2**31), ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW"),
        (settings_of(MAX_FRAME_SIZE=16_383), ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE"),
        (frame(FrameType.PING, 0, 1, b"12345678"), ErrorCode.PROTOCOL_ERROR, "PING on stream"),
        (frame(FrameType.PING, 0, 0, b"1"), ErrorCode.FRAME_SIZE_ERROR, "PING"),
        (frame(FrameType.GOAWAY, 0, 1, b"12345678"), ErrorCode.PROTOCOL_ERROR, "GOAWAY on stream"),
        (frame(FrameType.GOAWAY, 0, 0, b"1"), ErrorCode.FRAME_SIZE_ERROR, "GOAWAY"),
        (frame(FrameType.WINDOW_UPDATE, 0, 0, b"1"), ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE"),
        (frame(FrameType.CONTINUATION, 4, 1, b"\x88"), ErrorCode.PROTOCOL_ERROR, "without HEADERS"),
        (
            frame(FrameType.HEADERS, 0, 3, b"\x88") + frame(FrameType.DATA, 1, 3),
            ErrorCode.PROTOCOL_ERROR,
            "inside a header block",
        ),
        (
            frame(FrameType.HEADERS, 0, 3, b"\x88") + frame(FrameType.CONTINUATION, 4, 5),
            ErrorCode.PROTOCOL_ERROR,
            "inside a header block",
        ),
        (
            frame(FrameType.HEADERS, 0, 3) + frame(FrameType.CONTINUATION, 0, 3) * 8000,
            ErrorCode.ENHANCE_YOUR_CALM,
            "header block",
        ),
        (_PUSH.serialize(), ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE"),
        (frame(FrameType.DATA, 0, 3, b"x" * 16_385), ErrorCode.FRAME_SIZE_ERROR, "16385"),
        (frame(FrameType.HEADERS, 5, 3, b"\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR, "header block"),
        (frame(FrameType.HEADERS, 5, 3, b"\xbe"), ErrorCode.COMPRESSION_ERROR, "header block"),
        (frame(FrameType.HEADERS, 5, 3, b"\x3f\xe1\x1f"), ErrorCode.COMPRESSION_ERROR, "header block"),
    ],
)
def test_a_violation_ends_the_connection_with_its_own_code(data: bytes, code: ErrorCode, words: str) -> None:
    referee = ready()
    burst = burst_of(3)
    referee.write_all(burst)
    answered, second, third = referee.requests
    before = frame(FrameType.HEADERS, 5, answered, b"\x88")
    with pytest.raises(PeerViolation, match=words) as caught:
        referee.core.receive(before + data)
    assert caught.value.code == code
    assert codes(burst)[0] == Code.OK, "what came before the violation counts"
    assert (second, third) == (answered + 2, answered + 4)
    referee.take(referee.server.receive_data(referee.core.output()))
    last = referee.seen[-1]
    assert isinstance(last, ConnectionTerminated)
    assert int(last.error_code or 0) == code
    referee.core.abandon("protocol_violation")
    assert codes(burst)[1:] == [Code.UNKNOWN] * 2
    assert burst.done


# Stream ids


def test_ids_running_out_retire_the_connection_and_lose_nothing() -> None:
    referee = ready(retire_at_stream_id=21)
    burst = burst_of(30)
    taken = referee.write(burst, 5)
    taken += referee.write(burst, 5)
    assert taken == 10
    assert referee.core.draining
    assert referee.write(burst) == 0
    referee.answer_all()
    assert codes(burst) == [Code.OK] * 10 + [Code.QUEUED] * 20


def test_no_id_beyond_the_highest_is_ever_used() -> None:
    core = Core(b"localhost", first_request_alone=False, retire_at_stream_id=2**31)
    core.receive(settings_frame([(STREAMS, 1000)]))
    core._next_id = 2**31 - 5  # two ids are left; counting up to there takes days
    burst = burst_of(10)
    assert core.write(burst, 10, 0.0, 1.0) == 3
    assert core.write(burst, 10, 0.0, 1.0) == 0


# Bytes come as they like


@pytest.mark.parametrize("piece", [1, 2, 7, 9, 10, 64])
def test_frames_cut_anywhere(piece: int) -> None:
    referee = ready()
    burst = burst_of(20)
    referee.write_all(burst)
    for number, stream_id in enumerate(referee.requests):
        status = "200" if number % 3 else "410"
        referee.server.send_headers(stream_id, [(":status", status), ("apns-id", "x" * number)])
        referee.server.send_data(stream_id, b"{}", end_stream=True)
    data = referee.server.data_to_send()
    for start in range(0, len(data), piece):
        referee.core.receive(data[start : start + piece])
    assert codes(burst) == [Code.OK if number % 3 else Code.ANSWERED for number in range(20)]
    assert burst.done


def test_an_ended_core_is_gone_without_the_collector() -> None:
    """Workers collect their oldest objects next to never: what ends in a cycle stays, with all templates that it had encoded."""
    referee = Referee(Core(b"localhost", first_request_alone=False))
    referee.write(burst_of(10))
    referee.answer(1, 200)
    core, collects = weakref.ref(referee.core), gc.isenabled()
    gc.disable()
    try:
        del referee
        assert core() is None
    finally:
        if collects:
            gc.enable()
