"""The retry policy is a value: attempt, floor, time and random in, decision out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pushq.delivery.retry import decide, postpone
from pushq.ledger.outcomes import Outcome
from pushq.settings import RetrySettings

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=1)


def wait_of(
    attempt: int, random: float, *, floor_s: float = 0.0, policy: RetrySettings | None = None
) -> float | None:
    policy = policy or RetrySettings(max_attempts=10)
    return decide(policy, attempt=attempt, floor_s=floor_s, now=NOW, expires_at=LATER, random=random).retry_in


def test_wait_doubles_to_the_ceiling_with_full_jitter() -> None:
    assert [wait_of(n, 0.5) for n in range(1, 8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert wait_of(3, 0.0) == 0.0


def test_never_below_what_the_provider_demands() -> None:
    assert wait_of(1, 0.99, floor_s=60.0) == 60.0
    assert wait_of(6, 0.99, floor_s=10.0) == pytest.approx(29.7)


@pytest.mark.parametrize(("max_attempts", "tries"), [(0, 1), (1, 1), (3, 3)])
def test_attempts_end(max_attempts: int, tries: int) -> None:
    """Zero means no second try, not infinitely many."""
    policy = RetrySettings(max_attempts=max_attempts)
    made = 1
    while wait_of(made, 0.5, policy=policy) is not None:
        made += 1
    assert made == tries
    ended = decide(policy, attempt=made, floor_s=0, now=NOW, expires_at=LATER, random=0.5)
    assert ended.ending is Outcome.EXHAUSTED


def test_a_wait_beyond_the_expiry_ends_the_recipient_as_expired() -> None:
    soon = NOW + timedelta(seconds=30)
    late = decide(RetrySettings(), attempt=1, floor_s=30.0, now=NOW, expires_at=soon, random=0.5)
    assert (late.retry_in, late.ending) == (None, Outcome.EXPIRED)


def test_unsent_recipients_wait_without_end_but_for_the_expiry() -> None:
    policy = RetrySettings(max_attempts=1)
    waits = [
        postpone(policy, runs=n, floor_s=0, now=NOW, expires_at=LATER, random=0.0).retry_in
        for n in (1, 2, 6, 50)
    ]
    assert waits == [0.5, 1.0, 15.0, 15.0]
    over = postpone(policy, runs=1, floor_s=0, now=LATER, expires_at=LATER, random=0.0)
    assert over.ending is Outcome.EXPIRED
