"""Beat's pulse: what a probe may kill it for, and what not."""

from __future__ import annotations

from pushq.tasks.clock import STUCK_S, Pulse


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_clock_that_does_not_turn_is_stuck() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    clock.now += STUCK_S
    assert pulse.stuck() is None
    clock.now += 1
    assert pulse.stuck() == f"has not turned for {STUCK_S + 1:.0f} s"
    pulse.turned()
    assert pulse.stuck() is None


def test_waiting_for_the_broker_is_not_being_stuck() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    pulse.connecting(True)
    clock.now += 10 * STUCK_S
    assert pulse.stuck() is None
    assert pulse.in_vain() == "waits for the broker"
    pulse.connecting(False)
    assert pulse.stuck() is None


def test_it_is_ready_after_its_first_publication() -> None:
    pulse = Pulse(Clock())
    assert pulse.in_vain() == "has published nothing yet"
    pulse.published(None)
    assert pulse.in_vain() is None
    pulse.published("the last publication failed: OperationalError")
    assert pulse.in_vain() == "the last publication failed: OperationalError"
