"""Whether to believe a provider that calls tokens dead in a way that we may have caused."""

from __future__ import annotations

import pytest

from pushq.limits.guard import Counts, Evidence, Ruling, overwhelming, rule

PROVEN = Evidence(Counts(1000, 990, 5), streak=1)


@pytest.mark.parametrize(
    ("answered", "guarded", "condemned"),
    [
        (20, 20, True),
        (19, 19, False),
        (100, 20, False),
        (99, 20, True),
        (2500, 500, False),
        (2500, 501, True),
    ],
)
def test_what_condemns_the_set_up(answered: int, guarded: int, condemned: bool) -> None:
    assert overwhelming(Counts(answered, answered - guarded, guarded)) is condemned


@pytest.mark.parametrize(
    ("batch", "evidence", "broadcast", "ruling"),
    [
        # A few in a batch, and the set-up is known to work.
        (Counts(100, 97, 3), PROVEN, True, Ruling.BELIEVE),
        (Counts(1, 0, 1), PROVEN, False, Ruling.BELIEVE),
        # A batch that condemns the set-up by itself, whatever was accepted before.
        (Counts(100, 50, 50), PROVEN, True, Ruling.HOLD),
        (Counts(100, 50, 50), PROVEN, False, Ruling.HOLD),
        (Counts(100, 50, 50), None, True, Ruling.HOLD),
        # One by one, and nothing was ever accepted: the small-batch hole.
        (Counts(1, 0, 1), Evidence(Counts(1, 0, 1), 1), False, Ruling.KEEP),
        (Counts(1, 0, 1), Evidence(Counts(500, 0, 500), 500), False, Ruling.KEEP),
        # The rest of a broadcast whose other batches condemned the set-up.
        (Counts(5, 0, 5), Evidence(Counts(500, 0, 500), 500), True, Ruling.HOLD),
        # It worked before and does not any more.
        (Counts(1, 0, 1), Evidence(Counts(10**6, 10**6 - 20, 20), 20), False, Ruling.KEEP),
        (Counts(1, 0, 1), Evidence(Counts(10**6, 10**6 - 20, 20), 19), False, Ruling.BELIEVE),
        # Redis is gone: no proof.
        (Counts(1, 0, 1), None, False, Ruling.KEEP),
        (Counts(1000, 999, 1), None, True, Ruling.AGAIN),
        # The first small batches of a broadcast: the others will tell.
        (Counts(9, 0, 9), Evidence(Counts(9, 0, 9), 9), True, Ruling.AGAIN),
        # Nothing guarded, nothing to rule.
        (Counts(1000, 0, 0), None, True, Ruling.BELIEVE),
    ],
)
def test_the_ruling(batch: Counts, evidence: Evidence | None, broadcast: bool, ruling: Ruling) -> None:
    assert rule(batch, evidence, broadcast=broadcast, trusted=False) is ruling


@pytest.mark.parametrize("evidence", [None, PROVEN, Evidence(Counts(500, 0, 500), 500)])
def test_an_operator_is_believed(evidence: Evidence | None) -> None:
    assert rule(Counts(500, 0, 500), evidence, broadcast=True, trusted=True) is Ruling.BELIEVE
