"""The fault table: which requests it hits, and what it says to a malformed row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pushq.errors import InvalidRequest
from pushq.mock.exchange import Cut, GoAway, Limit, Reset
from pushq.mock.faults import FaultTable, Strike, load_faults
from tests.unit.mock_provider import (
    ALIVE,
    NOW,
    apns_request,
    apns_rules,
    endpoint,
    fcm_body,
    fcm_request,
    fcm_rules,
)

STALL = {"platform": "apns", "stall": True}


def hits(fault: dict[str, Any], tokens: list[str], seed: int = 0, nth: int = 1) -> list[bool]:
    table = FaultTable([{"platform": "apns", "stall": True} | fault], seed)
    return [table.strike("apns", token.encode(), nth, NOW) is not None for token in tokens]


def strike(fault: dict[str, Any]) -> Strike:
    found = FaultTable([{"platform": "apns"} | fault]).strike("apns", b"t", 1, NOW)
    assert found is not None
    return found


def test_tokens_are_matched_exactly_or_by_prefix() -> None:
    assert hits({"token": "ab"}, ["ab", "abc", "a"]) == [True, False, False]
    assert hits({"token_prefix": "ab"}, ["ab", "abc", "a"]) == [True, True, False]


def test_every_counts_only_what_meets_the_other_conditions() -> None:
    assert hits({"every": 2, "token_prefix": "a"}, ["a", "b", "a", "b", "a", "a"]) == [
        False,
        False,
        True,
        False,
        False,
        True,
    ]


def test_first_counts_all_requests_of_the_platform() -> None:
    assert hits({"first": 2, "token_prefix": "a"}, ["b", "a", "a"]) == [False, True, False]


def test_times_count_per_token_or_in_total() -> None:
    assert hits({"times": 1}, ["a", "a", "b", "b"]) == [True, False, True, False]
    assert hits({"times": 1, "per": "total"}, ["a", "a", "b"]) == [True, False, False]


def test_nth_on_connection() -> None:
    assert hits({"nth_on_connection": 3}, ["a"], nth=3) == [True]
    assert hits({"nth_on_connection": 3}, ["a"], nth=2) == [False]


def test_probability_is_seeded() -> None:
    tokens = ["a"] * 1000
    once, again, other = (hits({"probability": 0.25}, tokens, seed) for seed in (1, 1, 2))
    assert once == again != other
    assert 200 < sum(once) < 300


def test_a_quota_refills_each_minute() -> None:
    table = FaultTable([{"platform": "fcm", "over_per_minute": 2, "answer": {"status": 429}}])
    times = [0, 1, 2, 59, 60, 61, 62]
    assert [table.strike("fcm", b"t", 1, NOW + at) is not None for at in times] == [
        False,
        False,
        True,
        True,
        False,
        False,
        True,
    ]


def test_the_first_fault_that_strikes_decides() -> None:
    table = FaultTable([STALL | {"token": "x"}, {"platform": "apns", "limit": 1}, STALL])
    found = table.strike("apns", b"y", 1, NOW)
    assert found is not None
    assert found.effect == Limit(1)
    assert table.strike("fcm", b"y", 1, NOW) is None


def test_prefixes_tell_what_cannot_be_hit() -> None:
    table = FaultTable([STALL | {"token": "x"}, STALL | {"token_prefix": "y"}])
    assert table.prefixes("apns") == (b"x", b"y")
    assert table.prefixes("fcm") == ()
    assert FaultTable([STALL | {"every": 10}]).prefixes("apns") == (b"",)


def test_effects_are_read() -> None:
    assert strike({"rst": "REFUSED_STREAM"}).effect == Reset(7)
    assert strike({"rst": 8}).effect == Reset(8)
    assert strike({"cut": "mid_frame"}).effect == Cut(mid_frame=True)
    assert strike({"delay_ms": 500}).delay_s == 0.5
    goaway = strike({"goaway": {"reason": "Shutdown", "last_stream_offset": -2, "close": "never"}})
    assert goaway.effect == GoAway(0, b'{"reason":"Shutdown"}', -2, "never")
    assert not goaway.processed
    assert strike({"goaway": {"code": "ENHANCE_YOUR_CALM", "debug": "too_many_pings"}}).effect == GoAway(
        11, b"too_many_pings", 0, "drained"
    )


@pytest.mark.parametrize(
    ("fault", "place"),
    [
        ({}, "fault[0]"),
        ({"stall": True, "limit": 1}, "fault[0]"),
        ({"stall": True, "platform": "gcm"}, "fault[0].platform"),
        ({"stall": True, "every": 0}, "fault[0].every"),
        ({"stall": True, "every": True}, "fault[0].every"),
        ({"stall": True, "probability": 1.5}, "fault[0].probability"),
        ({"stall": True, "tokenprefix": "x"}, "fault[0].tokenprefix"),
        ({"stall": False}, "fault[0].stall"),
        ({"rst": "NO_SUCH_CODE"}, "fault[0].rst"),
        ({"rst": "REFUSED_STREAM", "processed": True}, "fault[0].processed"),
        ({"limit": 1, "processed": True}, "fault[0].processed"),
        ({"answer": {}}, "fault[0].answer.status"),
        ({"answer": {"status": 99}}, "fault[0].answer.status"),
        ({"answer": {"status": 503, "retry_after": 1.5}}, "fault[0].answer.retry_after"),
        ({"answer": {"status": 503, "raison": "x"}}, "fault[0].answer.raison"),
        ({"answer": {"shape": "z"}}, "fault[0].answer.shape"),
        ({"answer": 503}, "fault[0].answer"),
        ({"goaway": {"reason": "a", "debug": "b"}}, "fault[0].goaway.debug"),
        ({"goaway": {"close": "soon"}}, "fault[0].goaway.close"),
        ({"cut": "there"}, "fault[0].cut"),
        ({"delay_ms": "long"}, "fault[0].delay_ms"),
    ],
)
def test_a_malformed_fault_is_named(fault: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        FaultTable([{"platform": "apns"} | fault])
    assert caught.value.field == place


def test_a_malformed_table_leaves_the_old_one_in_force() -> None:
    table = FaultTable([STALL])
    with pytest.raises(InvalidRequest):
        table.replace([{"platform": "apns"}])
    assert table.strike("apns", b"t", 1, NOW) is not None


def test_faults_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "faults.toml"
    file.write_text(
        '[[fault]]\nplatform = "fcm"\nanswer = { status = 503, reason = "UNAVAILABLE", retry_after = 2 }\n'
    )
    assert FaultTable(load_faults(file)).strike("fcm", b"t", 1, NOW) is not None
    file.write_text('[[fault]\nplatform = "fcm"')
    with pytest.raises(InvalidRequest):
        load_faults(file)
    file.write_text("[faults]\nx = 1")
    with pytest.raises(InvalidRequest):
        load_faults(file)


def test_a_fault_sees_only_good_credentials_and_counts_what_it_does() -> None:
    place = endpoint(
        apns_rules(),
        {"platform": "apns", "answer": {"status": 503, "reason": "ServiceUnavailable"}, "times": 1},
    )
    session = place.rules.open_session()
    statuses = []
    for request in (apns_request(authorization=None), apns_request(), apns_request()):
        verdict = place.decide(request, session, NOW)
        assert verdict.answer is not None
        statuses.append(verdict.answer.status)
    assert statuses == [403, 503, 200]
    assert place.tally.as_dict() | {"connections": None} == {
        "requests": 3,
        "accepted": 1,
        "distinct": 1,
        "duplicates": 0,
        "early": 0,
        "answers": {"200": 1, "403 MissingProviderToken": 1, "503 ServiceUnavailable": 1},
        "unanswered": {},
        "violations": {},
        "connections": None,
    }


def test_a_lost_answer_may_have_rung_the_phone() -> None:
    place = endpoint(
        apns_rules(),
        {"platform": "apns", "stall": True, "processed": True, "times": 1},
        {"platform": "apns", "rst": "CANCEL", "times": 1},
    )
    session = place.rules.open_session()
    verdicts = [place.decide(apns_request(), session, NOW) for _ in range(3)]
    assert [verdict.answer is None for verdict in verdicts] == [True, True, False]
    assert place.tally.accepted == {ALIVE.encode(): 2}
    assert place.tally.as_dict()["duplicates"] == 1
    assert place.tally.unanswered == {"stall": 1, "rst": 1}


def test_timestamps_and_headers_of_a_fault() -> None:
    answer = {"status": 410, "reason": "ExpiredToken", "timestamp_offset_s": -60, "headers": {"X-A": "b"}}
    place = endpoint(apns_rules(), {"platform": "apns", "answer": answer})
    verdict = place.decide(apns_request(), place.rules.open_session(), NOW)
    assert verdict.answer is not None
    assert verdict.answer.body == b'{"reason":"ExpiredToken","timestamp":%d}' % ((NOW - 60) * 1000)
    assert dict(verdict.answer.headers)["x-a"] == "b"


def test_a_raw_body_replaces_the_providers() -> None:
    place = endpoint(fcm_rules(), {"platform": "fcm", "answer": {"status": 500, "body": ""}})
    verdict = place.decide(fcm_request(fcm_body()), place.rules.open_session(), NOW)
    assert verdict.answer is not None
    assert (verdict.answer.status, verdict.answer.body) == (500, b"")
