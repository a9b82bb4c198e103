"""Both engines, fed by an h2 client in memory: what the protocol demands of either, and what each fault does to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import ContinuationFrame, DataFrame, HeadersFrame

from pushq.mock.apns import ApnsRules
from pushq.mock.endpoint import Endpoint, Latency
from pushq.mock.engine import TICK_S, Engine
from pushq.mock.exchange import Rules
from pushq.mock.fast import FastEngine
from pushq.mock.fcm import FcmRules
from pushq.mock.lanes import ApnsLane, FcmLane
from pushq.mock.strict import StrictEngine
from tests.unit.mock_provider import (
    ACCESS_TOKEN,
    ALIVE,
    BODY,
    DEAD,
    FCM_ALIVE,
    FCM_DEAD,
    NOW,
    PROJECT,
    apns_headers,
    apns_rules,
    endpoint,
    fcm_body,
    fcm_rules,
    provider_token,
)

APNS_ID = "123e4567-e89b-12d3-a456-426655440000"
Codes = h2.settings.SettingCodes


def make_engine(name: str, place: Endpoint) -> Engine:
    if name == "strict":
        return StrictEngine(place, lambda: 0.5)
    if isinstance(place.rules, ApnsRules):
        return FastEngine(place, ApnsLane(place.rules), lambda: 0.5)
    assert isinstance(place.rules, FcmRules)
    return FastEngine(place, FcmLane(place.rules), lambda: 0.5)


class Client:
    """An h2 client joined to an engine in memory; time moves only when told."""

    def __init__(self, name: str, place: Endpoint, settings: dict[Codes, int] | None = None) -> None:
        self.place = place
        self.engine = make_engine(name, place)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.local_settings = h2.settings.Settings(client=True, initial_values=settings or {})
        self.h2.initiate_connection()
        self.gives_window_back = True
        self.tick = 100.0
        self.events: list[h2.events.Event] = []
        self.statuses: dict[int, int] = {}
        self.headers: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: list[int] = []
        self.resets: dict[int, int] = {}
        self.goaways: list[tuple[int, int, bytes]] = []
        self.take(self.engine.opening())
        self.pump()

    def take(self, data: bytes) -> None:
        for event in self.h2.receive_data(data) if data else ():
            self.events.append(event)
            match event:
                case h2.events.ResponseReceived(stream_id=stream, headers=headers):
                    found = {str(name): str(value) for name, value in headers or ()}
                    self.statuses[stream], self.headers[stream] = int(found.pop(":status")), found
                case h2.events.DataReceived(stream_id=stream, data=body, flow_controlled_length=length):
                    self.bodies[stream] = self.bodies.get(stream, b"") + (body or b"")
                    if self.gives_window_back:
                        self.h2.acknowledge_received_data(length or 0, stream)
                case h2.events.StreamEnded(stream_id=stream):
                    self.ended.append(stream)
                case h2.events.StreamReset(stream_id=stream, error_code=code):
                    self.resets[stream] = int(code or 0)
                case h2.events.ConnectionTerminated(
                    error_code=code, last_stream_id=last, additional_data=debug
                ):
                    self.goaways.append((int(code or 0), last or 0, debug or b""))
                case _:
                    pass

    def pump(self) -> None:
        """Deliver what either side has to say now; no time passes."""
        while self.engine.ended is None and (data := self.h2.data_to_send()):
            self.give(data)

    def give(self, data: bytes) -> None:
        out = self.engine.receive(data, self.tick, NOW)
        if not self.place.latency.seconds:
            out += self.engine.release(self.tick + TICK_S)
        self.take(out)

    def wait(self, seconds: float) -> None:
        self.tick += seconds
        self.take(self.engine.release(self.tick))
        self.pump()

    def headers_for(self, path: str, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
        return [*pseudo, *headers]

    def post(self, path: str, headers: list[tuple[str, str]], body: bytes) -> int:
        stream: int = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, self.headers_for(path, headers))
        self.h2.send_data(stream, body, end_stream=True)
        return stream

    def push(self, token: str = ALIVE, body: bytes = BODY, *, now: bool = True, **changes: str | None) -> int:
        stream = self.post(f"/3/device/{token}", apns_headers(**changes), body)
        if now:
            self.pump()
        return stream

    def send(self, token: str = FCM_ALIVE, body: bytes | None = None) -> int:
        headers = [("authorization", f"Bearer {ACCESS_TOKEN}"), ("content-type", "application/json")]
        stream = self.post(f"/v1/projects/{PROJECT}/messages:send", headers, body or fcm_body(token))
        self.pump()
        return stream

    @property
    def limit(self) -> int:
        return self.h2.remote_settings.max_concurrent_streams


Connect = Callable[..., Client]


@pytest.fixture(params=["strict", "fast"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """A client of an engine in front of APNs, or of other rules, with faults."""

    def make(
        *faults: dict[str, Any],
        rules: Rules | None = None,
        latency: Latency | None = None,
        settings: dict[Codes, int] | None = None,
    ) -> Client:
        return Client(request.param, endpoint(rules or apns_rules(), *faults, latency=latency), settings)

    return make


def warmed(client: Client) -> Client:
    """The credential is accepted and the large stream limit in force."""
    client.push("ee" * 32)
    client.wait(1.0)
    client.pump()
    return client


# What is promised to every client


def test_one_stream_until_the_first_accepted_credential(connect: Connect) -> None:
    client = connect(latency=Latency(0.08))
    assert client.limit == 1
    client.push("zz")
    assert client.limit == 1
    client.wait(0.1)
    assert (client.statuses, client.limit) == ({1: 400}, 1000)


def test_a_refused_credential_does_not_raise_the_limit(connect: Connect) -> None:
    client = connect()
    client.push(authorization="bearer nonsense")
    client.wait(0.1)
    assert (client.statuses, client.limit) == ({1: 403}, 1)


def test_fcm_allows_a_hundred_streams_from_the_start(connect: Connect) -> None:
    client = connect(rules=fcm_rules())
    assert client.limit == 100
    stream = client.send()
    assert client.statuses[stream] == 200
    assert json.loads(client.bodies[stream])["name"].startswith("projects/pushq-demo/messages/")


@pytest.mark.parametrize(
    ("rules", "streams", "code", "debug"),
    [
        (apns_rules, 1, 7, b"Maximum active streams violated for this endpoint"),
        (lambda: fcm_rules(streams=3), 3, 1, b"exceeded_max_concurrent_streams"),
    ],
)
def test_one_stream_too_many_ends_the_connection(
    connect: Connect, rules: Callable[[], Rules], streams: int, code: int, debug: bytes
) -> None:
    client = connect(rules=rules(), latency=Latency(0.08))
    client.h2.remote_settings = h2.settings.Settings(client=False)
    for _ in range(streams):
        client.push()
    assert client.goaways == []
    client.push()
    assert client.goaways == [(code, 2 * streams - 1, debug)]
    assert client.engine.ended == "close"
    assert client.place.tally.violations == {debug.decode(): 1}
    assert client.place.tally.requests == streams


def test_answers_come_after_the_latency_and_not_before(connect: Connect) -> None:
    client = connect(latency=Latency(0.08))
    client.push()
    client.wait(0.079)
    assert client.ended == []
    client.wait(0.004)
    assert client.ended == [1]


def test_accepted_counts_before_the_answer_leaves(connect: Connect) -> None:
    client = connect(latency=Latency(10))
    client.push()
    assert client.place.tally.accepted == {ALIVE.encode(): 1}
    assert client.statuses == {}


def test_a_run_of_alike_requests_is_counted_one_by_one(connect: Connect) -> None:
    client = warmed(connect())
    tokens = [f"{number:064x}" for number in range(50)]
    for token in [*tokens, *tokens[:5], DEAD, "zz"]:
        client.push(token, now=False)
    client.pump()
    answers = list(client.statuses.values())
    assert (answers.count(200), answers.count(410), answers.count(400)) == (56, 1, 1)
    counts = client.place.tally
    assert {token.decode() for token in counts.accepted} == {*tokens, "ee" * 32}
    assert counts.as_dict()["duplicates"] == 5
    assert counts.as_dict()["answers"] == {"200": 56, "400 BadDeviceToken": 1, "410 Unregistered": 1}
    assert counts.requests == 58
    ids = [headers["apns-id"] for headers in client.headers.values()]
    assert len(set(ids)) == len(ids)


def test_each_request_is_judged_on_its_own(connect: Connect) -> None:
    """What was good before does not excuse what is different now."""
    client = warmed(connect())
    expected = []
    for _ in range(2):
        for changes, status in [
            ({}, 200),
            ({"apns_priority": "7"}, 400),
            ({"apns_topic": "org.other"}, 400),
            ({"apns_id": APNS_ID}, 200),
            ({"apns_id": "short"}, 400),
            ({"body": b"not json"}, 400),
            ({"body": b"x" * 5000}, 413),
            ({"token": DEAD}, 410),
            ({"token": ALIVE[:-1]}, 400),
            ({"authorization": None}, 403),
            ({"token": "ab" * 80}, 200),
        ]:
            stream = client.push(**changes)  # type: ignore[arg-type]
            expected.append((stream, status))
    client.wait(0.1)
    assert [(stream, client.statuses[stream]) for stream, _ in expected] == expected


def test_the_given_id_is_echoed_every_time(connect: Connect) -> None:
    client = warmed(connect())
    given = [f"123e4567-e89b-12d3-a456-4266554400{number:02d}" for number in range(3)]
    streams = [client.push(apns_id=apns_id) for apns_id in given]
    assert [client.headers[stream]["apns-id"] for stream in streams] == given


def test_sandbox_answers_carry_a_unique_id(connect: Connect) -> None:
    client = warmed(connect(rules=apns_rules("sandbox")))
    unique = {client.headers[client.push()]["apns-unique-id"] for _ in range(3)}
    assert len(unique) == 3


def test_fcm_messages_are_judged_on_their_own(connect: Connect) -> None:
    client = connect(rules=fcm_rules())
    hidden = fcm_body(data={"token": "x"})
    for body, status in [
        (fcm_body(), 200),
        (fcm_body("other-" + "y" * 30), 200),
        (fcm_body(FCM_DEAD), 404),
        (fcm_body("short"), 400),
        (fcm_body(data={"n": 5}), 400),
        (fcm_body(data={"c": "x" * 5000}), 400),
        (json.dumps(json.loads(fcm_body())).encode(), 200),
        (hidden, 200),
        (hidden.replace(b'"token":"x"', b'"token":"y"'), 200),
        (b'{"validate_only":true,' + fcm_body()[1:], 200),
        (b"{}", 400),
    ] * 2:
        assert client.statuses[client.send(body=body)] == status
    assert client.place.tally.accepted == {FCM_ALIVE.encode(): 8, b"other-" + b"y" * 30: 2}


def test_a_second_provider_token_spoils_the_connection_at_once(connect: Connect) -> None:
    client = warmed(connect())
    assert client.statuses[client.push()] == 200
    assert client.statuses[client.push(authorization=f"bearer {provider_token(NOW - 1)}")] == 429
    assert client.statuses[client.push()] == 429


def test_expired_credentials_are_refused_at_once(connect: Connect) -> None:
    client = warmed(connect())
    assert client.statuses[client.push()] == 200
    client.place.expire_credentials(NOW)
    assert client.statuses[client.push()] == 403


def test_new_faults_strike_at_once(connect: Connect) -> None:
    client = warmed(connect())
    assert client.statuses[client.push()] == 200
    client.place.faults.replace([{"platform": "apns", "token": ALIVE, "answer": {"status": 500}}])
    assert client.statuses[client.push()] == 500
    assert client.statuses[client.push("cd" * 32)] == 200


# The protocol


def test_ping_is_echoed(connect: Connect) -> None:
    client = connect()
    client.h2.ping(b"12345678")
    client.pump()
    assert any(isinstance(event, h2.events.PingAckReceived) for event in client.events)


@pytest.mark.parametrize("size", [0, 100])
def test_a_smaller_header_table_is_honoured(connect: Connect, size: int) -> None:
    """The client's hpack insists on the size update in the first block after the acknowledgement."""
    client = warmed(connect(settings={Codes.HEADER_TABLE_SIZE: size}))
    client.h2.decoder.max_allowed_table_size = size
    assert [client.statuses[client.push(token)] for token in (ALIVE, DEAD, ALIVE)] == [200, 410, 200]


