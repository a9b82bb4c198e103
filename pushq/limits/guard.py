"""Whether to believe a provider that calls tokens dead in a way that a wrong set-up of ours causes as well.

A wrong topic, environment or project makes every token look like somebody else's. So such answers (``Rule.guarded``) count only where
accepted ones prove that the set-up is right, and while they are rare. Pure; :mod:`pushq.limits.evidence` keeps the counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

#: When more than this share of the answers are guarded rejections, the set-up is suspected and not the tokens.
GUARDED_SHARE: Final = 0.2
#: A share of fewer guarded rejections than this says nothing.
GUARDED_MINIMUM: Final = 20
#: So many in a row, with nothing accepted between, condemn the set-up whatever was accepted before.
STREAK: Final = 20


@dataclass(frozen=True)
class Counts:
    """Answers of a provider: all, those that took the message, and guarded rejections."""

    answered: int = 0
    accepted: int = 0
    guarded: int = 0


@dataclass(frozen=True)
class Evidence:
    """What is known of a set-up (one app's keys, topic or project, and origin) from the last 24 h.

    Attributes:
        streak: guarded rejections since something was accepted.
    """

    counts: Counts = Counts()
    streak: int = 0


class Ruling(StrEnum):
    """What to do about guarded rejections."""

    BELIEVE = "believe"  # the tokens are dead
    KEEP = "keep"  # nothing proves that the set-up is right: the tokens stay
    AGAIN = "again"  # the same, and there is time to try again until the evidence speaks
    HOLD = "hold"  # the set-up is wrong: the tokens stay, and the send waits for an operator


def overwhelming(batch: Counts) -> bool:
    """Whether a batch's own answers condemn the set-up: no more of it needs to be sent to know."""
    return batch.guarded >= GUARDED_MINIMUM and batch.guarded > GUARDED_SHARE * batch.answered


def rule(batch: Counts, evidence: Evidence | None, *, broadcast: bool, trusted: bool) -> Ruling:
    """What to make of a batch's guarded rejections.

    Args:
        evidence: the batch's own answers included; None when it is not to be had (Redis gone): nothing is believed then.
        broadcast: one of many batches of a send: where the evidence condemns the set-up, the send is held, and where there is
            none yet, it will come. A transactional send is its own and only batch: there is nothing left to hold.
        trusted: an operator said that these rejections are right.
    """
    if trusted or batch.guarded == 0:
        return Ruling.BELIEVE
    if overwhelming(batch):
        return Ruling.HOLD
    unproven = Ruling.AGAIN if broadcast else Ruling.KEEP
    if evidence is None:
        return unproven
    if overwhelming(evidence.counts) or evidence.streak >= STREAK:
        return Ruling.HOLD if broadcast else Ruling.KEEP
    return Ruling.BELIEVE if evidence.counts.accepted else unproven
