"""What a provider's answer means, in one vocabulary for all providers.

A provider's answer is a value. Its table (``providers/<name>/responses.py``) maps status and reason to a :class:`Verdict`; the
retry policy and the ledger know only this vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final


class Effect(StrEnum):
    """What to do about one recipient."""

    TOKEN_DEAD = "token_dead"  # final: the token is not to be used again  # noqa: S105
    REJECTED = "rejected"  # final: this message will never be taken
    RETRY = "retry"  # the same request may succeed later
    REAUTHENTICATE = "reauthenticate"  # a new credential, then again
    CONFIGURATION = "configuration"  # nobody gets anything until an operator mends the set-up


class Scope(StrEnum):
    """What the answer speaks about."""

    RECIPIENT = "recipient"
    MESSAGE = "message"
    CREDENTIAL = "credential"
    CONNECTION = "connection"
    PROVIDER = "provider"


@dataclass(frozen=True)
class Rule:
    """One row of a provider's table.

    Attributes:
        min_wait_s: the provider wants no repetition before this many seconds.
        guarded: a wrong set-up of ours can cause the same answer for everybody, so tokens are only invalidated while it is rare.
        retire: the connection takes no further requests.
        flow_control: the provider wants less from everybody; the wait is the fleet's pause.
        doubtful: either the token or the message is to blame. Where others got the same message it is the token, and guarded;
            where nobody did, the rule stands as it is.
    """

    effect: Effect
    scope: Scope = Scope.RECIPIENT
    min_wait_s: float = 0.0
    guarded: bool = False
    retire: bool = False
    flow_control: bool = False
    doubtful: bool = False


@dataclass(frozen=True)
class Verdict:
    """What one answer means for one recipient.

    Attributes:
        reason: the provider's word for it, from a closed set (unlisted words become ``other_4xx`` and the like).
        wait_s: seconds before the next attempt, at least; from the table or the provider's Retry-After.
        invalid_since: for a dead token, the time since which the provider knows; a later registration wins.
        detail: the provider's own words, shortened, for people; never used to decide.
    """

    effect: Effect
    scope: Scope
    reason: str
    status: int
    wait_s: float = 0.0
    guarded: bool = False
    retire: bool = False
    flow_control: bool = False
    invalid_since: datetime | None = None
    detail: str = ""
    doubtful: bool = False


#: A provider that asks for more than this is answered by the message's expiry, not by a longer wait.
RETRY_AFTER_CEILING_S: Final = 3600.0


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait by a ``Retry-After`` header (RFC 9110: seconds or an HTTP date), or None when there is none to trust."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return min(float(value[:12]), RETRY_AFTER_CEILING_S)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(max((at - now).total_seconds(), 0.0), RETRY_AFTER_CEILING_S)
