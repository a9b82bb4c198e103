"""Where the parts of bars and columns stand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushq.web.console.charts import HEIGHT, LEAST, WIDTH, bar, columns, round_up

NAMES = ("accepted", "dead", "rejected")
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
_counts = st.fixed_dictionaries({name: st.integers(0, 10**7) for name in NAMES})


@given(_counts, st.integers(0, 10**7))
def test_a_bar_has_all_parts_in_order_within_its_width_and_none_too_small_to_see(
    counts: dict[str, int], pending: int
) -> None:
    parts = bar(counts, NAMES, sum(counts.values()) + pending)
    if not sum(counts.values()) + pending:
        assert parts == []
        return
    assert [part.name for part in parts] == list(NAMES)
    end = 0.0
    for part in parts:
        assert part.x == pytest.approx(end, abs=0.02)
        end = part.x + part.width
        assert (part.width > 0) == (part.count > 0)
        assert part.width == 0 or part.width >= LEAST - 0.01
    assert end <= WIDTH + 0.05


def test_what_waits_is_the_empty_end_of_the_bar() -> None:
    parts = bar({"accepted": 250, "dead": 250, "rejected": 0}, NAMES, 1000)
    assert [(part.x, part.width) for part in parts] == [(0, 250), (250, 250), (500, 0)]


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=80))
def test_columns_stand_on_the_ground_and_keep_their_proportions(rows: list[tuple[int, int]]) -> None:
    times = [NOON + timedelta(minutes=place) for place in range(len(rows))]
    series = {"a": [row[0] for row in rows], "b": [row[1] for row in rows]}
    chart = columns(times, timedelta(minutes=1), series)
    assert chart.empty == (not any(map(sum, rows)))
    assert chart.ticks[0] == chart.top >= max(map(sum, rows))
    for column, row in zip(chart.columns, rows, strict=True):
        ground = HEIGHT
        for box in column.boxes:
            assert box.y + box.height == pytest.approx(ground, abs=0.01)
            ground = box.y
        assert HEIGHT - ground == pytest.approx(sum(row) / chart.top * HEIGHT, abs=0.01)
        assert ground >= -0.01
        assert 0 <= column.x < column.x + column.width <= WIDTH


@pytest.mark.parametrize(
    ("value", "top"),
    [(0, 1), (1, 1), (2, 2), (3, 4), (7, 8), (9, 10), (11, 20), (45, 60), (81, 100), (1234, 2000)],
)
def test_an_axis_ends_at_a_number_that_reads_well_and_can_be_halved(value: int, top: int) -> None:
    assert round_up(value) == top
    assert top <= 2 or top % 2 == 0
