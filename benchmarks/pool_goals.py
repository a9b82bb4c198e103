"""The goals for one sending process, each measured by ``benchmarks/pool_load.py`` in a process of its own.

    python -m benchmarks.pool_goals [--scale 0.1] [--write]

``--scale`` makes every run shorter; the memory goal then says less, and the table says so. ``--write`` puts the table into
``benchmarks/RESULTS.md``. The exit code is 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import machine, versions
from benchmarks.results import replace_section

RESULTS: Final = Path(__file__).with_name("RESULTS.md")
LIMIT_S: Final = 900.0
#: RSS that may be added after the first million, for what the allocator does not give back.
FLAT_MB: Final = 5.0

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Goal:
    """``met`` looks at what pool_load printed; None where the run is only there to be compared with."""

    name: str
    requests: int
    options: Sequence[str]
    wanted: str
    met: Callable[[Figures], bool] | None = None

    def command(self, scale: float) -> list[str]:
        return ["--requests", str(max(1000, int(self.requests * scale))), *self.options]


def _flat(figures: Figures) -> bool:
    first, later = figures["rss_after_first_million_mb"], figures["rss_maximum_after_that_mb"]
    return figures["peak_rss_mb"] < 150 and first is not None and later - first < FLAT_MB


GOALS: Final = (
    Goal(
        "4 connections of 1,000 streams, 80 ms",
        1_000_000,
        ("--connections", "4", "--latency-ms", "80"),
        "40,000/s",
        lambda figures: figures["per_second"] >= 40_000,
    ),
    Goal(
        "the same, every stream used",
        1_000_000,
        ("--connections", "4", "--latency-ms", "80", "--stream-ceiling", "1"),
        "",
    ),
    Goal(
        "20 connections of 1,000 streams, 80 ms",
        2_000_000,
        ("--connections", "20", "--latency-ms", "80"),
        "100,000/s",
        lambda figures: figures["per_second"] >= 100_000,
    ),
    Goal("4 connections, bare server, one body", 1_000_000, ("--server", "bare"), ""),
    Goal(
        "4 connections, bare server, a body each",
        1_000_000,
        ("--server", "bare", "--bodies", "distinct"),
        "",
    ),
    Goal(
        "10,000,000 requests, no latency",
        10_000_000,
        ("--connections", "4", "--latency-ms", "0"),
        "peak below 150 MB, flat after the first million",
        _flat,
    ),
)


def measure(goal: Goal, scale: float) -> Figures:
    """Raises ``subprocess.CalledProcessError`` with what the run said when it failed."""
    command = [sys.executable, "-m", "benchmarks.pool_load", "--json", *goal.command(scale)]
    done = subprocess.run(
        command, cwd=RESULTS.parents[1], stdout=subprocess.PIPE, text=True, check=True, timeout=LIMIT_S
    )
    figures: Figures = json.loads(done.stdout)
    return figures


def verdict(goal: Goal, figures: Figures) -> str:
    if goal.met is None:
        return ""
    return f"{goal.wanted}: {'met' if goal.met(figures) else 'MISSED'}"


def row(goal: Goal, figures: Figures) -> str:
    memory = f"{figures['peak_rss_mb']}"
    if figures["rss_maximum_after_that_mb"] is not None:
        memory += f" ({figures['rss_after_first_million_mb']} / {figures['rss_maximum_after_that_mb']})"
    cells = (
        goal.name,
        f"{figures['requests']:,}",
        f"{figures['per_second']:,}",
        figures["sender_cpu_us"],
        figures["making_cpu_us"],
        figures["server_cpu_us"],
        memory,
        verdict(goal, figures),
    )
    return f"| {' | '.join(map(str, cells))} |"


def section(rows: Sequence[str], scale: float, day: dt.date) -> str:
    ran_on = machine()
    found = ", ".join(f"{name} {version}" for name, version in versions(("pushq", "gevent")).items())
    return f"""## One process through the pool

`python -m benchmarks.pool_goals --scale {scale:g} --write`, {day}.

- {ran_on["cpu"]}, {ran_on["cores"]} cores, {ran_on["memory_gib"]} GiB; {ran_on["system"]}
- load average at the end: {ran_on["load_average"]}
- {found}

One process sends over TLS to the fast engine of `pushq mock` in another one, or to a bare server that decodes nothing. Every request has
a token and an `apns-id` of its own; making those is not in the sender's CPU. By default 90 % of the streams are used, as by the workers.
CPU is microseconds per request. Memory is RSS in MB: the peak, and in parentheses after the first million and at most from then on.

| run | requests | requests/s | sender CPU | making | server CPU | memory | goal |
|---|---:|---:|---:|---:|---:|---:|---|
{chr(10).join(rows)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if not 0 < arguments.scale <= 1:
        parser.error(f"--scale is {arguments.scale}; expected above 0 and at most 1")
    rows, missed = [], False
    for goal in GOALS:
        figures = measure(goal, arguments.scale)
        missed |= goal.met is not None and not goal.met(figures)
        rows.append(row(goal, figures))
        print(rows[-1], flush=True)
    if arguments.write:
        text = section(rows, arguments.scale, dt.datetime.now(dt.UTC).date())
        before = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Results\n"
        RESULTS.write_text(replace_section(before, "pool_goals", text), encoding="utf-8")
    if missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
