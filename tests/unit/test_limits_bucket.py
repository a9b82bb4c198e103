"""The arithmetic of a rate limit: never above it in any window of a minute, and within 2 % of it over a long time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushq.limits.bucket import LOT_LIFE_S, WAY_S, WINDOW_S, Bucket, limit

LIMITS = st.integers(60, 2_000_000)
#: (seconds since the step before, permits wanted as a share of the limit, of how long a permit may travel)
STEPS = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 0.5), st.floats(0, 61), st.sampled_from([0.0, 0.4, 59.6, 60.0])),
        st.sampled_from([0.0, 0.001, 0.01, 0.5, 2.0]),
        st.sampled_from([0.0, 0.5, 1.0]),
        st.booleans(),
    ),
    max_size=60,
)


def busiest_window(spent: Sequence[tuple[float, int]]) -> int:
    """The highest number of permits spent in any window of 60 s, both ends counted."""
    events = sorted(spent)
    most = within = first = 0
    for at, permits in events:
        within += permits
        while events[first][0] < at - WINDOW_S:
            within -= events[first][1]
            first += 1
        most = max(most, within)
    return most


@given(LIMITS, st.floats(0, 0.5), STEPS)
def test_no_window_of_a_minute_sees_more_than_the_limit(
    per_minute: int, share: float, steps: list[tuple[float, float, float, bool]]
) -> None:
    bucket, now = Bucket(limit(per_minute, share), 0.0), 0.0
    spent = []
    for seconds, wanted, travel, transactional in steps:
        now += seconds
        permits, wait = bucket.take(now, max(1, int(wanted * per_minute)), transactional=transactional)
        assert (permits == 0) is (wait > 0)
        spent.append((now + travel * (LOT_LIFE_S + WAY_S), permits))
    assert busiest_window(spent) <= per_minute


@pytest.mark.parametrize("per_minute", [60, 61, 100, 119, 120, 121, 600, 60_000, 600_000, 60_000_000])
def test_the_worst_case_stays_below_the_limit(per_minute: int) -> None:
    """A full bucket, drawn at once and travelling as long as allowed, then a minute of drawing at once what comes."""
    bucket = Bucket(limit(per_minute), 0.0)
    spent = [(1000.0 + LOT_LIFE_S + WAY_S, bucket.take(1000.0, 10**9, transactional=True)[0])]
    for step in range(1, 6041):
        permits, _ = bucket.take(1000.0 + step / 100, 10**9, transactional=True)
        spent.append((max(1000.4, 1000.0 + step / 100), permits))
    assert busiest_window(spent) <= per_minute
    assert busiest_window(spent) > 0.96 * per_minute


@pytest.mark.parametrize(
    ("per_minute", "error"), [(60, 0.03), (600, 0.02), (60_000, 0.02), (6_000_000, 0.02)]
)
@pytest.mark.parametrize("transactional", [True, False])
def test_over_a_long_time_the_limit_is_nearly_reached(
    per_minute: int, error: float, transactional: bool
) -> None:
    bucket = Bucket(limit(per_minute, 0.1), 0.0)
    drawn = 0
    now, minutes = 0.0, 5
    while now < minutes * WINDOW_S:
        permits, wait = bucket.take(now, 500, transactional=transactional)
        drawn += permits
        now += max(wait, 0.001)
    assert (1 - error) * per_minute * minutes <= drawn <= per_minute * minutes


def test_who_waits_as_told_gets_permits() -> None:
    bucket = Bucket(limit(60_000, 0.1), 0.0)
    now = 0.0
    for _ in range(100):
        permits, wait = bucket.take(now, 500, transactional=False)
        while permits:
            permits, wait = bucket.take(now, 500, transactional=False)
        now += wait + 1e-6
        permits, _ = bucket.take(now, 500, transactional=False)
        assert permits == 50  # a crumb, and not a whole chunk to wait for


def test_broadcasts_leave_the_reserve_to_transactional_sends() -> None:
    bucket = Bucket(limit(60_000, 0.1), 0.0)
    first, _ = bucket.take(10.0, 10_000, transactional=False)
    nothing, wait = bucket.take(10.0, 1, transactional=False)
    rest, _ = bucket.take(10.0, 10_000, transactional=True)
    assert (first, nothing, rest) == (450, 0, 50)
    assert wait > 0
    # A drawn reserve is filled before a broadcast gets anything.
    assert bucket.take(10.04, 1, transactional=False)[0] == 0
    assert bucket.take(10.04, 1, transactional=True)[0] == 1


def test_a_clock_that_goes_back_issues_nothing() -> None:
    bucket = Bucket(limit(60_000), 0.0)
    bucket.take(100.0, 10_000, transactional=True)
    drawn = [bucket.take(at, 10_000, transactional=True)[0] for at in (50.0, 49.0, 10.0)]
    assert drawn == [0, 0, 0]


@pytest.mark.parametrize("per_minute", [0, -1, 59.9, float("nan")])
def test_a_limit_too_low_to_keep_is_refused(per_minute: float) -> None:
    with pytest.raises(ValueError, match=r"per_minute: found .*; expected at least 60"):
        limit(per_minute)


@given(LIMITS, st.floats(0, 0.5))
def test_a_bucket_can_always_hold_what_it_waits_for(per_minute: int, share: float) -> None:
    of = limit(per_minute, share)
    assert of.reserve + of.crumb <= of.burst
    assert of.crumb >= 1
    assert of.reserve >= 0
    assert of.refill > 0


def test_busiest_window_counts_both_ends() -> None:
    assert busiest_window([(0.0, 1), (60.0, 2), (60.1, 4), (120.0, 8)]) == 14
    assert busiest_window(list(itertools.product([0.0], [1, 2]))) == 3
