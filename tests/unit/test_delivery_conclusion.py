"""What a run of a batch leads to, recipient by recipient."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pushq.delivery.attempt import Attempt, Failure
from pushq.delivery.conclusion import Circumstances, Conclusion, conclude
from pushq.delivery.retry import comes_back
from pushq.ledger.outcomes import Outcome
from pushq.settings import RetrySettings

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def attempt(size: int, failures: dict[int, Failure], *, open_: set[int] | None = None) -> Attempt:
    """Everybody is accepted but those who failed and the others that are ``open_``."""
    outcomes = bytearray([Outcome.ACCEPTED]) * size
    for position in failures.keys() | (open_ or set()):
        outcomes[position] = Outcome.PENDING
    return Attempt(outcomes, at_most_once=False, failures=failures)


def found(attempts: list[int], **changes: Any) -> Circumstances:
    facts: dict[str, Any] = {
        "policy": RetrySettings(max_attempts=3, initial_delay=1, max_delay=30),
        "attempts": bytes(attempts),
        "waits": None,
        "runs": 1,
        "now": NOW,
        "expires_at": NOW + timedelta(days=1),
        "random": 0.5,
    }
    return Circumstances(**facts | changes)


def test_nobody_left() -> None:
    assert conclude(attempt(3, {}), found([1, 1, 1])) == Conclusion(None)


def test_each_has_its_own_count_of_attempts() -> None:
    """The first has had its three tries, the second its first, the third none: it was never sent."""
    busy = Failure("ServiceUnavailable", 503)
    tried = attempt(3, {0: busy, 1: busy}, open_={2})
    assert conclude(tried, found([3, 1, 0])) == Conclusion(0.75)
    assert list(tried.outcomes) == [Outcome.EXHAUSTED, Outcome.PENDING, Outcome.PENDING]
    assert [(d.position, d.outcome, d.reason) for d in tried.dead] == [
        (0, Outcome.EXHAUSTED, "ServiceUnavailable")
    ]


def test_each_has_its_own_wait() -> None:
    """One that is to be left alone for an hour does not keep the others; those close together come together."""
    tried = attempt(
        4,
        {
            0: Failure("QUOTA_EXCEEDED", 429, 3600.0),
            1: Failure("UNAVAILABLE", 503, 10.0),
            2: Failure("UNAVAILABLE", 503, 12.0),
        },
    )
    assert conclude(tried, found([1] * 4)) == Conclusion(12.0, [3600.0, 10.0, 12.0, 0.0])


def test_a_wait_that_is_not_over_goes_on() -> None:
    """The second was not due in this run, and so lost neither time nor an attempt."""
    tried = attempt(3, {0: Failure("ServiceUnavailable", 503, 5.0)}, open_={1})
    assert conclude(tried, found([1, 1, 1], waits=[0.0, 300.0, -2.0])) == Conclusion(5.0, [5.0, 300.0, 0.0])


def test_an_old_wait_does_not_shorten_a_new_one() -> None:
    tried = attempt(2, {0: Failure("TooManyRequests", 429, 30.0)})
    assert conclude(tried, found([1, 1], waits=[-1.0, 0.0])) == Conclusion(30.0)


@pytest.mark.parametrize("attempts", [0, 3])
def test_a_refused_credential_costs_no_attempt(attempts: int) -> None:
    expired = Failure("ExpiredProviderToken", 403, counts=False)
    tried = attempt(2, {0: expired, 1: expired})
    assert conclude(tried, found([attempts] * 2, runs=3)) == Conclusion(
        3.0
    )  # 4 s of back-off, half of it jitter
    assert tried.dead == []


def test_who_could_not_be_sent_comes_again_when_the_obstacle_says_so() -> None:
    held_up = attempt(3, {0: Failure("ServiceUnavailable", 503, 2.0)}, open_={1, 2})
    assert conclude(held_up, found([1, 0, 0], again_in=40.0)) == Conclusion(2.0, [2.0, 40.0, 40.0])
    paused = attempt(2, {}, open_={0, 1})
    assert conclude(paused, found([0, 0], again_in=0.0)) == Conclusion(0.0)


def test_a_wait_beyond_the_message_s_life_ends_only_who_has_it() -> None:
    tried = attempt(3, {0: Failure("QUOTA_EXCEEDED", 429, 60.0), 1: Failure("UNAVAILABLE", 503, 10.0)})
    assert conclude(tried, found([1, 1, 1], expires_at=NOW + timedelta(seconds=30))) == Conclusion(10.0)
    assert list(tried.outcomes) == [Outcome.EXPIRED, Outcome.PENDING, Outcome.ACCEPTED]
    assert [(d.position, d.outcome, d.reason, d.status) for d in tried.dead] == [
        (0, Outcome.EXPIRED, "QUOTA_EXCEEDED", 429)
    ]


@pytest.mark.parametrize(
    ("waits", "expected"),
    [
        ([0.0], 0.0),
        ([0.3, 1.2, 1.4], 1.2),
        ([1.0, 5.0], 1.0),
        ([10.0, 14.9, 15.1, 3600.0], 14.9),
        ([60.0, 90.0, 91.0], 90.0),
    ],
)
def test_a_batch_comes_back_for_the_first_and_those_close_to_it(waits: list[float], expected: float) -> None:
    assert comes_back(waits) == expected
