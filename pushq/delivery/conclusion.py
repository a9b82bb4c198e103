"""What a run of a batch leads to: who is tried again and when, and who is not. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pushq.delivery.attempt import Attempt, Failure
from pushq.delivery.retry import Decision, comes_back, decide, postpone, unless_expired
from pushq.ledger.outcomes import Outcome
from pushq.settings import RetrySettings


@dataclass(frozen=True)
class Conclusion:
    """``retry_in``: seconds until the batch runs again, None when nobody is left.

    ``waits``: seconds that each recipient has to wait, None when nobody waits longer than the batch.
    """

    retry_in: float | None
    waits: list[float] | None = None


@dataclass(frozen=True)
class Circumstances:
    """What the decision rests on beside the attempt itself.

    Attributes:
        attempts: how often each recipient has been tried, this run included.
        waits: seconds that recipients had left to wait when the run began, as in :class:`pushq.ledger.batches.Lease`.
        runs: how often the batch has been taken up, at least 1.
        again_in: when those come back whose turn did not come, if something other than a failure stopped the run (a pause, a
            rate limit, a shutdown); None: after the back-off.
        random: from [0, 1): the jitter.
    """

    policy: RetrySettings
    attempts: bytes
    waits: Sequence[float] | None
    runs: int
    now: datetime
    expires_at: datetime
    random: float
    again_in: float | None = None


def conclude(attempt: Attempt, found: Circumstances) -> Conclusion:
    """Decide for every recipient that is open, and write what they end as into ``attempt``.

    Each has its own count of attempts and its own wait. Who was not tried (never sent, refused before processing, or a credential
    at fault) loses no attempt.
    """
    waits: dict[int, float] = {}
    ended: dict[Outcome, list[int]] = {}
    # Recipients with the same history share a decision, and so the jitter: else each would need a run of its own.
    known: dict[tuple[int, Failure | None], Decision] = {}
    for position in attempt.pending():
        attempt.outcomes[position] = Outcome.PENDING
        failure = attempt.failures.get(position)
        left = 0.0 if failure is not None or found.waits is None else found.waits[position]
        if left > 0:
            decision = unless_expired(left, found.now, found.expires_at)
        else:
            key = found.attempts[position], failure
            if key not in known:
                known[key] = _decide(failure, found.attempts[position], found)
            decision = known[key]
        if decision.ending is not None:
            ended.setdefault(decision.ending, []).append(position)
        elif decision.retry_in is not None:
            waits[position] = decision.retry_in
    for ending, positions in ended.items():
        attempt.end_pending(positions, ending)
    if not waits:
        return Conclusion(None)
    retry_in = comes_back(set(waits.values()))
    if max(waits.values()) <= retry_in:
        return Conclusion(retry_in)
    return Conclusion(retry_in, [waits.get(position, 0.0) for position in range(len(attempt.outcomes))])


def _decide(failure: Failure | None, attempts: int, found: Circumstances) -> Decision:
    if failure is not None and failure.counts:
        return decide(
            found.policy,
            attempt=attempts,
            floor_s=failure.wait_s,
            now=found.now,
            expires_at=found.expires_at,
            random=found.random,
        )
    floor = failure.wait_s if failure is not None else 0.0
    if found.again_in is not None:
        return unless_expired(max(found.again_in, floor), found.now, found.expires_at)
    return postpone(
        found.policy,
        runs=found.runs,
        floor_s=floor,
        now=found.now,
        expires_at=found.expires_at,
        random=found.random,
    )
