"""Permission to send: how many requests may go out now, and how long to wait otherwise.

The delivery asks right before it hands a chunk to the pool, and reports what came of it. A gate never waits by itself.
"""

from __future__ import annotations

import uuid
from typing import Protocol

from pushq.limits.grant import Grant

__all__ = ["Gate", "Grant", "OpenGate"]


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

    def report(
        self, app: str, platform: str, *, answered: int, failed: int, probe: bool | None = None
    ) -> None:
        """For the breaker; no request counts twice, but for the probe.

        Args:
            answered: requests with an answer other than 5xx, whatever it says (429 as well).
            failed: answers of 5xx, requests without an answer, and those of a chunk that found no connection.
            probe: whether the request that a :attr:`Grant.probe` was for has been answered; None when nothing came of one.
        """
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

    def report(
        self, app: str, platform: str, *, answered: int, failed: int, probe: bool | None = None
    ) -> None:
        pass

    def hold_off(self, app: str, platform: str, seconds: float) -> None:
        pass
