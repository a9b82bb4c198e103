"""The figures of soaks: kept, as a section of RESULTS.md, and as a plot.

    pushq bench soak --minutes 60 --every 12 --json > soak.json
    python -m benchmarks.soak --name hour --report soak.json --command "pushq bench soak --minutes 60 --every 12 --json" --write

Keeps in benchmarks/soak.json what the section needs: the sums, every series' verdict, and the looks at memory, greenlets and connections.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.charts import Line, line_chart
from benchmarks.machine import machine, versions
from benchmarks.results import replace_section

ROOT: Final = Path(__file__).resolve().parents[1]
JSON_FILE: Final = ROOT / "benchmarks" / "soak.json"
RESULTS_FILE: Final = ROOT / "benchmarks" / "RESULTS.md"
CHART_FILE: Final = ROOT / "docs" / "img" / "soak.svg"
#: Series whose looks are kept.
KEPT: Final = (
    "seconds",
    "memory_mb.",
    "own_mb.",
    "largest_mb.",
    "greenlets.",
    "connections.open.",
    "sum.",
    "rows.",
    "database_mb",
)
DRAWN: Final = ("core", "apns", "fcm", "hms", "redis", "mock", "postgresql")


def trimmed(report: Mapping[str, Any], command: str, note: str) -> dict[str, Any]:
    """What is kept of a report."""
    looks = [
        {name: value for name, value in look.items() if name.startswith(KEPT)} for look in report["looks"]
    ]
    return {
        "command": command,
        "note": note,
        "machine": {key: value for key, value in machine().items() if key != "load_average"},
        "versions": versions(("pushq", "celery", "gevent", "h2", "redis", "psycopg")),
        **report,
        "looks": looks,
    }


def markdown(document: Mapping[str, Any]) -> str:
    """The section: each soak, under its name."""
    parts = ["## Soak", "", "What it does is in [soak](../docs/soak.md)."]
    for name, kept in document.items():
        parts += ["", f"### {name}", "", part(kept)]
    return "\n".join([*parts, "", "![Memory over time](../docs/img/soak.svg)"])


def part(kept: Mapping[str, Any]) -> str:
    """One soak."""
    calls, here = kept["calls"], kept["machine"]
    minutes = kept["seconds"] / 60
    lines = [
        f"`{kept['command']}`, {kept['started_at'][:10]}." + (f" {kept['note']}" if kept["note"] else ""),
        "",
        f"- {here['cpu']}, {here['cores']} cores, {here['memory_gib']} GiB; {here['system']}",
        "- " + ", ".join(f"{name} {version}" for name, version in kept["versions"].items()),
        (
            f"- {minutes:.1f} minutes of sending{' (ended early)' if kept['interrupted'] else ''}, {kept['drained_s']:.0f} s until the last was over; "
            f"{kept['cpu_share']:.0%} of the machine, which had other work as well"
        ),
        (
            f"- {calls['broadcasts']:,} broadcasts and {calls['transactional']:,} transactional sends to {kept['recipients']:,} recipients, "
            f"{kept['per_second']:,} a second; {kept['registered_again']:,} phones registered again"
        ),
        f"- broadcasts held back because too many were open: {calls['held_back']:,}; calls that the broker refused: {sum(calls['refused'].values()):,}",
        "",
        "**Ledger against providers**, token by token:",
        "",
        "| guarantee | recipients | accepted | dead | exhausted | unknown | pending | counted by providers | missing | repeated | doubled |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for guarantee, side in kept["agreement"].items():
        outcomes = side["outcomes"]
        lines.append(
            f"| {guarantee} | {side['recipients']:,} | "
            + " | ".join(
                f"{outcomes[name]:,}" for name in ("accepted", "dead", "exhausted", "unknown", "pending")
            )
            + f" | {side['counted']:,} | {side['missing']:,} | {side['repeated']:,} | {side['doubled'] if guarantee == 'at_most_once' else 'may be'} |"
        )
    lines += ["", "**Faults that struck**, as the mocks counted them:", ""]
    for platform, counts in kept["providers"].items():
        answers = {name: count for name, count in counts["answers"].items() if name != "200"}
        struck = [*answers.items(), *counts["unanswered"].items()]
        if struck:
            told = ", ".join(f"{name} {count:,}" for name, count in struck)
            opened = counts["connections"]["opened"]
            lines.append(f"- {platform}: {counts['requests']:,} requests over {opened:,} connections; {told}")
    lines += ["", _verdict(kept), ""]
    problems = kept["problems"]
    lines.append(
        "Nothing else was found wrong." if not problems else "Found wrong: " + "; ".join(problems) + "."
    )
    before, after = kept["at_rest"]["before"], kept["at_rest"]["after"]
    left = {
        table: count
        for table, count in kept["rows_after_cleanup"].items()
        if table.startswith(("send", "dead"))
    }
    lines += [
        f"Rows of sends, shards, batches and dead letters after a clean-up of everything: {sum(left.values()):,}.",
        "",
        "**At rest**, before the first fault and after the last send:",
        "",
        "| | before | after |",
        "|---|---:|---:|",
    ]
    wanted = (
        "greenlets.",
        "connections.open.",
        "provider_connections.",
        "open.",
        "streams.in_use.",
        "held_messages.",
        "database_connections",
    )
    lines += [
        f"| {name} | {before.get(name, 0):g} | {after.get(name, 0):g} |"
        for name in sorted({*before, *after})
        if name.startswith(wanted) and (before.get(name) or after.get(name))
    ]
    journals = sum(value for name, value in after.items() if name.startswith("redis_keys.pushq:journal"))
    lines += [
        f"| journals in Redis | {sum(v for n, v in before.items() if n.startswith('redis_keys.pushq:journal')):g} | {journals:g} |",
    ]
    return "\n".join(lines)


def _verdict(kept: Mapping[str, Any]) -> str:
    series = kept["series"]
    names = {
        verdict: [n for n, line in series.items() if line["verdict"] == verdict]
        for verdict in ("flat", "growing", "falling")
    }
    text = f"**Series**: {len(names['flat'])} of {len(series)} are flat, {len(names['falling'])} fall, {len(names['growing'])} grow"
    if not names["growing"]:
        return text + "."
    rows = [
        f"| {name} | {series[name]['first']:,.6g} | {series[name]['last']:,.6g} | {series[name]['per_hour']:+,.4g} | {series[name]['noise']:,.3g} |"
        for name in names["growing"]
    ]
    return "\n".join(
        [text + ":", "", "| series | first | last | per hour | scatter |", "|---|---:|---:|---:|---:|", *rows]
    )


def chart(kept: Mapping[str, Any]) -> str:
    """Memory over time."""
    return line_chart(
        "Memory while everything fails now and then",
        "minutes",
        "MB of each process with all that it started (shared pages divided)",
        [
            Line(name, [(look["seconds"] / 60, look[f"memory_mb.{name}"]) for look in kept["looks"]])
            for name in DRAWN
            if f"memory_mb.{name}" in kept["looks"][0]
        ],
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default="soak", help="of the report, in the file and the section")
    parser.add_argument(
        "--report", type=Path, help="what `pushq bench soak --json` printed; default: what is kept"
    )
    parser.add_argument("--command", default="pushq bench soak --json", help="how it was run")
    parser.add_argument("--note", default="", help="a sentence about it")
    parser.add_argument("--write", action="store_true", help="write the section of RESULTS.md and the plot")
    options = parser.parse_args()
    document: dict[str, Any] = json.loads(JSON_FILE.read_text()) if JSON_FILE.exists() else {}
    if options.report is not None:
        document[options.name] = trimmed(
            json.loads(options.report.read_text()), options.command, options.note
        )
        JSON_FILE.write_text(json.dumps(document) + "\n")
    print(markdown(document))
    if options.write:
        RESULTS_FILE.write_text(replace_section(RESULTS_FILE.read_text(), "soak", markdown(document)))
        # Of several that were as long, the latest.
        longest = max(document.values(), key=lambda kept: (round(kept["seconds"] / 60), kept["started_at"]))
        CHART_FILE.write_text(chart(longest))
        print(f"written: {RESULTS_FILE.relative_to(ROOT)}, {CHART_FILE.relative_to(ROOT)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
