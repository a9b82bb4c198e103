"""The fast part of the chaos suite: both brokers, both guarantees, with leases of 4 s. Everything else: ``make chaos``."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from tests.chaos.cases import SHORT, case
from tests.chaos.servers import BrokerKind
from tests.chaos.site import GUARANTEES
from tests.chaos.stage import Row
from tests.chaos.suite import run

SEED: Final = 4
#: Five on each broker: every process kind once.
ROUNDS: Final = 10
DEVICES: Final = 1200
#: Cases by broker; those that cut workers off in mid-batch leave at_most_once with recipients it cannot know of.
CASES: Final[dict[BrokerKind, tuple[str, ...]]] = {
    "redis": ("1", "2", "16b", "16d"),
    "rabbitmq": ("1", "2", "7", "14a"),
}
CUTS_OFF: Final = ("1", "16b")

# The first test does the work of all: both brokers side by side, as most of the time is spent waiting for leases.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, str, str], Row]:
    """What came of every case, by broker, case and guarantee."""
    cases = [
        replace(case(name), brokers=(kind,), devices=DEVICES)
        for kind, names in CASES.items()
        for name in names
    ]
    found = run(cases, list(CASES), GUARANTEES, rounds=ROUNDS, seed=SEED, settings=SHORT)
    return {(row.broker, row.case, row.guarantee): row for row in found}


@pytest.mark.parametrize("guarantee", GUARANTEES)
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in CASES.items() for name in names])
def test_a_fault(rows: dict[tuple[str, str, str], Row], kind: str, name: str, guarantee: str) -> None:
    """Nothing lost at_least_once, nothing twice at_most_once, every recipient with a final outcome, within a minute."""
    verdict = rows[kind, name, guarantee].verdict
    assert (verdict.problems, verdict.sent) == ([], DEVICES)
    if guarantee == "at_least_once":
        assert verdict.accepted == DEVICES
    elif name in CUTS_OFF:
        assert verdict.unknown > 0


@pytest.mark.parametrize("guarantee", GUARANTEES)
@pytest.mark.parametrize("kind", list(CASES))
def test_random_kills(rows: dict[tuple[str, str, str], Row], kind: str, guarantee: str) -> None:
    """Repeat a round that fails with ``make chaos ARGS='--cases 17 --broker redis --rounds 5 --seed 4'``."""
    verdict = rows[kind, "17", guarantee].verdict
    assert verdict.problems == []
    assert verdict.accepted + verdict.unknown >= verdict.sent > 0
