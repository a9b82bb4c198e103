"""The answer to "may I send?"."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Grant:
    """What a gate grants to somebody who wants to send.

    Attributes:
        permits: requests that may be sent now, at most as many as were wanted.
        wait_s: without permits, seconds after which to ask again; more than 0.
        reason: without permits, why: ``rate``, ``send_rate``, ``retry_after`` or ``breaker_open``.
        probe: the one permit is for finding out whether the provider works again; what comes of it is to be reported as that.
    """

    permits: int
    wait_s: float = 0.0
    reason: str | None = None
    probe: bool = False
