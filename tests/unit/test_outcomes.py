"""What a batch goes on with after its holder vanished: the table of the two guarantees."""

from __future__ import annotations

import pytest

from pushq.ledger.outcomes import COLUMNS, Outcome, count, recover

P, C, A, D, R, U = (
    bytes([o])
    for o in (
        Outcome.PENDING,
        Outcome.CLAIMED,
        Outcome.ACCEPTED,
        Outcome.TOKEN_DEAD,
        Outcome.REJECTED,
        Outcome.UNKNOWN,
    )
)


@pytest.mark.parametrize(
    ("journal", "at_most_once", "expected"),
    [
        (A + C + P, True, A + U + P),  # claimed may have been sent: never again
        (A + C + P, False, A + P + P),  # claimed is sent again
        (None, True, U + U + U),  # the journal is lost: everything of the attempt may have been sent
        (None, False, P + P + P),
        (
            D + R + A,
            True,
            P + P + A,
        ),  # a refusal delivered nothing, and its dead letter was never written: asked again
        (D + R + A, False, P + P + A),
        (A, True, U + U + U),  # a journal of another length is no journal
    ],
)
def test_recovery(journal: bytes | None, at_most_once: bool, expected: bytes) -> None:
    assert recover(P + P + P, journal, at_most_once=at_most_once) == expected


def test_what_was_settled_before_stays_when_the_journal_is_lost() -> None:
    assert recover(A + D + P, None, at_most_once=True) == A + D + U
    assert recover(A + D + P, None, at_most_once=False) == A + D + P


def test_what_was_settled_stays_when_an_older_journal_is_found() -> None:
    """The journal could not be removed when the row was settled, and the next holder died before it opened its own."""
    assert recover(A + D + P + P, P + C + A + C, at_most_once=True) == A + D + A + U
    assert recover(A + D + P + P, P + C + A + C, at_most_once=False) == A + D + A + P


def test_every_final_outcome_is_counted_in_a_column_of_its_own() -> None:
    assert set(COLUMNS) == set(Outcome) - {Outcome.PENDING, Outcome.CLAIMED}
    everything = bytes(Outcome)
    counts = count(everything)
    assert counts.pop("pending") == 2
    assert set(counts.values()) == {1}
