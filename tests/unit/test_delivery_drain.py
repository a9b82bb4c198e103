"""The three steps of a shutdown, on a clock of the test's own."""

from __future__ import annotations

import pytest

from pushq.delivery.drain import Drain


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def steps(drain: Drain) -> tuple[bool, bool, bool]:
    return drain.begun, drain.sending_ends, drain.waiting_ends


def test_nothing_ends_before_it_has_begun(clock: Clock) -> None:
    drain = Drain(clock)
    clock.now += 1e6
    assert steps(drain) == (False, False, False)


def test_half_for_sending_and_three_seconds_for_settling(clock: Clock) -> None:
    drain = Drain(clock)
    drain.begin(20)
    found = {}
    for at in (0, 9.9, 10, 16.9, 17, 20, 30):
        clock.now = 100 + at
        found[at] = steps(drain)
    assert found == {
        0: (True, False, False),
        9.9: (True, False, False),
        10: (True, True, False),
        16.9: (True, True, False),
        17: (True, True, True),
        20: (True, True, True),
        30: (True, True, True),
    }


def test_a_short_grace_period_still_leaves_half_for_settling(clock: Clock) -> None:
    drain = Drain(clock)
    drain.begin(4)
    clock.now += 1.9
    assert steps(drain) == (True, False, False)
    clock.now += 0.1
    assert steps(drain) == (True, True, True)


def test_a_second_signal_does_not_give_more_time(clock: Clock) -> None:
    drain = Drain(clock)
    drain.begin(20)
    clock.now += 15
    drain.begin(20)
    clock.now += 2
    assert steps(drain) == (True, True, True)
