"""What a check says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a thing stands. Only FAILED makes the command end with 1."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: what was looked at: ``database``, ``APNs shop``.
        found: what is the case, in one sentence without a secret.
        advice: what to do about it; empty where there is nothing to do.
        seconds: how long the check took that found it.
    """

    subject: str
    status: Status
    found: str
    advice: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Check:
    """Looks at one thing, in a thread of its own.

    Attributes:
        run: may raise anything; that becomes a finding, too.
        advice: what to do when it does not come to an end.
    """

    subject: str
    run: Callable[[], Sequence[Finding]]
    advice: str


def ok(subject: str, found: str) -> Finding:
    return Finding(subject, Status.OK, found)


def warning(subject: str, found: str, advice: str) -> Finding:
    return Finding(subject, Status.WARNING, found, advice)


def failed(subject: str, found: str, advice: str) -> Finding:
    return Finding(subject, Status.FAILED, found, advice)