def test_a_table_made_smaller_later_is_honoured(connect: Connect) -> None:
    client = warmed(connect())
    client.h2.update_settings({Codes.HEADER_TABLE_SIZE: 0})
    client.pump()
    assert [client.statuses[client.push(token)] for token in (ALIVE, DEAD, ALIVE)] == [200, 410, 200]


def test_padding_continuation_and_split_data_are_read(connect: Connect) -> None:
    client = warmed(connect())
    stream = client.h2.get_next_available_stream_id()
    block = client.h2.encoder.encode(client.headers_for(f"/3/device/{ALIVE}", apns_headers()))
    frames = [
        HeadersFrame(stream, block[:10], flags=["PADDED"], pad_length=7),
        ContinuationFrame(stream, block[10:20]),
        ContinuationFrame(stream, block[20:], flags=["END_HEADERS"]),
        DataFrame(stream, BODY[:5], flags=["PADDED"], pad_length=3),
        DataFrame(stream, b""),
        DataFrame(stream, BODY[5:], flags=["END_STREAM"]),
    ]
    data = b"".join(frame.serialize() for frame in frames)
    client.h2.highest_outbound_stream_id = stream
    out = b"".join(client.engine.receive(data[at : at + 1], client.tick, NOW) for at in range(len(data)))
    out += client.engine.release(client.tick + 1)
    assert b"\x88" in out
    assert client.place.tally.answers == {"200": 2}


