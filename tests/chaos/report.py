"""The table, on the terminal and in RESULTS.md."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from tests.chaos.stage import Row, seconds

RESULTS: Final = Path(__file__).with_name("RESULTS.md")
COLUMNS: Final = (
    "case", "fault", "broker", "guarantee", "sent", "accepted", "lost", "duplicated", "in flight", "unknown", "failed",
    "recovery s", "held",
)  # fmt: skip
_LIBRARIES: Final = ("celery", "kombu", "redis", "gevent", "psycopg", "sqlalchemy")

_HEADER: Final = """\
# Chaos: what was tried and what came of it

Written by `{command}` on {date}; seed {seed}; {minutes:.1f} minutes. {held} of {rows} rows held.

Machine: {machine}. {versions}.

Every send has devices of its own. *sent* are its recipients; *accepted* those for whom the mock provider accepted at least one
request; *lost* are living tokens without an acceptance and without a final outcome that says so; *duplicated* are acceptances beyond
the first; *in flight* is what killed workers left open: at_least_once what the provider had accepted and nobody had recorded
(duplicates must not exceed it), at_most_once what was claimed or left unanswered (unknown must not exceed it); 0 where no worker was
killed, so that nothing may be repeated. *unknown* and *failed* are final outcomes: may have been delivered, was not delivered.
*recovery* is the time from the fault's end (a kill ends at once; a server when it answers again) to the last final outcome of the
send, its remaining work included. Everything runs with the product's defaults except where a case says otherwise (tests/chaos/cases.py).

"""


def ordered(rows: Sequence[Row]) -> list[Row]:
    """By case, broker and guarantee."""

    def key(row: Row) -> tuple[int, str, str, str]:
        digits = re.match(r"\d+", row.case)
        return int(digits.group()) if digits else 0, row.case, row.broker, row.guarantee

    return sorted(rows, key=key)


def cells(row: Row) -> list[str]:
    verdict = row.verdict
    counts = (verdict.sent, verdict.accepted, verdict.lost, verdict.duplicated)
    return [
        row.case,
        row.title,
        row.broker,
        row.guarantee,
        *map(str, counts),
        str(row.in_flight),
        str(verdict.unknown),
        str(verdict.failed),
        seconds(row.recovery_s),
        "yes" if row.held else "**no**",
    ]


def table(rows: Sequence[Row]) -> str:
    """For a terminal: columns aligned, and problems and notes below."""
    lines = [list(COLUMNS), *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([*text, "", *remarks(rows)])


def remarks(rows: Sequence[Row]) -> list[str]:
    """What went wrong and what was noted, a line each."""
    found = []
    for row in rows:
        place = f"{row.case} {row.broker} {row.guarantee}"
        found += [f"{place}: problem: {problem.splitlines()[0]}" for problem in row.verdict.problems]
    notes = {(row.case, row.broker, note): None for row in rows for note in row.notes}
    return [*found, *(f"{case} {broker}: {note}" for case, broker, note in notes)]


def write(rows: Sequence[Row], command: str, seed: int, took_s: float) -> None:
    """RESULTS.md beside this file."""
    header = _HEADER.format(
        command=command,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        seed=seed,
        minutes=took_s / 60,
        held=sum(row.held for row in rows),
        rows=len(rows),
        machine=machine(),
        versions=versions(),
    )
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(cells(row))} |" for row in rows]
    notes = [f"- {remark}" for remark in remarks(rows)]
    RESULTS.write_text(header + "\n".join([*lines, "", *notes]) + "\n", encoding="utf-8")


def machine() -> str:
    """Processor, its cores, memory and system."""
    model = "unknown processor"
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        found = re.search(r"model name\s*:\s*(.+)", cpus.read_text())
        model = found.group(1) if found else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.system()} {platform.release().split('-')[0]}"


def versions() -> str:
    """Python, the libraries and the servers."""
    from pushq.embedded.programs import find_postgres, find_redis  # noqa: PLC0415
    from pushq.embedded.rabbitmq import find_rabbitmq  # noqa: PLC0415

    rabbitmq = find_rabbitmq().server.parent.parent.name.removeprefix("rabbitmq_server-")
    servers = [_server("PostgreSQL", find_postgres().path), _server("Redis", find_redis().path)]
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return f"Python {platform.python_version()}, {libraries}; {', '.join(servers)}, RabbitMQ {rabbitmq}"


def _server(name: str, program: Path) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    found = re.search(r"\d+(?:\.\d+)+", done.stdout)
    return f"{name} {found.group() if found else '?'}"
