"""What an attempt makes of its bursts' codes when it may not wait for the rest."""

from __future__ import annotations

import pytest

from pushq.delivery.attempt import Attempt
from pushq.http2 import Answer, Burst, Code
from pushq.ledger.outcomes import Outcome
from pushq.providers.answers import Effect, Scope, Verdict
from tests.unit.http2_referee import burst_of


class Never:
    """A burst's signal, of a burst that does not end."""

    def set(self) -> None:
        pass

    def wait(self, timeout: float | None = None) -> bool:
        return False


def gone(answer: Answer) -> Verdict:
    return Verdict(Effect.TOKEN_DEAD, Scope.RECIPIENT, "Unregistered", answer.status)


def started(size: int, *, at_most_once: bool) -> tuple[Attempt, Burst]:
    """All handed over, and looked at once."""
    burst = burst_of(size)
    burst.attach(Never(), lambda count: None)
    burst.codes[:] = bytes([Code.IN_FLIGHT]) * size
    attempt = Attempt(bytearray(size), at_most_once)
    attempt.add(burst, range(size))
    attempt.collect(gone)
    return attempt, burst


def come_in(burst: Burst) -> None:
    """What happens between the last look and the end of the waiting, while the journal is written."""
    codes = [Code.OK, Code.UNKNOWN, Code.IN_FLIGHT, Code.ANSWERED, Code.REFUSED, Code.NOT_SENT, Code.QUEUED]
    burst.codes[:] = bytes(codes)
    burst.reasons = {1: "timeout", 4: "goaway", 5: "cancelled"}
    burst.answers[3] = Answer(410, {}, b"")


def test_at_most_once_gives_up_nobody_who_may_have_been_reached() -> None:
    attempt, burst = started(7, at_most_once=True)
    come_in(burst)
    spans = attempt.abandon("shutdown", gone)
    expected = [Outcome.ACCEPTED, Outcome.UNKNOWN, Outcome.UNKNOWN, Outcome.TOKEN_DEAD]
    assert list(attempt.outcomes[:4]) == expected
    assert attempt.pending() == [4, 5, 6]
    assert spans == [(0, bytes(attempt.outcomes))]
    assert sorted((letter.position, letter.reason) for letter in attempt.dead) == [
        (1, "no_answer_timeout"),
        (2, "no_answer_shutdown"),
        (3, "Unregistered"),
    ]


def test_at_least_once_repeats_no_answer_that_is_there() -> None:
    attempt, burst = started(7, at_most_once=False)
    come_in(burst)
    attempt.abandon("shutdown", gone)
    assert attempt.outcomes[0] == Outcome.ACCEPTED
    assert attempt.outcomes[3] == Outcome.TOKEN_DEAD
    assert attempt.pending() == [1, 2, 4, 5, 6]
    assert {position: failure.reason for position, failure in attempt.failures.items()} == {
        1: "no_answer_timeout",
        2: "no_answer_shutdown",
    }


@pytest.mark.parametrize("at_most_once", [False, True])
def test_what_was_abandoned_is_final(at_most_once: bool) -> None:
    attempt, burst = started(2, at_most_once=at_most_once)
    attempt.abandon("shutdown", gone)
    before = bytes(attempt.outcomes)
    burst.codes[:] = bytes([Code.OK]) * 2
    assert attempt.collect(gone) == []
    assert attempt.abandon("shutdown", gone) == []
    assert attempt.outcomes == before


def test_what_came_in_is_counted_once() -> None:
    attempt, burst = started(7, at_most_once=False)
    assert (attempt.handed, attempt.final) == (0, 0)
    burst.codes[0] = Code.OK
    attempt.collect(gone)
    attempt.collect(gone)
    assert (attempt.handed, attempt.final, attempt.errors) == (1, 1, {})
    come_in(burst)
    attempt.abandon("shutdown", gone)
    # Handed over: OK, UNKNOWN, ANSWERED, and the one that is given up in flight. Refused or never written ones were not.
    assert (attempt.handed, attempt.final, attempt.errors) == (4, 2, {"Unregistered": 1})


@pytest.mark.parametrize(("flow_control", "told"), [(True, (2, 0)), (False, (1, 1))])
def test_flow_control_is_no_failure_of_the_provider(flow_control: bool, told: tuple[int, int]) -> None:
    """HMS says it with 503, a thousand devices at a time: five of these would open the breaker."""

    def judge(answer: Answer) -> Verdict:
        return Verdict(
            Effect.RETRY, Scope.PROVIDER, "status_503", answer.status, wait_s=2.0, flow_control=flow_control
        )

    attempt, burst = started(2, at_most_once=False)
    burst.codes[:] = bytes([Code.OK, Code.ANSWERED])
    burst.answers[1] = Answer(503, {}, b"")
    attempt.collect(judge)
    assert (attempt.answered, attempt.failed) == told
    assert attempt.hold_off_s == (2.0 if flow_control else 0.0)
