"""What benchmarks/wire.py makes of its runs: medians, goals, the tables and the chart."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from benchmarks.results import replace_section
from benchmarks.wire_chart import bar_chart
from benchmarks.wire_figures import Cell, Run, as_json, body_notes, goals, markdown, summarise, table

ONE, FOUR = Cell(150, 1), Cell(1000, 4)


def runs(cell: Cell, client: str, *cpu_us: float, rate: float = 1000.0) -> list[Run]:
    return [Run(cell, client, 10_000, 10_000, 10_000 / rate, us / 100) for us in cpu_us]


RUNS = [
    *runs(ONE, "pushq", 10, 2, 5, rate=90_000),  # the median is 5
    *runs(ONE, "pushq, a body each", 6),
    *runs(ONE, "h2load", 8, rate=100_000),
    *runs(ONE, "aioapns", 250),
    *runs(FOUR, "pushq", 10),
    *runs(FOUR, "aioapns", 390),
    *runs(FOUR, "h2load", 8, rate=1_000_000),
]


def test_the_median_of_the_rounds_counts() -> None:
    pushq, bodies, h2load, aioapns = summarise(RUNS)[ONE]
    assert pushq.cpu_us == pytest.approx(5)
    assert pushq.cpu_times == pytest.approx(1)
    assert bodies.cpu_times == pytest.approx(1.2)
    assert aioapns.cpu_times == pytest.approx(50)
    assert h2load.rate_share == pytest.approx(0.9)
    assert pushq.rounds_per_cpu_second == pytest.approx([100_000, 500_000, 200_000])


def test_a_goal_is_judged_where_pushq_is_least_ahead() -> None:
    aioapns, h2load = goals(summarise(RUNS))
    assert (aioapns.wanted, aioapns.where, aioapns.reached) == (40, str(FOUR), False)
    assert aioapns.found == pytest.approx(39)
    assert "MISSED" in str(aioapns)
    # Only one connection was asked for, so the cell with four does not count.
    assert (h2load.where, h2load.reached) == (str(ONE), True)


def test_clients_that_did_not_run_are_not_judged() -> None:
    assert goals(summarise(runs(ONE, "pushq", 5))) == []


def test_tables_and_json_have_every_client_of_every_cell() -> None:
    summary = summarise(RUNS)
    result = {
        "command": "python -m benchmarks.wire",
        "date": "2026-01-01",
        "rounds": 3,
        "seconds": 1.0,
        "placement": "anywhere",
        "machine": {"cpu": "A CPU", "cores": 2, "memory_gib": 1, "system": "Linux", "load_average": 0.5},
        "load_average_after": 1.5,
        "versions": {"Python": "3"},
    }
    for text in (table(summary), markdown(result, summary)):
        assert text.count("aioapns") >= 2
        assert str(ONE) in text
        assert str(FOUR) in text
    assert body_notes(summary) == [f"{ONE}: 1.20 times the CPU time per request of a body that all share"]
    plain = as_json(summary)
    assert [len(cell["clients"]) for cell in plain["cells"]] == [4, 3]
    assert [goal["reached"] for goal in plain["goals"]] == [False, True]


def test_a_section_is_replaced_and_the_rest_stays() -> None:
    document = replace_section("# Results\n\nBefore.\n", "wire", "first \\1")
    document = replace_section(document, "other", "mine")
    again = replace_section(document, "wire", "second")
    assert "first" not in again
    assert again.count("second") == again.count("wire: end") == 1
    assert again.index("Before.") < again.index("second") < again.index("mine")
    assert replace_section(again, "wire", "second") == again


def test_the_chart_is_logarithmic() -> None:
    bars = [("ours", 100_000, True), ("theirs", 1000, False), ("x", 10, False)]
    root = ET.fromstring(bar_chart("a < b", "units", bars))  # noqa: S314 - our own text
    space = "{http://www.w3.org/2000/svg}"
    widths = [float(bar.attrib["width"]) for bar in root.iter(f"{space}rect")]
    assert widths[0] - widths[1] == pytest.approx(widths[1] - widths[2], abs=0.3)
    texts = [text.text for text in root.iter(f"{space}text")]
    assert texts[0] == "a < b"
    assert "1,000  (1/100.0)" in texts


@pytest.mark.parametrize("bars", [[], [("nothing", 0.0, True)]])
def test_a_chart_needs_values_above_zero(bars: list[tuple[str, float, bool]]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        bar_chart("title", "units", bars)
