"""Should it be tried again? And when? Pure: clock and random are passed in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from pushq.ledger.outcomes import Outcome
from pushq.settings import RetrySettings


@dataclass(frozen=True)
class Decision:
    """``retry_in``: seconds until the next attempt; or None, and ``ending`` is what the recipients end as."""

    retry_in: float | None
    ending: Outcome | None = None


def decide(
    policy: RetrySettings,
    *,
    attempt: int,
    floor_s: float,
    now: datetime,
    expires_at: datetime,
    random: float,
) -> Decision:
    """What becomes of recipients whose attempt failed in a way that may be repeated.

    Args:
        attempt: how many times they have been tried, at least 1.
        floor_s: seconds that the provider wants to be left alone.
        random: from [0, 1): the jitter.

    With ``max_attempts`` 0 or 1 nothing is tried again. The wait is exponential with full jitter, but never below ``floor_s``,
    and never beyond the message's expiry.
    """
    if attempt >= policy.max_attempts:
        return Decision(None, Outcome.EXHAUSTED)
    ceiling = min(policy.max_delay, policy.initial_delay * 2.0 ** (attempt - 1))
    return unless_expired(max(ceiling * random, floor_s), now, expires_at)


def postpone(
    policy: RetrySettings, *, runs: int, floor_s: float, now: datetime, expires_at: datetime, random: float
) -> Decision:
    """When to come back for recipients that were surely not processed: this counts as no attempt, and ends only by expiry.

    Args:
        runs: how often the batch has been taken up, at least 1; the wait doubles with it, half of it is jitter.
    """
    ceiling = min(policy.max_delay, policy.initial_delay * 2.0 ** min(runs - 1, 30))
    return unless_expired(max(ceiling * (0.5 + random / 2), floor_s), now, expires_at)


def unless_expired(wait: float, now: datetime, expires_at: datetime) -> Decision:
    """Wait, or end as expired when the message would be too late by then."""
    if now + timedelta(seconds=wait) >= expires_at:
        return Decision(None, Outcome.EXPIRED)
    return Decision(wait)


def comes_back(waits: Iterable[float]) -> float:
    """When a batch runs again whose open recipients have these waits (at least one): none of those that run then is early.

    Not simply the longest: one recipient that a provider wants left alone for an hour must not keep the others. Waits close to
    the shortest one are sat out together, for every run of a batch has its price.
    """
    ordered = sorted(waits)
    latest = ordered[0] + max(1.0, ordered[0] / 2)
    return max(wait for wait in ordered if wait <= latest)
