"""The simulated broadcast against what can be reckoned by hand: each limit alone, and that nothing is lost on the way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushq.loadtest.simulation import Clock, Costs, Machine, Process, Quota, Setup, fit, simulate

US = 1e-6
FREE = Costs({}, {})


def setup(**changes: Any) -> Setup:
    known: dict[str, Any] = {
        "devices": {"apns": 100_000},
        "workers": {"apns": 1},
        "connections": {"apns": 1},
        "streams": {"apns": 1000},
        "latency_s": 0.1,
        "cores": {"here": 2.0},
        "machine": {"apns": ("here",), "postgresql": ("here",), "core": ("here",)},
    }
    return Setup(**known | changes)


def test_streams_alone_set_the_pace() -> None:
    """1,000 in flight for 0.1 s are 10,000 a second."""
    found = simulate(setup(), FREE)
    assert found.seconds == pytest.approx(10, rel=0.02)
    assert found.rate == pytest.approx(10_000, rel=0.01)
    assert sum(found.per_second) == 100_000
    # The last batches do not fall to both in equal parts.
    assert simulate(setup(workers={"apns": 2}), FREE).seconds == pytest.approx(5, rel=0.1)


def test_a_core_alone_sets_the_pace() -> None:
    """100 microseconds each are 10,000 a second for a process, whatever cores there are, and 20,000 for two."""
    costs = Costs({"apns": 100 * US}, {})
    wide = {"streams": {"apns": 100_000}}
    assert simulate(setup(**wide), costs).seconds == pytest.approx(10, rel=0.03)
    two = simulate(setup(**wide, workers={"apns": 2}), costs)
    assert two.seconds == pytest.approx(5, rel=0.05)
    assert two.busy["machine here"] == pytest.approx(1, rel=0.05)
    # Three processes share two cores.
    three = simulate(setup(**wide, workers={"apns": 3}), costs)
    assert three.seconds == pytest.approx(5, rel=0.05)


def test_a_quota_alone_sets_the_pace_and_its_ramp_the_beginning() -> None:
    quota = {"quotas": {"apns": 600_000.0}, "streams": {"apns": 100_000}}
    assert simulate(setup(**quota), FREE).seconds == pytest.approx(100_000 / 9850 + 0.1, rel=0.01)
    ramped = simulate(setup(**quota, ramp_s=10.0), FREE)
    assert ramped.per_second[1] < 2500
    # Ten seconds at 55 % on average, the rest in full.
    assert ramped.seconds == pytest.approx(10 + (100_000 - 0.55 * 98_500) / 9850, rel=0.03)


def test_the_window_holds_back_what_is_planned() -> None:
    slow = {"latency_s": 1.0, "streams": {"apns": 2500}, "concurrency": 2}
    found = simulate(setup(**slow, window=4), FREE)
    assert found.published == {"apns": 2}
    assert found.planned_s < 0.1
    narrow = simulate(setup(streams={"apns": 100_000}, window=1), FREE)
    # One batch of 2,500 at a time, 0.1 s and a publication each.
    assert narrow.seconds == pytest.approx(40 * 0.105, rel=0.05)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 60_000),
    st.integers(0, 60_000),
    st.integers(1, 3),
    st.floats(0, 50),
    st.floats(0, 20),
    st.integers(1, 64),
)
def test_everybody_is_answered_once_and_no_core_is_used_twice(
    apns: int, fcm: int, workers: int, worker_us: float, database_us: float, window: int
) -> None:
    costs = Costs(
        {"apns": worker_us * US, "fcm": worker_us * US, "postgresql": database_us * US, "core": US},
        {"postgresql": database_us * US / 2, "core": US / 2},
        {"core": 0.1, "apns": 0.05},
    )
    found = simulate(
        setup(
            devices={"apns": apns, "fcm": fcm},
            workers={"apns": workers, "fcm": workers},
            connections={"apns": 1, "fcm": 2},
            streams={"apns": 1000, "fcm": 100},
            window=window,
            machine={"apns": ("here",), "fcm": ("here",), "postgresql": ("here",), "core": ("here",)},
        ),
        costs,
    )
    assert sum(found.per_second) == apns + fcm
    assert 0 < found.planned_s <= found.seconds
    assert all(share <= 1 + 1e-6 for name, share in found.busy.items() if name.startswith("machine"))


def test_a_machine_is_shared_fairly() -> None:
    clock = Clock()
    machine = Machine(clock, 1.0)
    ended: dict[str, float] = {}
    for name, cpu in (("short", 1.0), ("long", 3.0)):
        Process(machine).run(cpu, lambda name=name: ended.update({name: clock.now}))  # type: ignore[misc]
    clock.run()
    assert ended == {"short": pytest.approx(2.0), "long": pytest.approx(4.0)}
    assert machine.used == pytest.approx(4.0)


def test_a_process_does_one_job_at_a_time() -> None:
    clock = Clock()
    machine = Machine(clock, 2.0)
    one, ended = Process(machine), []
    for cpu in (1.0, 1.0):
        one.run(cpu, lambda: ended.append(clock.now))
    clock.run()
    assert ended == [1.0, 2.0]


def test_an_unlimited_quota_asks_nobody() -> None:
    clock, asked = Clock(), []
    Quota(clock, None, 60.0).take(5, lambda: asked.append(clock.now))
    assert asked == [0.0]


def test_wrong_set_ups_are_named() -> None:
    with pytest.raises(ValueError, match="none for fcm"):
        simulate(setup(devices={"fcm": 1}), FREE)
    with pytest.raises(ValueError, match="found there"):
        simulate(setup(machine={"apns": ("there",)}), FREE)


@given(st.floats(0, 10), st.floats(0.1, 100))
def test_a_line_is_found_again(fixed: float, each: float) -> None:
    found = fit([(n, fixed + each * n) for n in (1.0, 3.0, 10.0)])
    assert found[0] == pytest.approx(fixed, abs=1e-6)
    assert found[1] == pytest.approx(each, rel=1e-6)


def test_nothing_is_below_zero() -> None:
    assert fit([(1.0, 1.0), (2.0, 4.0)])[0] == 0.0
    assert fit([(2.0, 4.0)]) == (0.0, 2.0)