def test_interleaved_requests_are_kept_apart(connect: Connect) -> None:
    client = warmed(connect())
    streams = [client.h2.get_next_available_stream_id() + 2 * number for number in range(3)]
    for stream, token in zip(streams, (ALIVE, DEAD, "cd" * 32), strict=True):
        client.h2.send_headers(stream, client.headers_for(f"/3/device/{token}", apns_headers()))
    for stream in reversed(streams):
        client.h2.send_data(stream, BODY, end_stream=True)
    client.pump()
    assert [client.statuses[stream] for stream in streams] == [200, 410, 200]


def test_trailers_end_a_request(connect: Connect) -> None:
    client = warmed(connect())
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, client.headers_for(f"/3/device/{ALIVE}", apns_headers()))
    client.h2.send_data(stream, BODY)
    client.h2.send_headers(stream, [("x-trailer", "1")], end_stream=True)
    client.pump()
    assert client.statuses[stream] == 200


def test_a_request_without_a_body_is_answered(connect: Connect) -> None:
    client = warmed(connect())
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, client.headers_for(f"/3/device/{ALIVE}", apns_headers()), end_stream=True)
    client.pump()
    assert client.bodies[stream] == b'{"reason":"PayloadEmpty"}'


def test_a_huge_body_is_refused_and_not_kept(connect: Connect) -> None:
    client = warmed(connect())
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, client.headers_for(f"/3/device/{ALIVE}", apns_headers()))
    for _ in range(20):
        client.h2.send_data(stream, b"x" * 16_000)
        client.pump()
    client.h2.end_stream(stream)
    client.pump()
    assert client.statuses[stream] == 413


