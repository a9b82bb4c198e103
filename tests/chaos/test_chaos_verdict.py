"""The judge itself: it must see what it is there to see."""

from __future__ import annotations

from typing import Any

import pytest

from pushq.ledger.outcomes import Outcome
from tests.chaos.rounds import VICTIMS, draw
from tests.chaos.verdict import Batch, Verdict, judge

TOKENS = {1: "a", 2: "b", 3: "c"}
ACCEPTED, PENDING, UNKNOWN, EXHAUSTED, CANCELLED = (
    Outcome.ACCEPTED,
    Outcome.PENDING,
    Outcome.UNKNOWN,
    Outcome.EXHAUSTED,
    Outcome.CANCELLED,
)


def verdict(
    outcomes: list[Outcome], accepted: dict[str, int], *, at_most_once: bool = False, **options: Any
) -> Verdict:
    batch = Batch(0, "apns", "done", list(TOKENS), bytes(outcomes))
    return judge(TOKENS, [batch], accepted, at_most_once=at_most_once, **options)


@pytest.mark.parametrize("at_most_once", [True, False])
def test_everybody_once_is_no_problem(at_most_once: bool) -> None:
    found = verdict([ACCEPTED] * 3, dict.fromkeys("abc", 1), at_most_once=at_most_once)
    assert found == Verdict(3, 3, 0, 0, 0, 0, 0, [])


@pytest.mark.parametrize("outcome", [ACCEPTED, PENDING, UNKNOWN])
def test_who_was_not_reached_is_lost_unless_the_outcome_says_so(outcome: Outcome) -> None:
    found = verdict([ACCEPTED, ACCEPTED, outcome], {"a": 1, "b": 1})
    assert found.lost == 1
    assert "1 lost" in found.problems


def test_at_most_once_may_not_know_what_a_kill_found_claimed() -> None:
    outcomes, counted = [ACCEPTED, UNKNOWN, UNKNOWN], {"a": 1, "b": 1}
    found = verdict(outcomes, counted, at_most_once=True, in_flight=2)
    assert (found.lost, found.unknown, found.problems) == (0, 2, [])
    assert verdict(outcomes, counted, at_most_once=True, in_flight=1).problems == [
        "2 unknown, 1 were claimed"
    ]
    assert verdict(outcomes, counted, at_most_once=True).problems == ["2 unknown, 0 were claimed"]


def test_who_was_never_planned_is_lost_and_open() -> None:
    found = judge(TOKENS, [], {}, at_most_once=True)
    assert (found.lost, found.open) == (3, 3)


def test_a_second_delivery() -> None:
    """Never at most once; at least once only of what was in flight."""
    counted = {"a": 3, "b": 1, "c": 1}
    assert verdict([ACCEPTED] * 3, counted, at_most_once=True).problems == ["2 delivered again"]
    assert verdict([ACCEPTED] * 3, counted, in_flight=1).problems == ["2 delivered again, 1 were in flight"]
    assert verdict([ACCEPTED] * 3, counted, in_flight=2).problems == []


def test_failures_only_where_the_provider_fails() -> None:
    outcomes = [ACCEPTED, ACCEPTED, EXHAUSTED]
    counted = {"a": 1, "b": 1}
    assert verdict(outcomes, counted).problems == ["1 failed though the provider refuses nobody"]
    assert verdict(outcomes, counted, may_fail=True).problems == []


def test_an_outcome_that_denies_a_delivery() -> None:
    found = verdict([ACCEPTED, ACCEPTED, CANCELLED], dict.fromkeys("abc", 1), may_fail=True)
    assert found.problems == ["1 were delivered and are said not to be"]


def test_recipients_planned_twice_and_strangers() -> None:
    batches = [Batch(n, "apns", "done", [1, 2, 3, 9], bytes([ACCEPTED] * 4)) for n in range(2)]
    found = judge(TOKENS, batches, dict.fromkeys("abc", 1), at_most_once=True)
    assert found.problems == ["planned: 4 twice, 1 strangers"]


def test_a_seed_gives_the_same_rounds() -> None:
    rounds = [draw(7, "redis", number) for number in range(50)]
    assert rounds == [draw(7, "redis", number) for number in range(50)]
    assert rounds != [draw(8, "redis", number) for number in range(50)]
    assert {one.victim for one in rounds} == set(VICTIMS)
