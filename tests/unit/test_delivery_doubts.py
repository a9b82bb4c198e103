"""Answers that only the others' answers can explain: a 400 that blames token or message, and one 429 among many that were accepted."""

from __future__ import annotations

import pytest

from pushq.delivery.attempt import ENOUGH_DOUBTS, Attempt
from pushq.http2 import Answer, Burst, Code
from pushq.ledger.outcomes import Outcome
from pushq.providers.answers import Effect, Scope, Verdict
from tests.unit.http2_referee import burst_of


class Signal:
    """A burst's signal: the burst ends when the test says so."""

    def __init__(self) -> None:
        self.ended = False

    def set(self) -> None:
        self.ended = True

    def wait(self, timeout: float | None = None) -> bool:
        return self.ended


def judge(answer: Answer) -> Verdict:
    if answer.status == 413:
        return Verdict(Effect.REJECTED, Scope.MESSAGE, "PayloadTooLarge", 413)
    if answer.status == 429:
        return Verdict(Effect.RETRY, Scope.PROVIDER, "QUOTA_EXCEEDED", 429, wait_s=60.0)
    return Verdict(Effect.REJECTED, Scope.MESSAGE, "INVALID_ARGUMENT", 400, doubtful=True)


class Trial:
    """An attempt whose answers the test gives."""

    def __init__(self, size: int, *, at_most_once: bool = True, personal: bool = False) -> None:
        self.attempt = Attempt(bytearray(size), at_most_once, personal=personal)
        self.signal = Signal()
        self.burst = self._burst(size, 0)

    def _burst(self, size: int, start: int) -> Burst:
        burst = burst_of(size)
        burst.attach(self.signal, lambda count: None)
        burst.codes[:] = bytes([Code.IN_FLIGHT]) * size
        self.attempt.add(burst, range(start, start + size))
        return burst

    def answer(self, **statuses: int) -> None:
        """``p3=400``: the answer to the request at position 3."""
        for name, status in statuses.items():
            index = int(name[1:])
            self.burst.codes[index] = Code.OK if status == 200 else Code.ANSWERED
            if status != 200:
                self.burst.answers[index] = Answer(status, {}, b"")
        self.signal.ended = Code.IN_FLIGHT not in self.burst.codes
        self.attempt.collect(judge)

    def decide(self, *, elsewhere: bool = False) -> Attempt:
        """As at the end of a run."""
        self.attempt.settle_doubts(proven=self.attempt.proven or elsewhere)
        return self.attempt


def test_where_another_got_the_same_message_the_token_is_to_blame_and_guarded() -> None:
    trial = Trial(3)
    trial.answer(p0=400, p1=200, p2=200)
    attempt = trial.decide()
    assert attempt.halted is None
    assert {position: verdict.effect for position, verdict in attempt.guarded.items()} == {
        0: Effect.TOKEN_DEAD
    }
    assert attempt.guarded[0].guarded
    assert list(attempt.outcomes) == [Outcome.PENDING, Outcome.ACCEPTED, Outcome.ACCEPTED]


def test_the_order_of_the_answers_does_not_matter() -> None:
    trial = Trial(3)
    trial.answer(p0=400)
    # Nobody knows yet: nothing is stopped, nothing is deleted.
    assert (trial.attempt.halted, trial.attempt.guarded, trial.attempt.dead) == (None, {}, [])
    assert trial.attempt.outcomes[0] == Outcome.PENDING
    trial.answer(p1=200, p2=200)
    assert list(trial.decide().guarded) == [0]
    assert trial.attempt.halted is None


def test_where_nobody_got_it_the_message_is_to_blame() -> None:
    trial = Trial(2)
    trial.answer(p0=400, p1=400)
    # Nothing more is sent, even before it is decided.
    assert trial.attempt.halted is not None
    attempt = trial.decide()
    assert attempt.halted is not None
    assert attempt.halted.reason == "INVALID_ARGUMENT"
    assert list(attempt.outcomes) == [Outcome.REJECTED, Outcome.REJECTED]
    assert [(letter.position, letter.invalid_since) for letter in attempt.dead] == [(0, None), (1, None)]
    assert attempt.guarded == {}