def test_answers_wait_for_the_connection_window(connect: Connect) -> None:
    client = connect(rules=fcm_rules(streams=1000))
    client.gives_window_back = False
    streams = [client.send() for _ in range(900)]
    client.wait(0.1)
    answered = len(client.ended)
    assert 0 < answered < 900
    client.h2.increment_flow_control_window(60_000)
    client.pump()
    client.wait(0.1)
    assert len(client.ended) == 900
    assert [client.statuses[stream] for stream in streams] == [200] * 900


def test_a_cancelled_request_gets_no_answer_and_frees_its_stream(connect: Connect) -> None:
    client = connect(latency=Latency(0.08), rules=fcm_rules(streams=2))
    first, second = client.send(), client.send()
    client.h2.reset_stream(first, ErrorCodes.CANCEL)
    client.pump()
    third = client.send()
    client.wait(0.1)
    assert sorted(client.statuses) == [second, third]
    assert client.goaways == []
    assert client.place.tally.accepted == {FCM_ALIVE.encode(): 3}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01" + b"x" * 16_385, ErrorCodes.FRAME_SIZE_ERROR),
        (b"\x00\x00\x01\x01\x05\x00\x00\x00\x01\xbe", ErrorCodes.COMPRESSION_ERROR),
        (b"\x00\x00\x01\x00\x01\x00\x00\x00\x05x", ErrorCodes.PROTOCOL_ERROR),
        (b"\x00\x00\x01\x09\x04\x00\x00\x00\x01\x88", ErrorCodes.PROTOCOL_ERROR),
        (b"\x00\x00\x05\x06\x00\x00\x00\x00\x00xxxxx", ErrorCodes.FRAME_SIZE_ERROR),
        (b"\x00\x00\x05\x04\x00\x00\x00\x00\x00xxxxx", ErrorCodes.FRAME_SIZE_ERROR),
        (b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff", ErrorCodes.FLOW_CONTROL_ERROR),
    ],
)
def test_a_broken_frame_ends_the_connection_with_its_code(
    connect: Connect, data: bytes, code: ErrorCodes
) -> None:
    client = connect()
    client.give(data)
    assert [found[0] for found in client.goaways] == [code]
    assert client.engine.ended == "close"


