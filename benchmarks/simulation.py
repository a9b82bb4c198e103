"""The simulated broadcast against the measured ones, and what it says of a cluster.

    python -m benchmarks.simulation [--write]

Takes CPU costs from the runs of up to a million in benchmarks/broadcast.json (see benchmarks/broadcast.py), simulates each measured run again,
and tells by how much the seconds differ; then 100,000,000 devices on machines that nobody here has. --write keeps all figures in
benchmarks/simulation.json, and writes the sections of RESULTS.md and docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from benchmarks.broadcast import JSON_FILE as MEASURED_FILE
from benchmarks.broadcast import ROOT, by_role, planner
from benchmarks.results import replace_section
from pushq.loadtest.simulation import Costs, Outcome, Setup, fit, simulate

JSON_FILE: Final = ROOT / "benchmarks" / "simulation.json"
#: The costs are fitted to these; the others are true predictions.
FITTED: Final = ("100k", "300k", "million-redis")
COMPARED: Final = (*FITTED, "10-million", "quota")
ROLES: Final = ("core", "postgresql", "redis", "mock", "apns", "fcm")
CONNECTIONS: Final = {"apns": 8, "fcm": 64}
#: What a worker uses of the 1,000 and 100 that the providers allow.
STREAMS: Final = {"apns": 900, "fcm": 100}
LATENCY_S: Final = 0.08
#: `python -m benchmarks.second_worker`, FCM at 300 ms, see docs/scaling.md: (workers, connections of each) -> measured a second.
SECOND_WORKER: Final[Mapping[tuple[int, int], int]] = {
    (1, 8): 2456,
    (2, 8): 4978,
    (1, 32): 10_242,
    (2, 32): 19_371,
}
#: `pushq demo`, 100,000 devices, see README: seconds, the median of five runs.
DEMO_S: Final = 2.92
DEMO: Final = "pushq demo, 100k"
#: Its workers open their connections while it runs; the runs that the costs are from had them open, and the model opens none.
COLD: Final = frozenset({DEMO})
#: Without a run that measured it: what of the costs is planning.
PLANNING_SHARE: Final = {"core": 0.4, "postgresql": 0.4}


@dataclass(frozen=True)
class Case:
    name: str
    setup: Setup


def costs(document: Mapping[str, Any]) -> Costs:
    """Fixed and per recipient, by role.

    Raises:
        SystemExit: none of the runs is there that the costs are fitted to.
    """
    runs = [document["runs"][name]["report"] for name in FITTED if name in document["runs"]]
    if not runs:
        raise SystemExit(
            f"found none of the runs {', '.join(FITTED)} in {MEASURED_FILE.name}; run benchmarks.broadcast first"
        )
    fixed, recipient = {}, {}
    for each in ROLES:
        points = [
            (
                sum(report["answers"].get(each, {}).values()) or report["devices"],
                by_role(report["cpu_s"]).get(each, 0.0),
            )
            for report in runs
        ]
        fixed[each], recipient[each] = fit([point for point in points if point[1] > 0] or [(1.0, 0.0)])
    alone = alone_of(document)
    if alone is None:
        planning = {each: share * recipient[each] for each, share in PLANNING_SHARE.items()}
    else:
        cpu = by_role(alone["cpu_s"])
        spent = {"core": cpu["planner"], "postgresql": cpu["postgresql"]}
        planning = {
            each: min(recipient[each], max(0.0, value - fixed[each]) / alone["devices"])
            for each, value in spent.items()
        }
    return Costs(recipient, planning, fixed)


def alone_of(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The planning alone, of the largest run that measured it."""
    sizes = sorted({each["report"]["devices"] for each in document["runs"].values()}, reverse=True)
    return next((found for size in sizes if (found := planner(document["runs"], size))), None)


def here(devices: Mapping[str, int], *, background: float = 0.0) -> Setup:
    """This machine: everything on its two cores."""
    return Setup(
        devices=devices,
        workers=dict.fromkeys(devices, 1),
        connections=CONNECTIONS,
        streams=STREAMS,
        latency_s=LATENCY_S,
        cores={"here": 2.0},
        machine=dict.fromkeys(ROLES, ("here",)),
        background={"here": background},
    )


