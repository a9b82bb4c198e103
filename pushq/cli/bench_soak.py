"""``pushq bench soak``: continuous sends against failing providers, and whether anything grows."""

from __future__ import annotations

import time
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pushq.cli.output import console, emit_json, json_option
from pushq.loadtest import soak as bench

EXAMPLE = """\b
Example:
  pushq bench soak --minutes 60 --json > soak.json
"""

#: Where there is no terminal, a line each so many seconds.
LINE_EVERY_S = 60.0


@click.command(name="soak", epilog=EXAMPLE, context_settings={"show_default": True})
@click.option("--minutes", type=click.FloatRange(0.1, 10_080), default=60.0, help="Of sending.")
@click.option(
    "--devices",
    type=click.IntRange(100, 1_000_000),
    default=20_000,
    help="Of each broadcast; there are two cohorts.",
)
@click.option(
    "--every", "every_s", type=click.FloatRange(0.5, 3600), default=10.0, help="Seconds between broadcasts."
)
@click.option(
    "--transactional-rate",
    type=click.FloatRange(0.01, 10_000),
    default=5.0,
    help="Transactional calls a second.",
)
@click.option(
    "--faults",
    "share",
    type=click.FloatRange(0, 0.5),
    default=0.02,
    help="Share of the requests that meet a fault.",
)
@click.option("--latency-ms", type=click.FloatRange(0, 60_000), default=80.0, help="Of the mock providers.")
@click.option(
    "--broker", type=click.Choice(["redis", "rabbitmq"]), default="redis", help="Started privately."
)
@click.option(
    "--sample", "sample_s", type=click.FloatRange(1, 3600), default=60.0, help="Seconds between looks."
)
@click.option(
    "--drain", "drain_s", type=click.FloatRange(1, 86_400), default=600.0, help="Seconds for the last sends."
)
@click.option(
    "--rest",
    "rest_s",
    type=click.FloatRange(0, 3600),
    default=15.0,
    help="Idle seconds before a look at rest.",
)
@json_option
def soak(
    minutes: float,
    devices: int,
    every_s: float,
    transactional_rate: float,
    share: float,
    latency_ms: float,
    broker: str,
    sample_s: float,
    drain_s: float,
    rest_s: float,
    as_json: bool,
) -> None:
    """Send without pause to providers that fail in every way they know, and look for leaks.

    Private servers, mocks and workers. Broadcasts of both guarantees in turn and transactional sends; every minute a look at memory,
    threads, greenlets, files, sockets, connections, leases, keys, rows and messages. At the end the ledger is compared with what the
    providers counted, token by token, and each series is judged: flat or growing. Ctrl-C ends the sending early.
    """
    out = console(stderr=as_json)
    plan = bench.Plan(
        minutes=minutes,
        devices=devices,
        every_s=every_s,
        transactional_rate=transactional_rate,
        share=share,
        latency_ms=latency_ms,
        broker=broker,
        sample_s=sample_s,
        drain_s=drain_s,
        rest_s=rest_s,
    )
    with _Picture(out, 60 * minutes) as picture:
        report = bench.run(plan, picture.say, picture.show)
    if as_json:
        emit_json(report)
    else:
        show(out, report)
    if report["problems"]:
        raise bench.SoakFailed("; ".join(report["problems"]))


class _Picture:
    """A bar on a terminal, a line a minute elsewhere."""

    def __init__(self, out: Console, whole_s: float) -> None:
        self._out = out
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=out,
            disable=not out.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=whole_s, state="")
        self._next_line = 0.0

    def __enter__(self) -> _Picture:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        self._out.print(f"[dim]·[/dim] {text}")

    def show(self, now: bench.Moment) -> None:
        state = f"{now.accepted:,} accepted, {now.open_sends} sends open, {now.looks} looks"
        self._bar.update(
            self._task,
            description=now.phase,
            completed=now.done_s if now.phase == "sending" else now.whole_s,
            state=state,
        )
        if not self._out.is_terminal and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_S
            self._out.print(f"{now.phase} {now.done_s:,.0f} s: {state}")


def show(out: Console, report: dict[str, Any]) -> None:
    """The report for people."""
    calls = report["calls"]
    out.print(
        f"\n[bold]{report['recipients']:,} recipients in {report['seconds'] / 60:,.1f} minutes[/bold], "
        f"{calls['broadcasts']:,} broadcasts and {calls['transactional']:,} transactional sends; "
        f"{report['cpu_share']:.0%} of this machine"
    )
    for guarantee, side in report["agreement"].items():
        outcomes = ", ".join(f"{name} {count:,}" for name, count in side["outcomes"].items() if count)
        out.print(
            f"  {guarantee}: {outcomes}; missing {side['missing']:,}, repeated {side['repeated']:,}, doubled {side['doubled']:,}"
        )
    table = Table("series", "verdict", "first", "last", "per hour", box=None, pad_edge=False)
    for name, line in report["series"].items():
        if line["verdict"] != "flat":
            table.add_row(
                name,
                line["verdict"],
                f"{line['first']:,.6g}",
                f"{line['last']:,.6g}",
                f"{line['per_hour']:+,.4g}",
            )
    flat = sum(line["verdict"] == "flat" for line in report["series"].values())
    out.print(
        f"  {flat} of {len(report['series'])} series are flat" + ("; the others:" if table.rows else "")
    )
    if table.rows:
        out.print(table)