def test_no_preface_no_conversation(connect: Connect) -> None:
    engine = make_engine("fast", endpoint(apns_rules()))
    assert engine.receive(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 0, NOW)
    assert engine.ended == "close"


# Faults

TWO_STREAMS = {"platform": "apns", "token": DEAD}


def test_a_stalled_request_is_never_answered_and_keeps_its_stream(connect: Connect) -> None:
    client = connect({"platform": "fcm", "token": FCM_DEAD, "stall": True}, rules=fcm_rules(streams=2))
    client.send(FCM_DEAD)
    assert client.statuses[client.send()] == 200
    client.wait(1000)
    assert sorted(client.statuses) == [3]
    client.h2.remote_settings = h2.settings.Settings(client=False)
    client.send(FCM_DEAD)
    client.send()
    assert client.goaways[0][0] == ErrorCodes.PROTOCOL_ERROR


def test_a_reset_carries_its_code(connect: Connect) -> None:
    client = warmed(connect({"platform": "apns", "token": DEAD, "rst": "REFUSED_STREAM"}))
    stream = client.push(DEAD)
    client.wait(0.1)
    assert client.resets == {stream: ErrorCodes.REFUSED_STREAM}
    assert client.statuses[client.push()] == 200
    assert DEAD.encode() not in client.place.tally.accepted


def test_a_delay_adds_to_the_latency(connect: Connect) -> None:
    client = connect({"platform": "apns", "delay_ms": 500}, latency=Latency(0.08))
    client.push()
    client.wait(0.57)
    assert client.ended == []
    client.wait(0.02)
    assert client.ended == [1]


def test_goaway_lets_what_it_covers_finish(connect: Connect) -> None:
    fault = {"platform": "fcm", "token": FCM_DEAD, "goaway": {"debug": "session_timed_out"}}
    client = connect(fault, rules=fcm_rules(), latency=Latency(0.08))
    out = b""
    client.send()
    client.send()
    raw = client.h2
    last = client.post(
        f"/v1/projects/{PROJECT}/messages:send",
        [("authorization", f"Bearer {ACCESS_TOKEN}")],
        fcm_body(FCM_DEAD),
    )
    out = client.engine.receive(raw.data_to_send(), client.tick, NOW)
    assert _goaway(out) == (0, last, b"session_timed_out")
    assert client.engine.ended is None
    client.tick += 0.1
    answers = client.engine.release(client.tick)
    # h2 as a client refuses answers after GOAWAY, so their bytes are looked at: three HEADERS frames with END_HEADERS.
    assert _streams(answers) == [1, 3, last]
    assert client.engine.ended == "close"


