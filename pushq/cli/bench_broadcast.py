"""``pushq bench broadcast``: one whole broadcast, from the call to the last settled outcome."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from pushq.app_settings import ApnsSettings, FcmSettings
from pushq.cli.output import console, emit_json, json_option
from pushq.demo.devices import DEFAULT_PLATFORMS
from pushq.loadtest import broadcast as bench
from pushq.platforms import PLATFORMS

EXAMPLE = """\b
Example:
  pushq bench broadcast --devices 1000000 --broker rabbitmq --transactional-rate 50 --json
"""

_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 60


class _Counts(click.ParamType[dict[str, int]]):
    """``core=1,apns=2`` as a mapping.

    Args:
        most: the highest count of each kind.
        needed: a kind that must be among them, and what for.
    """

    name = "kind=count,..."

    def __init__(self, most: Mapping[str, int], needed: tuple[str, str] | None = None) -> None:
        self._most, self._needed = most, needed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int]:
        if isinstance(value, dict):
            return value
        found: dict[str, int] = {}
        for part in str(value).split(","):
            kind, _, count = part.strip().partition("=")
            if kind not in self._most:
                self.fail(
                    f"found {part!r}; expected kind=count with one of the kinds {', '.join(self._most)}",
                    param,
                    ctx,
                )
            if not count.isdigit() or not 1 <= int(count) <= self._most[kind]:
                self.fail(f"found {part!r}; expected a count of 1 to {self._most[kind]}", param, ctx)
            found[kind] = int(count)
        if self._needed is not None and self._needed[0] not in found:
            kind, purpose = self._needed
            self.fail(f"found no {kind} in {value!r}; expected one at least, {purpose}", param, ctx)
        return found


_WORKERS = _Counts(
    dict.fromkeys(
        [
            "core",
            "core-transactional",
            *(f"{p}{lane}" for p in PLATFORMS for lane in ("", "-broadcast", "-transactional")),
        ],
        100,
    ),
    needed=("core", "which plans"),
)
_CONNECTIONS = _Counts(
    {
        platform: table.model_fields["max_connections"].default
        for platform, table in (("apns", ApnsSettings), ("fcm", FcmSettings))
    }
)


class _Setting(click.ParamType[tuple[str, str]]):
    """``PUSHQ_NAME=value`` as a pair."""

    name = "PUSHQ_NAME=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not name.startswith("PUSHQ_") or not equals:
            self.fail(f"found {value!r}; expected PUSHQ_NAME=value", param, ctx)
        return name, text


class _Platforms(click.ParamType[tuple[str, ...]]):
    """``apns,fcm`` as a tuple."""

    name = "platforms"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        found = tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))
        if not set(found) <= set(PLATFORMS):
            self.fail(f"found {value!r}; expected some of {', '.join(PLATFORMS)}", param, ctx)
        return found


@click.command(name="broadcast", epilog=EXAMPLE, context_settings={"show_default": True})
@click.option("--devices", type=click.IntRange(100, 100_000_000), default=100_000, help="Registered devices.")
@click.option(
    "--platforms",
    type=_Platforms(),
    default=",".join(DEFAULT_PLATFORMS),
    help=f"Whom to send to: some of {', '.join(PLATFORMS)}.",
)
@click.option("--latency-ms", type=click.FloatRange(0, 60_000), default=80.0, help="Of the mock providers.")
@click.option("--dead-ratio", type=click.FloatRange(0, 1), default=0.03, help="Share of dead tokens.")
@click.option(
    "--broker", type=click.Choice(["redis", "rabbitmq"]), default="redis", help="Started privately."
)
@click.option(
    "--workers",
    type=_WORKERS,
    help="Processes by kind, such as core=1,apns=2,fcm=1; default: one of each that is needed.",
)
@click.option(
    "--connections",
    type=_CONNECTIONS,
    default=",".join(f"{platform}={count}" for platform, count in bench.CONNECTIONS.items()),
    help="Opened in advance by each worker: min_connections of the app's table.",
)
@click.option(
    "--transactional-rate",
    type=click.FloatRange(0, 10_000),
    default=0.0,
    help="Transactional calls a second beside the broadcast.",
)
@click.option(
    "--guarantee",
    type=click.Choice(["at_most_once", "at_least_once"]),
    default="at_most_once",
    help="Of the broadcast.",
)
@click.option(
    "--quota/--no-quota",
    default=False,
    help=f"FCM refuses more than {bench.QUOTA:,} requests a minute, and pushq keeps below, without a ramp.",
)
@click.option(
    "--plan-first/--no-plan-first",
    default=False,
    help="Measure the planning alone as well, with a broadcast that is then cancelled.",
)
@click.option(
    "--setting", "settings", type=_Setting(), multiple=True, help="A setting of the workers; may be repeated."
)
@click.option("--timeout", type=click.FloatRange(1), default=3600.0, help="Seconds for the broadcast.")
@json_option
def broadcast(
    devices: int,
    platforms: tuple[str, ...],
    latency_ms: float,
    dead_ratio: float,
    broker: str,
    workers: dict[str, int] | None,
    connections: dict[str, int],
    transactional_rate: float,
    guarantee: str,
    quota: bool,
    plan_first: bool,
    settings: tuple[tuple[str, str], ...],
    timeout: float,
    as_json: bool,
) -> None:
    """Measure one whole broadcast: private servers, mock providers, workers, and a count of what arrived.

    Generates and imports devices, warms the cache, sends one broadcast while transactional calls flow, and tells seconds from the
    call to the last settled outcome, CPU time and memory of each process, latencies of the transactional sends, and what was lost
    or doubled (nothing, or the command fails).
    """
    out = console(stderr=as_json)
    plan = bench.Plan(
        devices=devices,
        platforms=platforms,
        latency_ms=latency_ms,
        dead_ratio=dead_ratio,
        broker=broker,
        workers=workers or {},
        connections=connections,
        transactional_rate=transactional_rate,
        guarantee=guarantee,
        quota=quota,
        plan_first=plan_first,
        timeout_s=timeout,
        settings=dict(settings),
    )
    report = bench.run(plan, lambda text: out.print(f"[dim]·[/dim] {text}"))
    if as_json:
        emit_json(report)
    else:
        show(out, report)
    problems = bench.problems(report)
    if problems:
        raise bench.BenchFailed("; ".join(problems))


def show(out: Console, report: dict[str, Any]) -> None:
    """The report for people."""
    out.print(
        f"\n[bold]{report['devices']:,} devices in {report['seconds']:.2f} s: {report['per_second']:,} notifications a second[/bold]"
    )
    out.print("  " + "   ".join(f"{name} {count:,}" for name, count in report["outcomes"].items() if count))
    out.print(f"  doubled {report['duplicated']:,}, missing {report['missing']:,}, as the providers counted")
    out.print("  after the call: " + ", ".join(f"{name} {at:.2f} s" for name, at in report["stages"].items()))
    if planner := report["planner_alone"]:
        out.print(
            f"  planning alone took {planner['seconds']:.2f} s: {planner['per_second']:,} devices a second"
        )
    out.print(f"  answers over time  {sparkline(report['over_time'])}")
    if report["transactional"]["calls"]:
        ms = report["transactional"]["ms"]
        out.print(
            f"  {report['transactional']['measured']:,} transactional sends, ms from call to outcome: "
            + ", ".join(f"{name} {value:,.0f}" for name, value in ms.items())
        )
    table = Table("process", "CPU s", "peak MB", "largest MB", box=None, pad_edge=False)
    for name, seconds in report["cpu_s"].items():
        peak, largest = report["peak_mb"][name], report["largest_mb"][name]
        table.add_row(name, _known(seconds, 2), _known(peak, 0), _known(largest, 0))
    out.print(table)
    out.print("  peak: a process with all that it started; largest: the largest of them alone")
    out.print(
        f"  broker held at most {_known(report['broker_peak_mb'], 2)} MB, database grew by {report['database_growth_mb']:.0f} MB"
    )


def _known(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def sparkline(over_time: list[tuple[float, int]]) -> str:
    """Answers per second as a row of bars, and the highest of them."""
    rates = [
        max(0.0, (after - before) / max(later - earlier, 1e-9))
        for (earlier, before), (later, after) in itertools.pairwise(over_time)
    ]
    if not rates or max(rates) == 0:
        return ""
    width = max(1, -(-len(rates) // _WIDTH))
    joined = [sum(rates[i : i + width]) / len(rates[i : i + width]) for i in range(0, len(rates), width)]
    top = max(joined)
    return "".join(_BARS[round(rate / top * (len(_BARS) - 1))] for rate in joined) + f"  at most {top:,.0f}/s"