def measured(document: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Name, measured and simulated seconds."""
    found = []
    known = costs(document)
    for name in COMPARED:
        if name not in document["runs"]:
            continue
        report = document["runs"][name]["report"]
        devices = {platform: sum(answers.values()) for platform, answers in report["answers"].items()}
        setup = here(devices, background=by_role(report["cpu_s"]).get("caller", 0.0) / report["seconds"])
        if report["plan"]["quota"]:
            setup = replace(setup, quotas={"fcm": 600_000.0})
        if report["devices"] > 1_000_000:
            setup = replace(setup, chunk=500)
        found.append((name, report["seconds"], simulate(setup, known).seconds))
    found.append((DEMO, DEMO_S, simulate(here({"apns": 60_000, "fcm": 40_000}), known).seconds))
    return found


def second_worker(known: Costs) -> list[tuple[str, float, float]]:
    """Name, measured and simulated rates."""
    found = []
    for (workers, connections), rate in SECOND_WORKER.items():
        setup = replace(
            here({"fcm": 20 * rate}),
            workers={"fcm": workers},
            connections={"fcm": connections},
            latency_s=0.3,
            chunk=100,
        )
        found.append((f"{workers} x {connections} connections", float(rate), simulate(setup, known).rate))
    return found


def cluster() -> list[Case]:
    """100,000,000 devices, half APNs, half FCM, providers at 300 ms; a machine each for PostgreSQL, Redis and core, four for the workers."""
    hosts = {f"workers-{number}": 4.0 for number in range(1, 5)}
    places = tuple(hosts)
    base = Setup(
        devices={"apns": 50_000_000, "fcm": 50_000_000},
        workers={"apns": 4, "fcm": 6},
        connections=CONNECTIONS,
        streams=STREAMS,
        latency_s=0.3,
        cores={"postgresql": 8.0, "redis": 2.0, "core": 2.0} | hosts,
        machine={
            "postgresql": ("postgresql",),
            "redis": ("redis",),
            "core": ("core",),
            "apns": places,
            "fcm": places,
        },
        window=256,
        chunk=500,
    )
    wide = CONNECTIONS | {"fcm": 100}
    return [
        Case("4 APNs and 6 FCM workers", base),
        Case(
            "the same, FCM's default quota (600,000 a minute)",
            replace(base, quotas={"fcm": 600_000.0}, ramp_s=60.0),
        ),
        Case(
            "the same, quota raised to 5,000,000 a minute",
            replace(base, quotas={"fcm": 5_000_000.0}, ramp_s=60.0),
        ),
        Case("the same, a release window of 64", replace(base, window=64)),
        Case(
            "4 and 2, FCM with max_connections = 100",
            replace(base, workers={"apns": 4, "fcm": 2}, connections=wide),
        ),
        Case("8 and 12", replace(base, workers={"apns": 8, "fcm": 12})),
        Case(
            "8 and 12, PostgreSQL with 2 cores",
            replace(base, workers={"apns": 8, "fcm": 12}, cores=dict(base.cores) | {"postgresql": 2.0}),
        ),
    ]


def busiest(outcome: Outcome) -> str:
    """The process or machine that is used most, and how much of it."""
    name = max(outcome.busy, key=lambda each: outcome.busy[each])
    return f"{name} {outcome.busy[name]:.0%}"


def report() -> dict[str, Any]:
    """Everything, as JSON."""
    document = json.loads(MEASURED_FILE.read_text())
    known = costs(document)
    clusters = [(case, simulate(case.setup, known)) for case in cluster()]
    return {
        "costs_us": {
            "recipient": {name: round(value * 1e6, 2) for name, value in known.recipient.items()},
            "planning": {name: round(value * 1e6, 2) for name, value in known.planning.items()},
            "fixed_s": {name: round(value, 3) for name, value in known.fixed.items()},
        },
        "planning_measured": bool(alone_of(document)),
        "machine": document["machine"],
        "seconds": [
            {
                "run": name,
                "measured": round(was, 2),
                "simulated": round(is_, 2),
                "error": round(is_ / was - 1, 3),
                "fitted": name in FITTED,
            }
            for name, was, is_ in measured(document)
        ],
        "rates": [
            {"run": name, "measured": was, "simulated": round(is_), "error": round(is_ / was - 1, 3)}
            for name, was, is_ in second_worker(known)
        ],
        "cluster": [
            {
                "case": case.name,
                "setup": asdict(case.setup),
                "seconds": round(outcome.seconds, 1),
                "planned_s": round(outcome.planned_s, 1),
                "rate": round(outcome.rate),
                "busiest": busiest(outcome),
                "busy": {name: round(value, 3) for name, value in outcome.busy.items() if value},
                "published": outcome.published,
            }
            for case, outcome in clusters
        ],
    }


def tables(found: Mapping[str, Any]) -> tuple[str, str]:
    """The comparison with what was measured, and the cluster."""
    compared = [
        "| run | measured | simulated | error | |",
        "|---|---:|---:|---:|---|",
        *(
            f"| {each['run']} | {each['measured']:.1f} s | {each['simulated']:.1f} s | {each['error']:+.0%} "
            f"| {_how(each)} |"
            for each in found["seconds"]
        ),
        *(
            f"| FCM at 300 ms, {each['run']} | {each['measured']:,.0f}/s | {each['simulated']:,.0f}/s | {each['error']:+.0%} | predicted |"
            for each in found["rates"]
        ),
    ]
    clusters = [
        "| set-up | seconds | answers a second, in the middle | planned after, s | busiest, of one core |",
        "|---|---:|---:|---:|---|",
        *(
            f"| {each['case']} | {each['seconds']:,.0f} | {each['rate']:,} | {each['planned_s']:,.0f} | {each['busiest']} |"
            for each in found["cluster"]
        ),
    ]
    return "\n".join(compared), "\n".join(clusters)


def _how(run: Mapping[str, Any]) -> str:
    if run["run"] in COLD:
        return "predicted; opens its connections meanwhile, which the model leaves out"
    return "its CPU costs are among those fitted" if run["fitted"] else "predicted"


def _worst(found: Mapping[str, Any]) -> float:
    """The largest error among runs that began as the model does."""
    return max(abs(each["error"]) for each in (*found["seconds"], *found["rates"]) if each["run"] not in COLD)


def results_section(found: Mapping[str, Any]) -> str:
    compared, _ = tables(found)
    return (
        "## The simulation against what was measured\n\n"
        "`python -m benchmarks.simulation --write`: [pushq/loadtest/simulation.py](../pushq/loadtest/simulation.py) with the CPU costs of the runs above.\n"
        f"The largest error is {_worst(found):.0%}, but for the demo's. What it says of a cluster stands in [scaling](../docs/scaling.md#a-simulation).\n\n"
        + compared
    )


def scaling_section(found: Mapping[str, Any]) -> str:
    _, clusters = tables(found)
    cost = found["costs_us"]
    per = ", ".join(f"{name} {value:.1f}" for name, value in cost["recipient"].items())
    return (
        "## A simulation\n\n"
        "`python -m benchmarks.simulation --write` plays a broadcast as a network of queues: pages of the planner, the release window, batches in hand, each\n"
        "process's one core, machines whose cores are shared, streams for the provider's latency, a quota's bucket with its ramp, settlement. It is fed\n"
        f"with CPU costs measured on the 2-core machine (microseconds a recipient: {per}; mock is the provider and costs a cluster nothing), and\n"
        f"reproduces the measured runs within {_worst(found):.0%} ([RESULTS.md](../benchmarks/RESULTS.md)).\n\n"
        "100,000,000 devices, half APNs, half FCM, providers at 300 ms; PostgreSQL on 8 cores, Redis and core on 2 each, the workers on four machines of 4.\n"
        "All of it **simulated**:\n\n" + clusters + "\n\n"
        "| measured | assumed |\n|---|---|\n"
        "| CPU of each role for a recipient, up to a million | it stays so for more; a core of the cluster is as fast as one of this machine |\n"
        "| that streams and latency set the rate of one and of two FCM workers | that it goes on so with ten |\n"
        "| that the limiter keeps to a quota | the ramp is always used to the full |\n"
        f"{_planned(found)}\n"
        "| | connections are open before it begins |\n"
        "| | the parts of the database's work run beside each other on as many cores as there are |\n"
        "| | disks with fsync, networks and the broker are not in the way; nobody is refused, nothing is retried; latencies do not scatter |\n"
    )


def _planned(found: Mapping[str, Any]) -> str:
    if found["planning_measured"]:
        return "| what planning alone costs | |"
    shares = ", ".join(f"{share:.0%} of {role}" for role, share in PLANNING_SHARE.items())
    return f"| | what of the cost is planning: {shares} |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write the JSON and the sections")
    options = parser.parse_args()
    found = report()
    print(*tables(found), sep="\n\n")
    if options.write:
        JSON_FILE.write_text(json.dumps(found, indent=1) + "\n")
        for path, section in (
            (ROOT / "benchmarks" / "RESULTS.md", results_section(found)),
            (ROOT / "docs" / "scaling.md", scaling_section(found)),
        ):
            path.write_text(replace_section(path.read_text(), "simulation", section))
            print(f"written: {path.relative_to(ROOT)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
