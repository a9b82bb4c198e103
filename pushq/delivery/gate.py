"""Permission to send: how many requests may go out now, and how long to wait otherwise.

The delivery asks right before it hands a chunk to the pool, and reports what came of it. A gate never waits by itself.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Grant:
    """An answer to :meth:`Gate.ask`.

    Attributes:
        permits: requests that may be sent now, at most as many as were wanted.
        wait_s: without permits, seconds after which to ask again; more than 0.
        reason: without permits, why: ``rate``, ``send_rate``, ``retry_after`` or ``breaker_open``.
    """

    permits: int
    wait_s: float = 0.0
    reason: str | None = None


class Gate(Protocol):
    """Rate limits, pauses that a provider demanded, and circuit breakers, for the whole fleet."""

    def ask(
        self,
        app: str,
        platform: str,
        *,
        transactional: bool,
        send_id: uuid.UUID,
        rate: int | None,
        want: int,
    ) -> Grant:
        """Permits for up to ``want`` requests. Never blocks longer than Redis' time-out.

        Args:
            transactional: draws on the reserved share.
            rate: requests per second of this send for the whole fleet; None is unlimited.
        """
        ...

    def report(self, app: str, platform: str, *, answered: int, failed: int) -> None:
        """For the breaker. ``failed``: answers of 5xx, requests without an answer, and chunks without a connection."""
        ...

    def hold_off(self, app: str, platform: str, seconds: float) -> None:
        """The provider wants a pause from everybody."""
        ...


class OpenGate:
    """Everything is allowed."""

    def ask(
        self,
        app: str,
        platform: str,
        *,
        transactional: bool,
        send_id: uuid.UUID,
        rate: int | None,
        want: int,
    ) -> Grant:
        return Grant(want)

    def report(self, app: str, platform: str, *, answered: int, failed: int) -> None:
        pass

    def hold_off(self, app: str, platform: str, seconds: float) -> None:
        pass
