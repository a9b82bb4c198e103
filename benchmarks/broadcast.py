"""Whole broadcasts on this machine: run some of them, keep the figures, and write the section of RESULTS.md and its plots.

    python -m benchmarks.broadcast million-redis million-rabbitmq      (runs these, one after the other, and keeps their figures)
    python -m benchmarks.broadcast --list                              (the runs and their commands)
    python -m benchmarks.broadcast --keep million-redis FILE           (the same of what `pushq bench broadcast --json` printed before)
    python -m benchmarks.broadcast --write                             (README, RESULTS.md and docs/img/*.svg from the figures there are)

The figures stand in benchmarks/broadcast.json, each with its command, its day, and the load before it. Every run is `pushq bench broadcast`,
which fails when anything was lost or doubled; a run that fails is not kept.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.charts import Line, line_chart, rates, stacked_bars
from benchmarks.machine import machine, versions
from benchmarks.results import replace_section

ROOT: Final = Path(__file__).resolve().parents[1]
JSON_FILE: Final = ROOT / "benchmarks" / "broadcast.json"
WIRE_FILE: Final = ROOT / "benchmarks" / "wire.json"
#: Clients of the wire's table that applications send with; firebase-admin's send_each_async sends with httpx.
PEERS: Final = ("aioapns", "httpx", "h2")
RESULTS_FILE: Final = ROOT / "benchmarks" / "RESULTS.md"
README_FILE: Final = ROOT / "README.md"
IMAGES: Final = ROOT / "docs" / "img"
PACKAGES: Final = ("pushq", "celery", "kombu", "gevent", "psycopg", "redis", "h2", "orjson")
TIMEOUT_S: Final = 7200.0

_BOTH: Final = ("--platforms", "apns,fcm")
#: What can be run: options of `pushq bench broadcast`.
RUNS: Final[Mapping[str, tuple[str, ...]]] = {
    "100k": ("--devices", "100000", *_BOTH),
    "300k": ("--devices", "300000", *_BOTH),
    "million-redis": ("--devices", "1000000", *_BOTH),
    "million-rabbitmq": ("--devices", "1000000", *_BOTH, "--broker", "rabbitmq"),
    "million-redis-transactional": ("--devices", "1000000", *_BOTH, "--transactional-rate", "50"),
    "million-rabbitmq-transactional": (
        *("--devices", "1000000", *_BOTH, "--broker", "rabbitmq"),
        *("--transactional-rate", "50"),
    ),
    "10-million": ("--devices", "10000000", *_BOTH, "--plan-first"),
    "1-million-planned": ("--devices", "1000000", *_BOTH, "--plan-first"),
    "100k-planned": ("--devices", "100000", *_BOTH, "--plan-first"),
    "quota": ("--devices", "1000000", "--platforms", "fcm", "--quota"),
}
#: Runs of the same set-up with ever more devices.
GROWTH: Final = ("100k", "300k", "million-redis", "10-million")
#: For a million on these cores.
GOAL_S: Final = 10.0
OVER_TIME: Final = ("million-redis", "million-rabbitmq", "quota")
#: A process's part in a broadcast, for the plot; what is not listed is under its own name.
STAGES: Final[Mapping[str, str]] = {
    "core": "plan, sweep, dead letters (core)",
    "postgresql": "ledger (PostgreSQL)",
    "redis": "tokens, journal (Redis)",
    "rabbitmq": "RabbitMQ",
    "apns": "render, send, settle (apns)",
    "fcm": "render, send, settle (fcm)",
    "mock": "providers (mock)",
    "caller": "caller",
}


def run(name: str) -> dict[str, Any]:
    """One run.

    Raises:
        SystemExit: it failed; its messages went to the terminal.
    """
    options = [*RUNS[name], "--json"]
    load = machine()["load_average"]
    began = dt.datetime.now(dt.UTC)
    done = subprocess.run(
        [sys.executable, "-m", "pushq", "bench", "broadcast", *options],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
        cwd=ROOT,
        env=os.environ,
    )
    if done.returncode != 0:
        raise SystemExit(f"{name} ended with code {done.returncode}")
    return {
        "command": shlex.join(["pushq", "bench", "broadcast", *options]),
        "began": began.isoformat(timespec="seconds"),
        "whole_s": round((dt.datetime.now(dt.UTC) - began).total_seconds(), 1),
        "load_average_before": load,
        "report": json.loads(done.stdout),
    }


def finished(name: str, path: Path) -> dict[str, Any]:
    """A run that was made before, from what it printed."""
    report = json.loads(path.read_text())
    ended = dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC)
    plan = report["plan"]
    for option, place in (
        ("--devices", "devices"),
        ("--broker", "broker"),
        ("--transactional-rate", "transactional_rate"),
    ):
        if option in RUNS[name] and str(plan[place]) not in (
            wanted := RUNS[name][RUNS[name].index(option) + 1],
            f"{wanted}.0",
        ):
            raise SystemExit(f"{path.name} is no {name}: found {place} {plan[place]}, expected {wanted}")
    return {
        "command": shlex.join(["pushq", "bench", "broadcast", *RUNS[name], "--json"]),
        "began": ended.isoformat(timespec="seconds"),
        "whole_s": None,
        "load_average_before": None,
        "report": report,
    }


def kept() -> dict[str, Any]:
    """What the file has."""
    found: dict[str, Any] = json.loads(JSON_FILE.read_text()) if JSON_FILE.exists() else {"runs": {}}
    return found


def keep(name: str, result: dict[str, Any]) -> None:
    document = kept()
    document["machine"] = {key: value for key, value in machine().items() if key != "load_average"}
    document["versions"] = versions(PACKAGES)
    document["runs"][name] = result
    JSON_FILE.write_text(json.dumps(document, indent=1) + "\n")


def role(process: str) -> str:
    """``apns-transactional-1`` is apns."""
    return process.partition("-")[0]


def by_role(figures: Mapping[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for process, value in figures.items():
        found[role(process)] = found.get(role(process), 0.0) + value
    return found


def markdown(document: Mapping[str, Any]) -> str:
    """The section."""
    runs: Mapping[str, Any] = document["runs"]
    here, program = document["machine"], document["versions"]
    lines = [
        "## A whole broadcast",
        "",
        f"- {here['cpu']}, {here['cores']} cores, {here['memory_gib']} GiB; {here['system']}",
        "- " + ", ".join(f"{name} {version}" for name, version in program.items()),
        "",
        "PostgreSQL, Redis, RabbitMQ, the mock providers (TLS, HTTP/2, 80 ms for an answer), the workers and the caller share the two cores. Seconds",
        "are the ledger's, from the call to the last settled outcome; lost and doubled are counted at the providers, token by token.",
        "60 % APNs, 40 % FCM, 3 % of the tokens dead, except where it says otherwise. The load is the machine's before the run: other work",
        "beside a run makes it slower, and its CPU seconds somewhat more. As in a service that runs: the devices are vacuumed after their import,",
        "the cache is warm, and " + _connections(runs) + ".",
        "",
        "| run | devices | seconds | a second | CPU s | CPU µs a recipient | lost | doubled | broker at most, MB | load before |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, each in runs.items():
        report = each["report"]
        cpu = sum(report["cpu_s"].values())
        lines.append(
            f"| {name} | {report['devices']:,} | {report['seconds']:.1f} | {report['per_second']:,} | {cpu:.1f} "
            f"| {report['cpu_per_recipient_us']:.1f} | {report['missing']} | {report['duplicated']} "
            f"| {report['broker_peak_mb']:.2f} | {_load(each)} |"
        )
    lines += [
        "",
        *(f"- {name}: `{each['command']}`, {each['began'][:10]}" for name, each in runs.items()),
        "",
    ]
    lines += (
        _between(runs) + _peers(runs) + _transactional(runs) + _memory(runs) + _growth(runs) + _quota(runs)
    )
    return "\n".join(lines)


def _connections(runs: Mapping[str, Any]) -> str:
    """How many connections each worker has open before the call, by platform."""
    known = {
        platform: number
        for run in runs.values()
        for platform, number in run["report"].get("plan", {}).get("connections", {}).items()
    }
    if not known:
        return "connections are opened during the run"
    told = " and ".join(f"{number} to {platform}" for platform, number in sorted(known.items()))
    return f"each worker has opened {told} before the call (`min_connections`)"


def _load(run: Mapping[str, Any]) -> str:
    load = run["load_average_before"]
    return "not noted" if load is None else f"{load:.1f}"


def _between(runs: Mapping[str, Any]) -> list[str]:
    """What stands between the million and ten seconds: the CPU time that there is, and where it goes."""
    names = [name for name in OVER_TIME[:2] if name in runs]
    if not names:
        return []
    there = GOAL_S * (os.cpu_count() or 1)
    lines = [
        f"**{GOAL_S:g} seconds** have {there:g} s of CPU time on these cores. Where it goes, in CPU seconds; the mock stands for Apple and Google, and the caller is the",
        "benchmark looking on: neither runs where pushq does.",
        "",
        "| run | " + " | ".join(STAGES.values()) + " | all | without mock and caller | busy |",
        "|---|" + "---:|" * (len(STAGES) + 3),
    ]
    for name in names:
        report = runs[name]["report"]
        cpu = by_role(report["cpu_s"])
        whole, others = sum(cpu.values()), sum(cpu.get(role, 0.0) for role in ("mock", "caller"))
        cells = " | ".join(f"{cpu[role]:.1f}" if role in cpu else "" for role in STAGES)
        busy = whole / report["seconds"] / (os.cpu_count() or 1)
        lines.append(f"| {name} | {cells} | {whole:.1f} | {whole - others:.1f} | {busy:.0%} |")
    return [*lines, ""]


def _peers(runs: Mapping[str, Any]) -> list[str]:
    """What other clients cost for the request alone, from the table above."""
    if "million-redis" not in runs or not WIRE_FILE.exists():
        return []
    wire = json.loads(WIRE_FILE.read_text())
    cell = next(each for each in wire["cells"] if (each["body_bytes"], each["connections"]) == (150, 4))
    cost = {each["client"]: each["cpu_us"] for each in cell["clients"]}
    told = ", ".join(f"{name} {cost[name]:,.0f} µs" for name in PEERS if name in cost)
    whole = runs["million-redis"]["report"]["cpu_per_recipient_us"]
    text = (
        f"**For scale**: a request alone, without queue, database, retries or ledger, costs {told} of CPU in the table of the sender above (150-byte bodies, "
        f"4 connections; firebase-admin's `send_each_async` sends with httpx). The {whole:.0f} µs here are planning, tokens, rendering, sending, outcomes, "
        "the servers and the mock providers together."
    )
    return [text, ""]


def _transactional(runs: Mapping[str, Any]) -> list[str]:
    found = {name: each["report"]["transactional"] for name, each in runs.items()}
    found = {name: each for name, each in found.items() if each["calls"]}
    if not found:
        return []
    return [
        "**Transactional sends beside it**, milliseconds from the call to the settled outcome; the provider's 80 are in it. Failed: users whose only",
        "device the broadcast had just found dead.",
        "",
        "| run | calls | p50 | p95 | p99 | p99.9 | longest | refused | failed | open |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(
            f"| {name} | {each.get('measured', each['calls']):,} | "
            + " | ".join(f"{each['ms'][key]:,.0f}" for key in ("p50", "p95", "p99", "p99.9", "max"))
            + f" | {sum(each['refused'].values())} | {sum(each['failed'].values())} | {each['open']} |"
            for name, each in found.items()
        ),
        "",
        *(["![Histogram of the latencies of transactional sends](../docs/img/latency.svg)", ""]),
    ]


def _memory(runs: Mapping[str, Any]) -> list[str]:
    names = [
        name
        for name in runs
        if (name in GROWTH or name.startswith("million")) and runs[name]["report"].get("largest_mb")
    ]
    if not names:
        return []
    roles = list(
        dict.fromkeys(role(process) for name in names for process in runs[name]["report"]["peak_mb"])
    )
    lines = [
        "**Memory at most, MB**: the largest single process, and in parentheses the family with shared pages divided. PostgreSQL is a process for",
        "each connection; Redis holds the token cache, the mock every token that it accepted, and neither is pushq's.",
        "",
        "| run | " + " | ".join(roles) + " |",
        "|---|" + "---:|" * len(roles),
    ]
    for name in names:
        report = runs[name]["report"]
        cells = []
        for each in roles:
            own = [process for process in report["peak_mb"] if role(process) == each]
            largest = max((report["largest_mb"][process] for process in own), default=None)
            family = sum(report["peak_mb"][process] for process in own)
            cells.append("" if largest is None else f"{largest:,.0f} ({family:,.0f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _growth(runs: Mapping[str, Any]) -> list[str]:
    names = [name for name in GROWTH if name in runs]
    if len(names) < 2:
        return []
    first = runs[names[0]]["report"]
    lines = [
        "**Growth.** What a recipient costs, and what it would cost more than in the smallest run.",
        "",
        "| devices | seconds | CPU µs a recipient | of that of the smallest | database grew by, bytes a recipient | planning alone, a second |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        report = runs[name]["report"]
        planned = planner(runs, report["devices"])
        lines.append(
            f"| {report['devices']:,} | {report['seconds']:.1f} | {report['cpu_per_recipient_us']:.1f} "
            f"| {report['cpu_per_recipient_us'] / first['cpu_per_recipient_us']:.2f} "
            f"| {report['database_growth_mb'] * 2**20 / report['devices']:.1f} "
            f"| {'' if planned is None else format(planned['per_second'], ',')} |"
        )
    return [*lines, "", "![CPU time a recipient by number of devices](../docs/img/growth.svg)", ""]


def planner(runs: Mapping[str, Any], devices: int) -> dict[str, Any] | None:
    """The planning alone of so many devices, from whichever run measured it."""
    for each in runs.values():
        alone: dict[str, Any] | None = each["report"].get("planner_alone")
        if alone is not None and alone["devices"] == devices:
            return alone
    return None


def _quota(runs: Mapping[str, Any]) -> list[str]:
    if "quota" not in runs:
        return []
    report = runs["quota"]["report"]
    refused = sum(count for answer, count in report["answers"]["fcm"].items() if answer.startswith("429"))
    text = (
        f"**Within a quota**: FCM that refuses more than 600,000 requests in a minute, no ramp: {report['devices']:,} devices in "
        f"{report['seconds']:.1f} s (100 s is the quota's own pace), and {refused} answers of 429."
    )
    return [text, ""]


def draw(document: Mapping[str, Any]) -> dict[str, str]:
    """SVG by file name, of what there are figures for."""
    runs: Mapping[str, Any] = document["runs"]
    charts: dict[str, str] = {}
    lines = [
        Line(name, rates(runs[name]["report"]["over_time"], 0.9), steps=True)
        for name in OVER_TIME[:2]
        if name in runs
    ]
    if lines:
        charts["broadcast.svg"] = line_chart(
            "A million notifications on two cores that also run the servers and the providers",
            "seconds after the call",
            "answers of the providers a second",
            lines,
        )
    with_calls = {
        name: each["report"]["transactional"]["ms_histogram"]
        for name, each in runs.items()
        if each["report"]["transactional"].get("ms_histogram")
    }
    if with_calls:
        charts["latency.svg"] = line_chart(
            "Transactional sends beside a broadcast of a million",
            "milliseconds from the call to the settled outcome",
            "sends, of each bin (ten to a tenfold)",
            [Line(name, [(end, float(count)) for end, count in bins]) for name, bins in with_calls.items()],
            log_x=True,
        )
    growth = [runs[name]["report"] for name in GROWTH if name in runs]
    if len(growth) > 1:
        own = [
            Line(
                label,
                [
                    (each["devices"], by_role(each["cpu_s"]).get(part, 0.0) / each["devices"] * 1e6)
                    for each in growth
                ],
            )
            for part, label in STAGES.items()
            if part in ("core", "postgresql", "redis", "apns", "fcm", "mock")
        ]
        whole = Line("all", [(each["devices"], each["cpu_per_recipient_us"]) for each in growth])
        charts["growth.svg"] = line_chart(
            "CPU time of one recipient", "devices", "microseconds", [whole, *own], log_x=True
        )
    bars = [
        (
            name,
            {
                STAGES[part]: value / runs[name]["report"]["devices"] * 1e6
                for part, value in by_role(runs[name]["report"]["cpu_s"]).items()
                if part in STAGES
            },
        )
        for name in runs
        if name.startswith("million")
    ]
    if bars:
        order = [label for label in STAGES.values() if any(label in parts for _, parts in bars)]
        charts["cpu.svg"] = stacked_bars(
            "CPU time of one recipient, by process",
            "microseconds",
            [(name, {label: parts[label] for label in order if label in parts}) for name, parts in bars],
        )
    return charts


def headline(document: Mapping[str, Any]) -> str:
    """What README says; empty without the runs of a million."""
    runs: Mapping[str, Any] = document["runs"]
    brokers = {"Redis": "million-redis", "RabbitMQ": "million-rabbitmq"}
    plain = {broker: runs[name]["report"] for broker, name in brokers.items() if name in runs}
    beside = {
        broker: runs[f"{name}-transactional"]["report"]["transactional"]
        for broker, name in brokers.items()
        if f"{name}-transactional" in runs
    }
    if not plain:
        return ""
    seconds = " and ".join(f"{each['seconds']:.1f} s on {broker}" for broker, each in plain.items())
    lost = sum(each["missing"] for each in plain.values())
    doubled = sum(each["duplicated"] for each in plain.values())
    lines = [
        f"**A million notifications in {seconds}**, from the call to the last settled outcome, on two cores that also run PostgreSQL, the broker and",
        f"mock providers that take 80 ms for an answer; lost {lost}, doubled {doubled} (`pushq bench broadcast --devices 1000000`).",
    ]
    if beside:
        told = " and ".join(f"{each['ms']['p99']:,.0f} ms on {broker}" for broker, each in beside.items())
        lines.append(
            f"With 50 transactional sends a second beside it, 99 of 100 of these were over within {told}."
        )
    return "\n".join(
        [
            *lines,
            "",
            "![Answers a second over time](docs/img/broadcast.svg)",
            "",
            "How it grows, what it costs, and an hour of failing providers: [benchmarks/RESULTS.md](benchmarks/RESULTS.md).",
        ]
    )


def write(document: Mapping[str, Any]) -> list[Path]:
    """The sections and the plots; the files written."""
    charts = draw(document)
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, chart in charts.items():
        (IMAGES / name).write_text(chart)
    text = markdown(document)
    if "broadcast.svg" in charts:
        text += "\n![Answers a second over time](../docs/img/broadcast.svg)\n"
    if "cpu.svg" in charts:
        text += "\n![CPU time of one recipient by process](../docs/img/cpu.svg)\n"
    RESULTS_FILE.write_text(replace_section(RESULTS_FILE.read_text(), "broadcast", text))
    README_FILE.write_text(replace_section(README_FILE.read_text(), "broadcast", headline(document)))
    return [README_FILE, RESULTS_FILE, *(IMAGES / name for name in charts)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="RUN", help=f"some of {', '.join(RUNS)}")
    parser.add_argument("--keep", nargs=2, action="append", default=[], metavar=("RUN", "FILE"))
    parser.add_argument("--list", action="store_true", help="print the runs and their commands")
    parser.add_argument("--write", action="store_true", help="write the section of RESULTS.md and the plots")
    options = parser.parse_args(arguments)
    unknown = sorted({*options.names, *(name for name, _ in options.keep)} - RUNS.keys())
    if unknown:
        parser.error(f"found {', '.join(unknown)}; expected some of {', '.join(RUNS)}")
    if options.list:
        for name, each in RUNS.items():
            print(f"{name:32} pushq bench broadcast {shlex.join(each)} --json")
    for name, path in options.keep:
        keep(name, finished(name, Path(path)))
    for name in options.names:
        result = run(name)
        keep(name, result)
        report = result["report"]
        print(
            f"{name}: {report['seconds']:.1f} s, {sum(report['cpu_s'].values()):.1f} CPU s", file=sys.stderr
        )
    if options.write:
        print("written:", *(path.relative_to(ROOT) for path in write(kept())), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
