"""The outcome of one recipient: one byte in the batch's row and in its journal. Pure."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Outcome(IntEnum):
    """What became of one recipient. Everything but PENDING and CLAIMED is final."""

    PENDING = 0
    CLAIMED = 1  # at_most_once: handed to a connection, no answer yet
    ACCEPTED = 2
    TOKEN_DEAD = 3
    REJECTED = 4
    EXHAUSTED = 5
    EXPIRED = 6
    SUPPRESSED = 7  # the device is no longer an active one
    CANCELLED = 8
    UNKNOWN = 9  # at_most_once: may have been delivered, and is never tried again


#: Column of `send_batches` that counts each final outcome.
COLUMNS: Final = {
    Outcome.ACCEPTED: "accepted",
    Outcome.TOKEN_DEAD: "dead",
    Outcome.REJECTED: "rejected",
    Outcome.EXHAUSTED: "exhausted",
    Outcome.EXPIRED: "expired",
    Outcome.SUPPRESSED: "suppressed",
    Outcome.CANCELLED: "cancelled",
    Outcome.UNKNOWN: "unknown",
}

#: A refusal whose dead letter was never written: nothing was delivered, so the provider may be asked again.
_REFUSED: Final = bytes([Outcome.TOKEN_DEAD, Outcome.REJECTED])
_CLAIMED_BACK: Final = bytes.maketrans(bytes([Outcome.CLAIMED]) + _REFUSED, bytes(3))
_CLAIMED_LOST: Final = bytes.maketrans(bytes([Outcome.CLAIMED]) + _REFUSED, bytes([Outcome.UNKNOWN, 0, 0]))
_OPEN_LOST: Final = bytes.maketrans(
    bytes([Outcome.PENDING, Outcome.CLAIMED]), bytes([Outcome.UNKNOWN, Outcome.UNKNOWN])
)


def count(outcomes: bytes | bytearray) -> dict[str, int]:
    """How many recipients ended how, by column; and ``pending`` for those still open."""
    result = {column: outcomes.count(outcome) for outcome, column in COLUMNS.items()}
    result["pending"] = len(outcomes) - sum(result.values())
    return result


def recover(settled: bytes, journal: bytes | None, *, at_most_once: bool) -> bytes:
    """Outcomes to go on with after the holder of a batch vanished.

    Args:
        settled: what the batch's row says: the state before the attempt that was cut off.
        journal: what the cut-off attempt had written, or None when it is lost.
        at_most_once: whether a recipient that may have been reached must never be tried again.

    A final outcome in the row stands: a journal that could not be removed when the row was settled may be behind it. For the others
    the journal counts, but for refusals: their reasons died with the holder, and asking again delivers nothing twice. Without
    the journal, an at_most_once attempt may have reached anybody.
    """
    if journal is not None and len(journal) == len(settled):
        known = journal.translate(_CLAIMED_LOST if at_most_once else _CLAIMED_BACK)
        return bytes(old if old > Outcome.CLAIMED else new for old, new in zip(settled, known, strict=True))
    # Settled refusals have their dead letters; nothing in a row is claimed.
    return settled.translate(_OPEN_LOST) if at_most_once else settled
