"""The plots of the benchmarks: well-formed, to scale, and with nothing outside of the picture."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.broadcast import RUNS, draw, headline, markdown
from benchmarks.charts import Line, line_chart, rates, stacked_bars, ticks

SVG = "{http://www.w3.org/2000/svg}"


@given(st.floats(0.001, 1e9))
def test_ticks_reach_the_top_and_are_few(top: float) -> None:
    found = ticks(top)
    assert found[0] == 0
    assert found[-1] >= top * 0.999999
    assert 3 <= len(found) <= 9


@example([(1.0, 5e-324)], True)
@given(st.lists(st.tuples(st.floats(0.1, 1e6), st.floats(0, 1e6)), min_size=1, max_size=30), st.booleans())
def test_a_line_stays_in_the_picture(points: list[tuple[float, float]], log_x: bool) -> None:
    picture = ET.fromstring(  # noqa: S314 - our own
        line_chart("a < b", "x", "y", [Line("one & two", sorted(points))], log_x=log_x)
    )
    width, height = map(float, picture.attrib["viewBox"].split()[2:])
    (line,) = picture.iter(f"{SVG}polyline")
    corners = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    assert all(0 <= x <= width and 0 <= y <= height for x, y in corners)


def test_parts_of_a_bar_lie_side_by_side() -> None:
    picture = ET.fromstring(  # noqa: S314 - our own
        stacked_bars("t", "µs", [("a", {"core": 1.0, "apns": 3.0}), ("b", {"apns": 2.0})])
    )
    bars = [each for each in picture.iter(f"{SVG}rect") if each.attrib["height"] == "20"]
    at = [(float(bar.attrib["x"]), float(bar.attrib["width"])) for bar in bars]
    assert at[1][0] == pytest.approx(at[0][0] + at[0][1], abs=0.2)
    assert at[1][1] == pytest.approx(3 * at[0][1], abs=0.3)


def test_nothing_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="point"):
        line_chart("t", "x", "y", [Line("empty", [])])
    with pytest.raises(ValueError, match="bar"):
        stacked_bars("t", "x", [])


def test_rates_are_of_intervals() -> None:
    assert rates([(0.5, 50), (1.0, 100), (1.5, 300), (2.0, 300)], 1.0) == [(1.0, 100), (2.0, 200)]


def report(devices: int, calls: int = 0) -> dict[str, object]:
    cpu = {"core-1": 3.0, "apns-1": 9.0, "apns-transactional-1": 1.0, "postgresql": 7.0}
    return {
        "devices": devices,
        "seconds": 18.0,
        "per_second": 55_000,
        "cpu_s": cpu,
        "cpu_per_recipient_us": 20e6 / devices,
        "peak_mb": dict.fromkeys(cpu, 150.0),
        "largest_mb": dict.fromkeys(cpu, 120.0),
        "missing": 0,
        "duplicated": 0,
        "broker_peak_mb": 0.03,
        "database_growth_mb": 10.0,
        "over_time": [[1.0, 50_000], [2.0, 110_000]],
        "answers": {"fcm": {"200": 10, "429 QUOTA_EXCEEDED": 2}},
        "planner_alone": {"devices": devices, "per_second": 500_000},
        "transactional": {
            "calls": calls,
            "refused": {},
            "failed": {"no device": 3},
            "open": 0,
            "ms": dict.fromkeys(("p50", "p95", "p99", "p99.9", "max"), 150.0),
            "ms_histogram": [[158.0, calls]] if calls else [],
        },
    }


def test_the_section_has_every_run_and_what_it_came_to() -> None:
    runs = {
        name: {
            "command": "pushq bench broadcast",
            "began": "2026-11-23T12:00:00+00:00",
            "load_average_before": 0.5,
            "report": report(
                1_000_000 if "million" in name else 100_000, 50 if "transactional" in name else 0
            ),
        }
        for name in RUNS
    }
    document = {
        "machine": {"cpu": "AMD", "cores": 2, "memory_gib": 24, "system": "Linux"},
        "versions": {"Python": "3.11.7"},
        "runs": runs,
    }
    text = markdown(document)
    for name in RUNS:
        assert len(re.findall(rf"^\| {name} \|", text, re.MULTILINE)) >= 1
    assert "2 answers of 429" in text
    assert "| 120 (300) |" in text, "two apns processes: the larger, and both"
    first = headline(document)
    assert "18.0 s on Redis and 18.0 s on RabbitMQ" in first
    assert "150 ms on Redis" in first
    assert headline(document | {"runs": {}}) == ""
    assert set(draw(document)) == {"broadcast.svg", "latency.svg", "growth.svg", "cpu.svg"}
    for chart in draw(document).values():
        ET.fromstring(chart)  # noqa: S314 - our own
    assert draw(document | {"runs": {}}) == {}