def test_goaway_takes_back_what_it_does_not_cover(connect: Connect) -> None:
    """Streams above the last one were surely not processed: they are neither answered nor counted."""
    fault = {"platform": "fcm", "token": FCM_DEAD, "goaway": {"last_stream_offset": -2}}
    client = connect(fault, rules=fcm_rules(), latency=Latency(0.08))
    client.send("first-" + "x" * 30)
    client.send("second-" + "x" * 30)
    client.post(
        f"/v1/projects/{PROJECT}/messages:send",
        [("authorization", f"Bearer {ACCESS_TOKEN}")],
        fcm_body(FCM_DEAD),
    )
    assert client.place.tally.rung == 2
    out = client.engine.receive(client.h2.data_to_send(), client.tick, NOW)
    assert _goaway(out) == (0, 1, b"")
    assert client.place.tally.accepted == {b"first-" + b"x" * 30: 1}
    assert client.place.tally.as_dict()["answers"] == {"200": 1}
    assert _streams(client.engine.release(client.tick + 0.1)) == [1]
    assert client.engine.ended == "close"


def test_goaway_takes_back_what_was_processed_and_never_answered(connect: Connect) -> None:
    stall = {"platform": "fcm", "token": FCM_ALIVE, "stall": True, "processed": True}
    fault = {"platform": "fcm", "token": FCM_DEAD, "goaway": {"last_stream_offset": -1}}
    client = connect(stall, fault, rules=fcm_rules())
    client.send("first-" + "x" * 30)
    client.send(FCM_ALIVE)
    assert client.place.tally.rung == 2
    client.send(FCM_DEAD)
    assert client.goaways[0][1] == 3
    assert client.place.tally.rung == 2, "the last stream is covered"
    assert client.place.tally.as_dict()["answers"] == {"200": 1}


def test_goaway_takes_back_a_stalled_request_above_its_last_stream(connect: Connect) -> None:
    stall = {"platform": "fcm", "token": FCM_ALIVE, "stall": True, "processed": True}
    fault = {"platform": "fcm", "token": FCM_DEAD, "goaway": {"last_stream_offset": -2}}
    client = connect(stall, fault, rules=fcm_rules())
    client.send("first-" + "x" * 30)
    client.send(FCM_ALIVE)
    client.send(FCM_DEAD)
    assert client.goaways[0][1] == 1
    assert client.place.tally.accepted == {b"first-" + b"x" * 30: 1}
    # No answer was counted for it, so none is taken back.
    assert client.place.tally.as_dict()["answers"] == {"200": 1}


def test_goaway_may_close_at_once_or_never(connect: Connect) -> None:
    for close, ended in (("now", "close"), ("never", None)):
        fault = {"platform": "apns", "goaway": {"reason": "Shutdown", "close": close}}
        client = connect(fault, latency=Latency(0.08))
        client.push(now=False)
        out = client.engine.receive(client.h2.data_to_send(), client.tick, NOW)
        assert _goaway(out) == (0, 1, b'{"reason":"Shutdown"}')
        assert client.engine.ended == ended


def test_after_goaway_new_requests_are_ignored(connect: Connect) -> None:
    client = connect({"platform": "fcm", "goaway": {"close": "never"}, "times": 1}, rules=fcm_rules())
    headers = [("authorization", f"Bearer {ACCESS_TOKEN}")]
    for _ in range(2):
        client.post(f"/v1/projects/{PROJECT}/messages:send", headers, fcm_body())
    out = client.engine.receive(client.h2.data_to_send(), client.tick, NOW) + client.engine.release(
        client.tick + 1
    )
    assert _streams(out) == [1]
    assert client.place.tally.requests == 1


def test_a_graceful_goaway_first_covers_everything(connect: Connect) -> None:
    fault = {"platform": "fcm", "times": 1, "goaway": {"last_stream_offset": 1 << 30, "close": "never"}}
    client = connect(fault, rules=fcm_rules())
    headers = [("authorization", f"Bearer {ACCESS_TOKEN}")]
    for token in (FCM_ALIVE, "other-" + "x" * 30):
        client.post(f"/v1/projects/{PROJECT}/messages:send", headers, fcm_body(token))
    out = client.engine.receive(client.h2.data_to_send(), client.tick, NOW) + client.engine.release(
        client.tick + 1
    )
    assert _goaway(out) == (0, (1 << 31) - 1, b"")
    assert _streams(out) == [1, 3]


def test_a_cut_in_the_middle_of_a_frame_leaves_half_a_frame(connect: Connect) -> None:
    client = connect({"platform": "apns", "cut": "mid_frame"})
    client.push(now=False)
    out = client.engine.receive(client.h2.data_to_send(), client.tick, NOW)
    assert client.engine.ended == "cut"
    size = int.from_bytes(out[-20:-17], "big")
    assert out[-17] == 1
    assert size > 11
    assert client.place.tally.accepted == {}