def test_an_acceptance_of_an_earlier_attempt_counts() -> None:
    attempt = Attempt(bytearray([Outcome.ACCEPTED, Outcome.PENDING]), at_most_once=False)
    signal, burst = Signal(), burst_of(1)
    burst.attach(signal, lambda count: None)
    burst.codes[:] = bytes([Code.ANSWERED])
    burst.answers[0] = Answer(400, {}, b"")
    attempt.add(burst, [1])
    signal.ended = True
    attempt.collect(judge)
    attempt.settle_doubts(proven=attempt.proven)
    assert list(attempt.guarded) == [1]


def test_an_acceptance_in_another_batch_counts_and_the_send_goes_on() -> None:
    trial = Trial(2)
    trial.answer(p0=400, p1=400)
    attempt = trial.decide(elsewhere=True)
    assert attempt.halted is None
    assert list(attempt.guarded) == [0, 1]
    assert list(attempt.outcomes) == [Outcome.PENDING, Outcome.PENDING]


def test_many_doubts_and_no_acceptance_need_no_waiting_for_the_last() -> None:
    trial = Trial(ENOUGH_DOUBTS + 10)
    trial.answer(**{f"p{index}": 400 for index in range(ENOUGH_DOUBTS - 1)})
    assert trial.attempt.halted is None
    trial.answer(**{f"p{ENOUGH_DOUBTS}": 400})
    assert trial.attempt.halted is not None


def test_messages_of_their_own_say_nothing_about_each_other() -> None:
    trial = Trial(3, personal=True)
    trial.answer(p0=400, p1=200, p2=200)
    attempt = trial.decide()
    assert (attempt.halted, attempt.guarded) == (None, {})
    assert list(attempt.outcomes) == [Outcome.REJECTED, Outcome.ACCEPTED, Outcome.ACCEPTED]


def test_one_message_of_its_own_that_is_refused_stops_nobody_else() -> None:
    trial = Trial(3, personal=True)
    trial.answer(p1=413)
    assert trial.attempt.halted is None
    trial.answer(p0=200, p2=200)
    attempt = trial.decide()
    assert (attempt.halted, attempt.all_blamed) == (None, None)
    assert list(attempt.outcomes) == [Outcome.ACCEPTED, Outcome.REJECTED, Outcome.ACCEPTED]
    assert [letter.reason for letter in attempt.dead] == ["PayloadTooLarge"]


@pytest.mark.parametrize("status", [400, 413])
def test_many_messages_of_their_own_and_no_acceptance_are_the_message(status: int) -> None:
    trial = Trial(ENOUGH_DOUBTS + 1, personal=True)
    trial.answer(**{f"p{index}": status for index in range(ENOUGH_DOUBTS)})
    # What is left may be in another language.
    assert trial.attempt.halted is None
    assert trial.decide().all_blamed is not None
    trial.answer(**{f"p{ENOUGH_DOUBTS}": 200})
    assert trial.decide().all_blamed is None


def test_what_is_in_doubt_when_the_process_stops_stays_open() -> None:
    trial = Trial(2)
    trial.answer(p0=400)
    trial.attempt.abandon("shutdown", judge)
    assert trial.attempt.pending() == [0]
    assert trial.attempt.halted is None


def test_one_429_among_accepted_answers_is_about_that_device() -> None:
    trial = Trial(3, at_most_once=False)
    trial.answer(p0=200, p1=429)
    trial.answer(p2=200)
    assert trial.attempt.hold_off_s == 0.0
    assert trial.attempt.failures[1].wait_s == 60.0


def test_several_are_about_everybody_at_once() -> None:
    trial = Trial(4, at_most_once=False)
    trial.answer(p0=200, p1=429, p2=429)
    assert trial.attempt.hold_off_s == 60.0
    # Reported; the next one lengthens the pause again.
    trial.attempt.hold_off_s = 0.0
    trial.answer(p3=429)
    assert trial.attempt.hold_off_s == 60.0


def test_one_alone_is_about_everybody() -> None:
    trial = Trial(1, at_most_once=False)
    trial.answer(p0=429)
    assert trial.attempt.hold_off_s == 60.0
