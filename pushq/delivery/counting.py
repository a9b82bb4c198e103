"""What the batches of a process add to its metrics: at each look at the answers, and at each settlement."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from pushq import metrics
from pushq.delivery.attempt import Attempt
from pushq.ledger.batches import DeadLetter, Settled
from pushq.ledger.outcomes import COLUMNS, Outcome
from pushq.ledger.sends import Send
from pushq.providers.error_metrics import count_errors
from pushq.submission import lifetime

#: The label of a failure, by the ledger's column.
_FAILURES = {column: outcome.name.lower() for outcome, column in COLUMNS.items()}


class Counting:
    """Counts for one run of a batch."""

    def __init__(self, send: Send, platform: str) -> None:
        self._target = send.app, platform
        self._lane = send.kind
        # Not the time of the call: that may have asked for a later one, and a replay begins the send anew.
        self._begun = send.expires_at - lifetime(send.notification)

    def answers(self, attempt: Attempt, now: datetime) -> None:
        """Take what came in since the last look; ``attempt``'s counters begin again.

        A batch looks ten times a second, and when a chunk has ended: so much too late is an answer of a chunk at most.
        """
        platform = self._target[1]
        if attempt.handed:
            metrics.push_sent.labels(*self._target, self._lane).inc(attempt.handed)
        if attempt.final:
            seconds = max((now - self._begun).total_seconds(), 0.0)
            metrics.push_e2e_latency.observe((platform, self._lane), seconds, attempt.final)
        if attempt.errors:
            count_errors(platform, attempt.errors)
            attempt.errors.clear()
        attempt.handed = attempt.final = 0

    def settled(self, settled: Settled, letters: list[DeadLetter], attempt: Attempt) -> None:
        """Take what the ledger has just written: whoever is fenced counts no recipient."""
        ended = dict(settled.ended)
        delivered = ended.pop(COLUMNS[Outcome.ACCEPTED], 0)
        if delivered:
            metrics.push_delivered.labels(*self._target, self._lane).inc(delivered)
        for column, count in ended.items():
            if count:
                metrics.push_failed.labels(*self._target, self._lane, _FAILURES[column]).inc(count)
        if attempt.failures and not settled.done:
            metrics.push_retries.labels(*self._target, self._lane).inc(len(attempt.failures))
        for outcome, count in Counter(letter.outcome for letter in letters).items():
            metrics.push_dead_letters.labels(*self._target, outcome.name.lower()).inc(count)
        lost = Counter(letter.reason for letter in letters if letter.outcome is Outcome.UNKNOWN)
        for reason, count in lost.items():
            metrics.unknown.labels(*self._target, reason).inc(count)
