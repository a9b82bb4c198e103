"""The soak's judgements: what grows, whether ledger and providers agree, and which faults there are."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushq.errors import ServiceUnavailable
from pushq.ledger.inventory import Ended
from pushq.ledger.outcomes import Outcome
from pushq.loadtest.agreement import compare, disagreements
from pushq.loadtest.census import called, worker_gauges
from pushq.loadtest.mishaps import mishaps
from pushq.loadtest.routine import Routine
from pushq.loadtest.soak import Plan, cohorts, guarantee_of, verdicts
from pushq.loadtest.trend import trend
from pushq.mock.faults import FaultTable
from pushq.platforms import PLATFORMS


def minutes(values: list[float]) -> list[tuple[float, float]]:
    return [(60.0 * number, value) for number, value in enumerate(values)]


def test_a_leak_is_seen_through_its_noise() -> None:
    rng = random.Random(1)
    leaking = trend(minutes([100 + 0.5 * n + rng.gauss(0, 2) for n in range(60)]))
    assert leaking.verdict == "growing"
    assert leaking.per_hour == pytest.approx(30, rel=0.2)
    assert trend(minutes([100 + rng.gauss(0, 5) for _ in range(60)])).verdict == "flat"


@given(st.lists(st.floats(0, 100), min_size=8, max_size=100), st.floats(0.1, 1e3))
def test_in_another_unit_it_is_the_same(values: list[float], factor: float) -> None:
    before, after = trend(minutes(values)), trend(minutes([value * factor for value in values]))
    assert after.rise == pytest.approx(before.rise * factor, abs=1e-6 * factor)
    assert after.noise == pytest.approx(before.noise * factor, abs=1e-6 * factor)


def test_what_fills_at_the_beginning_is_no_growth() -> None:
    assert trend(minutes([10.0 * n for n in range(10)] + [100.0] * 40)).verdict == "flat"
    assert trend(minutes([100.0 - n for n in range(40)])).verdict == "falling"
    assert trend(minutes([1.0, 2.0, 3.0])).verdict == "too few"
    assert trend([]).verdict == "too few"


def test_a_small_rise_of_a_still_figure_is_allowed_for() -> None:
    steps = minutes([50.0] * 30 + [51.5] * 30)
    assert trend(steps).verdict == "growing"
    assert trend(steps, least=2.0).verdict == "flat"


def test_rows_are_judged_by_what_a_send_costs() -> None:
    looks = [
        (60.0 * n, {"rows.sends": 10.0 * n, "rows.dead_letters": 70.0 * n, "open.leases": 3.0, "sum.cpu_s.core": 9.0 * n})
        for n in range(1, 41)
    ]  # fmt: skip
    found = verdicts(looks)
    assert {name: line["verdict"] for name, line in found.items()} == {
        "rows.dead_letters per send": "flat",
        "open.leases": "flat",
    }
    assert found["rows.dead_letters per send"]["last"] == 7
    leaking = [(at, look | {"rows.dead_letters": look["rows.dead_letters"] ** 2}) for at, look in looks]
    assert verdicts(leaking)["rows.dead_letters per send"]["verdict"] == "growing"


DEVICES = {1: ("apns", "a"), 2: ("apns", "b"), 3: ("fcm", "c")}


def batch(guarantee: str, *outcomes: Outcome, devices: tuple[int, ...] = (1, 2)) -> Ended:
    return Ended("broadcast", guarantee, "apns", list(devices), bytes(outcomes))


OK, UNKNOWN, DEAD = Outcome.ACCEPTED, Outcome.UNKNOWN, Outcome.TOKEN_DEAD


@pytest.mark.parametrize(
    ("batches", "accepted", "wrong"),
    [
        ([batch("at_most_once", OK, DEAD)] * 2, {"a": 2}, []),
        ([batch("at_most_once", UNKNOWN, UNKNOWN)], {"a": 1}, []),
        ([batch("at_most_once", OK, UNKNOWN)], {"a": 2, "b": 1}, ["at_most_once: 1 delivered again"]),
        (
            [batch("at_most_once", OK, OK)],
            {"a": 1},
            ["at_most_once: 1 accepted in the ledger, and by no provider"],
        ),
        ([batch("at_least_once", OK, OK)], {"a": 3, "b": 1}, []),
        ([batch("at_least_once", OK, UNKNOWN)], {"a": 1}, ["at_least_once: 1 unknown"]),
        (
            [batch("at_least_once", OK, Outcome.CLAIMED), batch("at_least_once")],
            {"a": 1},
            ["at_least_once: 3 recipients without an end"],
        ),
    ],
)
def test_ledger_and_providers_are_compared_by_token(
    batches: list[Ended], accepted: dict[str, int], wrong: list[str]
) -> None:
    sides = compare(batches, DEVICES, {"apns": accepted, "fcm": {}})
    assert disagreements(sides) == wrong


def test_sums_of_a_side() -> None:
    other = batch("at_least_once", OK, devices=(3,))
    sides = compare(
        [batch("at_most_once", OK, UNKNOWN), other], DEVICES, {"apns": {"a": 1, "b": 1}, "fcm": {"c": 4}}
    )
    once, least = sides["at_most_once"], sides["at_least_once"]
    assert (once.recipients, once.counted, once.repeated, once.doubled) == (2, 2, 1, 0)
    assert (least.counted, least.repeated, least.missing) == (4, 3, 0)
    assert once.as_json()["batches"] == {"broadcast": 1}


def test_a_device_has_one_guarantee() -> None:
    mixed = [batch("at_most_once", OK, OK), batch("at_least_once", OK, OK)]
    with pytest.raises(ValueError, match="both guarantees"):
        compare(mixed, {1: ("apns", "a"), 2: ("apns", "b")}, {"apns": {}})
    users = {
        guarantee: {one.user_id for one in each} for guarantee, each in cohorts(Plan(devices=100)).items()
    }
    assert not users["at_most_once"] & users["at_least_once"]
    assert all(guarantee_of(user) == guarantee for guarantee, each in users.items() for user in each)


def test_the_mock_knows_every_fault_and_the_shares_add_up() -> None:
    table = mishaps(0.02, PLATFORMS)
    FaultTable(table)
    for platform in ("apns", "fcm"):
        shares = [
            each["probability"] for each in table if each["platform"] == platform and "probability" in each
        ]
        assert sum(share for share in shares if share > 1e-4) == pytest.approx(0.02)
    kinds = {key for each in table for key in each} - {"platform", "probability", "processed"}
    assert kinds == {
        "answer",
        "delay_ms",
        "stall",
        "rst",
        "goaway",
        "cut",
        "limit",
        "idle_close",
        "late_window",
    }
    assert not [each for each in mishaps(0.02, ("apns",)) if each["platform"] != "apns"]


def test_keys_are_named_by_what_they_have_in_common() -> None:
    assert called(b"pushq:journal:6f1c63d5-5f4e-4f7e-9d3b-1c2d3e4f5a6b:12") == "pushq:journal:*:*"
    assert called(b"users:7:4711:tokens:apns") == "users:*:*:tokens:apns"
    assert called(b"push.apns.transactional") == "push.apns.transactional"


def test_gauges_of_several_pools_are_added() -> None:
    page = (
        "# TYPE pushq_http2_connections gauge\n"
        'pushq_http2_connections{pool="a",state="open"} 3\npushq_http2_connections{pool="b",state="open"} 4\n'
        'pushq_http2_connections{pool="a",state="draining"} 1\n'
        "# TYPE pushq_greenlets gauge\npushq_greenlets 17\n# TYPE other gauge\nother 1\n"
    )
    assert worker_gauges("apns", page) == {
        "connections.open.apns": 7,
        "connections.draining.apns": 1,
        "greenlets.apns": 17,
    }


def test_a_routine_counts_what_fails_and_raises_what_should_not() -> None:
    steps: list[Any] = [None, ServiceUnavailable("Redis", "PUSHQ_REDIS_URL", "gone"), None, KeyError("x")]
    ended = threading.Event()

    def step() -> None:
        found = steps.pop(0)
        if not steps:
            ended.set()
        if found is not None:
            raise found

    routine = Routine("test", 0.001, step)
    with pytest.raises(KeyError), routine:
        assert ended.wait(60)
    assert routine.done == 2
    assert routine.failed == {"ServiceUnavailable": 1}
