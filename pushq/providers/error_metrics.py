"""Answers other than success, as metrics: labels only from the providers' tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import Counter

from pushq import metrics
from pushq.providers.apns.responses import REASONS as APNS
from pushq.providers.fcm.responses import REASONS as FCM
from pushq.providers.hms.responses import REASONS as HMS

#: The counter of a platform, and the labels that it may have; whatever else a provider says is ``other``.
_ERRORS: Final[Mapping[str, tuple[Counter, frozenset[str]]]] = {
    "apns": (metrics.apns_errors, APNS),
    "fcm": (metrics.fcm_errors, FCM),
    "hms": (metrics.hms_errors, HMS),
}


def count_errors(platform: str, reasons: Mapping[str, int]) -> None:
    """Add answers by :attr:`pushq.providers.answers.Verdict.reason`."""
    counter, known = _ERRORS[platform]
    for reason, count in reasons.items():
        counter.labels(reason if reason in known else "other").inc(count)


def expect_errors(platform: str) -> None:
    """Begin every series of a platform at zero, as :func:`pushq.metrics.expect` does."""
    counter, known = _ERRORS[platform]
    for reason in (*known, "other"):
        counter.labels(reason)