def test_a_limit_may_drop_while_requests_are_in_flight(connect: Connect) -> None:
    client = warmed(connect({"platform": "apns", "token": DEAD, "limit": 1}, latency=Latency(0.08)))
    for token in (ALIVE, DEAD, ALIVE):
        client.push(token, now=False)
    client.pump()
    assert client.limit == 1
    client.wait(0.1)
    assert len(client.ended) == 4
    client.push()
    client.wait(0.1)
    assert (client.statuses[9], client.goaways) == (200, [])


@pytest.mark.parametrize("silent", [False, True])
def test_an_idle_connection_is_closed(connect: Connect, silent: bool) -> None:
    fault = {"platform": "apns", "idle_close": {"after_ms": 500, "reason": "Idle", "silent": silent}}
    client = connect(fault, latency=Latency(0.08))
    client.wait(0.4)
    client.push()
    client.wait(0.08 + TICK_S)
    client.wait(0.4)
    stream = client.push()
    client.wait(0.08 + TICK_S)
    client.wait(0.4)
    assert client.ended == [1, stream]
    before = client.engine.ended
    assert before is None
    assert client.engine.pending
    client.wait(0.2)
    assert client.engine.ended == "close"
    assert client.goaways == ([] if silent else [(0, stream, b'{"reason":"Idle"}')])


def test_a_connection_with_an_open_stream_is_not_idle(connect: Connect) -> None:
    client = connect(
        {"platform": "apns", "idle_close": {"after_ms": 500}}, {"platform": "apns", "stall": True}
    )
    client.push()
    for _ in range(10):
        client.wait(0.4)
    assert client.engine.ended is None


def test_the_window_comes_back_late_and_in_pieces(connect: Connect) -> None:
    client = connect(
        {"platform": "apns", "late_window": {"delay_ms": 200, "piece": 10}}, latency=Latency(1.0)
    )
    assert client.h2.outbound_flow_control_window == 65_535
    client.push()
    client.wait(0.19)
    assert client.h2.outbound_flow_control_window == 65_535 - len(BODY)
    assert client.engine.pending
    client.wait(0.02)
    assert client.h2.outbound_flow_control_window == 65_535
    updates = [
        event.delta
        for event in client.events
        if isinstance(event, h2.events.WindowUpdated) and event.stream_id == 0
    ]
    assert sum(updates) == len(BODY)
    assert max(updates) == 10
    client.wait(1.0)
    assert client.ended == [1]


def test_who_ignores_a_lower_limit_is_punished(connect: Connect) -> None:
    client = warmed(connect({"platform": "apns", "token": DEAD, "limit": 1}, latency=Latency(0.08)))
    client.push(DEAD)
    client.h2.remote_settings = h2.settings.Settings(client=False)
    client.push()
    assert client.goaways == [(7, 3, b"Maximum active streams violated for this endpoint")]


def test_an_answer_once_per_token_then_good(connect: Connect) -> None:
    fault = {
        "platform": "apns",
        "times": 1,
        "answer": {"status": 503, "reason": "ServiceUnavailable", "retry_after": 3},
    }
    client = warmed(connect(fault | {"token_prefix": "ab"}))
    first, second = client.push(), client.push()
    assert [client.statuses[first], client.statuses[second]] == [503, 200]
    assert client.headers[first]["retry-after"] == "3"


def _parse(data: bytes) -> list[tuple[int, int, bytes]]:
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 3], "big")
        found.append(
            (data[at + 3], int.from_bytes(data[at + 5 : at + 9], "big"), data[at + 9 : at + 9 + size])
        )
        at += 9 + size
    return found


def _goaway(data: bytes) -> tuple[int, int, bytes]:
    payload = next(payload for kind, _, payload in _parse(data) if kind == 7)
    return int.from_bytes(payload[4:8], "big"), int.from_bytes(payload[:4], "big"), payload[8:]


def _streams(data: bytes) -> list[int]:
    """Streams of the HEADERS frames."""
    return [stream for kind, stream, _ in _parse(data) if kind == 1]
