"""What the ways to run a batch have to say alike: each fact is logged in one place, under one name (docs/logs.md)."""

from __future__ import annotations

import logging

log = logging.getLogger("pushq.delivery")


def settled(*, attempt: int, retry_in: float | None = None, error: str | None = None) -> None:
    log.info("batch_settled", extra={"attempt": attempt, "retry_in": retry_in, "error": error})


def fenced(reason: object) -> None:
    log.warning("batch_fenced", extra={"reason": str(reason)})


def claim_failed(error: Exception) -> None:
    log.warning("claim_failed", extra={"error": type(error).__name__})


def journal_not_closed(error: Exception) -> None:
    """It expires by itself, and the row no longer names its token."""
    log.warning("journal_not_closed", extra={"error": type(error).__name__})
