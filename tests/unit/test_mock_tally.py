"""The mock's counts by token, in memory and written down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushq.mock import tally as module
from pushq.mock.tally import Tally


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write down after every third token, and read a few at a time."""
    monkeypatch.setattr(module, "SPILL", 3)
    monkeypatch.setattr(module, "_READ_BYTES", 64)


@pytest.fixture
def tally() -> Iterator[Tally]:
    made = Tally()
    yield made
    made.close()


def listed(tally: Tally) -> dict[bytes, int]:
    lines = b"".join(tally.lines(2)).splitlines()
    found = {token: int(count) for token, count in (line.rsplit(b" ", 1) for line in lines)}
    assert len(found) == len(lines), "each token once"
    return found


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=80))
def test_counts_are_right_whatever_is_written_down(steps: list[tuple[int, bool]]) -> None:
    tally, wanted = Tally(), Counter[bytes]()
    try:
        for number, back in steps:
            token = b"token-%020d" % number
            if not back:
                tally.ring(token)
                wanted[token] += 1
            elif wanted[token]:
                tally.retract(token, answered=False)
                wanted[token] -= 1
        alive = {token: times for token, times in wanted.items() if times}
        assert tally.accepted == listed(tally) == alive
        counts = tally.as_dict()
        assert (counts["accepted"], counts["distinct"]) == (sum(alive.values()), len(alive))
        assert counts["duplicates"] == sum(alive.values()) - len(alive)
    finally:
        tally.close()


def test_tokens_may_come_while_they_are_read(tally: Tally) -> None:
    first = [b"first-%020d" % number for number in range(20)]
    for token in first:
        tally.ring(token)
    reading = tally.lines(1)
    found = [next(reading)]
    for number in range(20):
        tally.ring(b"later-%020d" % number)
    found += reading
    assert [line.split()[0] for line in found if line] == first
    assert len(listed(tally)) == 40


def test_all_is_forgotten_even_while_it_is_read(tally: Tally) -> None:
    for number in range(20):
        tally.ring(b"token-%020d" % number)
    reading = tally.lines(1)
    next(reading)
    tally.reset()
    assert not b"".join(reading).count(b"token-") > 3
    assert (tally.accepted, tally.as_dict()["distinct"]) == ({}, 0)
    tally.ring(b"again")
    assert tally.accepted == {b"again": 1}
