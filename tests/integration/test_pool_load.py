"""benchmarks/pool_load.py measures what it says, small."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pool_goals import GOALS, row, section, verdict

ROOT = Path(__file__).resolve().parents[2]


def pool_load(*options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.pool_load", "--json", *options]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "options", [("--latency-ms", "5"), ("--server", "bare", "--bodies", "distinct")], ids=["mock", "bare"]
)
def test_a_short_run_ends_with_all_figures(options: tuple[str, ...]) -> None:
    figures = pool_load("--requests", "3050", "--connections", "2", "--streams", "50", *options)
    assert (figures["requests"], figures["ok"], figures["connections"]) == (3050, 3050, 2)
    assert figures["rss_mb"][-1][1] == 3050
    for name in ("per_second", "sender_cpu_us", "making_cpu_us", "peak_rss_mb"):
        assert figures[name] > 0


def test_the_table_says_which_goal_was_missed() -> None:
    rate, *_, memory = GOALS
    figures = {
        "requests": 10_000_000,
        "per_second": 39_999,
        "sender_cpu_us": 2.0,
        "making_cpu_us": 1.0,
        "server_cpu_us": 3.0,
        "peak_rss_mb": 60.0,
        "rss_after_first_million_mb": 51.0,
        "rss_maximum_after_that_mb": 52.0,
    }
    assert verdict(rate, figures) == "40,000/s: MISSED"
    assert verdict(rate, {**figures, "per_second": 40_000}) == "40,000/s: met"
    assert verdict(memory, figures).endswith(": met")
    for worse in (
        {"peak_rss_mb": 150.0},
        {"rss_maximum_after_that_mb": 56.0},
        {"rss_after_first_million_mb": None, "rss_maximum_after_that_mb": None},
    ):
        assert verdict(memory, {**figures, **worse}).endswith(": MISSED")
    assert "| 10,000,000 | 39,999 | 2.0 | 1.0 | 3.0 | 60.0 (51.0 / 52.0) |" in row(rate, figures)


def test_the_section_holds_every_row() -> None:
    text = section(["| a |", "| b |"], 0.5, dt.date(2026, 1, 2))
    assert "--scale 0.5 --write`, 2026-01-02." in text
    assert text.endswith("| a |\n| b |\n")
