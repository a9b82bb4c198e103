"""The spans of a batch's requests: one for each burst, with counts. Nothing at all while tracing is off.

Counts are of recipients; ``requests`` is how many HTTP requests they took, fewer where one names many of them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pushq import tracing
from pushq.http2 import Burst, Code

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class RequestSpans:
    """Begun when a burst is handed to its pool, ended when it is next looked at after its last answer, a tenth of a second at most."""

    def __init__(self, app: str, platform: str) -> None:
        self._app, self._platform = app, platform
        self._open: list[tuple[Burst, Span]] = []

    def begin(self, burst: Burst, pool: str) -> None:
        if not tracing.on():
            return
        span = tracing.start(
            tracing.REQUEST,
            kind="client",
            app=self._app,
            platform=self._platform,
            pool=pool,
            requests=burst.exchanges,
            recipients=burst.count,
        )
        if span is not None:
            self._open.append((burst, span))

    def look(self, *, everything: bool = False) -> None:
        """End the spans of bursts that are over; of all of them where nobody waits any longer."""
        if not self._open:
            return
        still = []
        for burst, span in self._open:
            if burst.done or everything:
                _finish(burst, span)
            else:
                still.append((burst, span))
        self._open = still


def _finish(burst: Burst, span: Span) -> None:
    counts = summary(burst)
    if burst.count and not counts["accepted"] and not counts["refused"]:
        tracing.fail(
            span, max(Counter(burst.reasons.values()).items(), default=("no_answer", 0), key=_second)[0]
        )
    tracing.end(span, **counts)


def _second(item: tuple[str, int]) -> int:
    return item[1]


def summary(burst: Burst) -> dict[str, Any]:
    """What became of a burst's recipients, in numbers: never which."""
    codes = burst.codes
    found: dict[str, Any] = {
        "accepted": codes.count(Code.OK),
        "refused": codes.count(Code.ANSWERED),
        "not_sent": codes.count(Code.NOT_SENT) + codes.count(Code.REFUSED),
        "unknown": codes.count(Code.UNKNOWN) + codes.count(Code.IN_FLIGHT) + codes.count(Code.QUEUED),
    }
    for status, number in Counter(answer.status for answer in burst.answers.values()).items():
        found[f"status.{status}"] = number
    if burst.first_written_at is not None:
        found["queued_s"] = round(burst.first_written_at - burst.queued_at, 6)
    return found
