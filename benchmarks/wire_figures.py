"""What the rounds of benchmarks/wire.py amount to: medians, ratios, what was asked for, and tables of them. Nothing here runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

PUSHQ: Final = "pushq"
#: pushq with another body for each request.
DISTINCT: Final = f"{PUSHQ}, a body each"
#: The client that is compared by its rate, not by its CPU time.
H2LOAD: Final = "h2load"
#: How many times less CPU time per request than this client pushq must need.
CPU_FACTORS: Final = {"aioapns": 40.0, "httpx": 120.0, "pycurl": 2.0}
#: Share of h2load's rate on one connection that pushq must reach.
RATE_SHARE: Final = 0.7


@dataclass(frozen=True, order=True)
class Cell:
    """One combination that is measured."""

    body_bytes: int
    connections: int

    def __str__(self) -> str:
        plural = "" if self.connections == 1 else "s"
        return f"{self.body_bytes:,}-byte bodies, {self.connections} connection{plural}"


@dataclass(frozen=True)
class Run:
    """One client in one cell, one time."""

    cell: Cell
    client: str
    requests: int
    ok: int
    wall_seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        return self.requests / self.wall_seconds

    @property
    def per_cpu_second(self) -> float:
        return self.requests / self.cpu_seconds


@dataclass(frozen=True)
class Row:
    """The median of a client's rounds in a cell.

    Attributes:
        cpu_times: CPU time per request, as a multiple of pushq's.
        rate_share: pushq's requests/s, as a multiple of this client's.
        rounds_per_cpu_second: each round, in order.
    """

    client: str
    per_second: float
    per_cpu_second: float
    cpu_us: float
    cpu_times: float
    rate_share: float
    rounds_per_cpu_second: list[float]


@dataclass(frozen=True)
class Goal:
    """Something that was asked for, where it was reached least."""

    text: str
    wanted: float
    found: float
    where: str

    @property
    def reached(self) -> bool:
        return self.found >= self.wanted

    def __str__(self) -> str:
        verdict = "reached" if self.reached else "MISSED"
        return f"{self.text}: wanted {self.wanted:g}, found {self.found:.2f} ({self.where}): {verdict}"


def summarise(runs: Sequence[Run]) -> dict[Cell, list[Row]]:
    """The rows of each cell, in the order in which the clients first ran. Every cell must have runs of pushq."""
    cells: dict[Cell, dict[str, list[Run]]] = {}
    for run in runs:
        cells.setdefault(run.cell, {}).setdefault(run.client, []).append(run)
    return {cell: _rows(clients) for cell, clients in cells.items()}


def _rows(clients: Mapping[str, Sequence[Run]]) -> list[Row]:
    def median(client: str, figure: str) -> float:
        return statistics.median(getattr(run, figure) for run in clients[client])

    rows = []
    for client, runs in clients.items():
        per_second, per_cpu_second = median(client, "per_second"), median(client, "per_cpu_second")
        rows.append(
            Row(
                client=client,
                per_second=per_second,
                per_cpu_second=per_cpu_second,
                cpu_us=1e6 / per_cpu_second,
                cpu_times=median(PUSHQ, "per_cpu_second") / per_cpu_second,
                rate_share=median(PUSHQ, "per_second") / per_second,
                rounds_per_cpu_second=[round(run.per_cpu_second, 1) for run in runs],
            )
        )
    return rows


def goals(summary: Mapping[Cell, Sequence[Row]]) -> list[Goal]:
    """One for each client that something was asked about and that ran, at the cell where pushq is least ahead."""
    found: list[Goal] = []
    for client, factor in CPU_FACTORS.items():
        ratios = [
            (row.cpu_times, cell) for cell, rows in summary.items() for row in rows if row.client == client
        ]
        if ratios:
            ratio, cell = min(ratios)
            found.append(Goal(f"times the CPU time per request, {client}", factor, ratio, str(cell)))
    shares = [
        (row.rate_share, cell)
        for cell, rows in summary.items()
        for row in rows
        if row.client == H2LOAD and cell.connections == 1
    ]
    if shares:
        share, cell = min(shares)
        found.append(Goal("of h2load's rate on one connection", RATE_SHARE, share, str(cell)))
    return found


def body_notes(summary: Mapping[Cell, Sequence[Row]]) -> list[str]:
    """What bodies that differ per recipient cost, a line for each cell in which both kinds ran."""
    return [
        f"{cell}: {row.cpu_times:.2f} times the CPU time per request of a body that all share"
        for cell, rows in summary.items()
        for row in rows
        if row.client == DISTINCT
    ]


def table(summary: Mapping[Cell, Sequence[Row]]) -> str:
    """For a terminal."""
    lines = []
    for cell, rows in summary.items():
        lines += [
            "",
            f"{cell}",
            f"  {'':22} {'requests/s':>11} {'per CPU s':>11} {'CPU us':>9}  times pushq's CPU",
        ]
        lines += [
            f"  {row.client:22} {row.per_second:11,.0f} {row.per_cpu_second:11,.0f} {row.cpu_us:9,.2f}  {row.cpu_times:,.2f}"
            for row in rows
        ]
    notes = body_notes(summary)
    if notes:
        lines += ["", "bodies that differ per recipient:", *(f"  {note}" for note in notes)]
    return "\n".join(lines[1:])


def markdown(result: Mapping[str, Any], summary: Mapping[Cell, Sequence[Row]]) -> str:
    """The section of RESULTS.md."""
    machine, versions = result["machine"], result["versions"]
    rounds = "one round" if result["rounds"] == 1 else f"medians of {result['rounds']} rounds in turn"
    lines = [
        "## The sender on the wire",
        "",
        f"`{result['command']}`, {result['date']}: {rounds}, {result['seconds']:.0f} s in all.",
        "",
        f"- {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; {machine['system']}",
        f"- load average before it {machine['load_average']}, after it {result['load_average_after']} (its own part is at most 2)",
        f"- {result['placement']}",
        "- " + ", ".join(f"{name} {version}" for name, version in versions.items()),
        "",
        "Every client sends POST with the same headers and a token of its own per request over TLS to the same nginx (one worker,",
        "`benchmarks/nginx.conf.template`), which answers an empty 200. CPU is the client's own, user and system, while it sends. Each",
        "client runs with the number of requests in flight that suits it best: 1,000 per connection for pushq and h2load, 100 for the",
        "others. aioapns adds an `apns-id`, without which it cannot work; `pushq, apns-id each` does the same.",
        "h2load repeats 10,000 tokens and counts statuses only. Making tokens and bodies is in pushq's CPU time.",
    ]
    for cell, rows in summary.items():
        lines += [
            "",
            f"**{cell}**",
            "",
            "| client | requests/s | requests per CPU second | CPU per request, µs | times pushq's CPU |",
            "|---|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {row.client} | {row.per_second:,.0f} | {row.per_cpu_second:,.0f} | {row.cpu_us:,.2f} | {row.cpu_times:,.2f} |"
            for row in rows
        ]
    notes = body_notes(summary)
    if notes:
        lines += ["", "Bodies that differ per recipient:", "", *(f"- {note}" for note in notes)]
    lines += ["", "| asked for | wanted | found, where it is least | |", "|---|---:|---|---|"]
    lines += [
        f"| {goal.text} | {goal.wanted:g} | {goal.found:.2f} ({goal.where}) | {'reached' if goal.reached else 'missed'} |"
        for goal in goals(summary)
    ]
    return "\n".join(lines)


def as_json(summary: Mapping[Cell, Sequence[Row]]) -> dict[str, Any]:
    """Rows and goals as plain values."""
    return {
        "cells": [
            {**asdict(cell), "clients": [asdict(row) for row in rows]} for cell, rows in summary.items()
        ],
        "goals": [{**asdict(goal), "reached": goal.reached} for goal in goals(summary)],
    }
