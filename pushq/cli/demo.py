"""``pushq demo``, ``pushq up`` and ``pushq sample-devices``: pushq without a single server installed."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from pushq.cli.output import console, emit_json, json_option
from pushq.errors import PushqError
from pushq.platforms import PLATFORMS, TITLES

if TYPE_CHECKING:
    from pushq.database import Database
    from pushq.demo.stack import Stack
    from pushq.ledger.progress import Progress

APP = "shop"
#: A demo that needs longer than this hangs.
TIMEOUT_S = 900.0
DEAD_LETTER_TIMEOUT_S = 60.0


class DemoFailed(PushqError):
    """The demo did not end as it must; the message says what differs."""


def _each_once(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(platform for platform in PLATFORMS if platform in given)


platforms_option = click.option(
    "--platform",
    "platforms",
    type=click.Choice(PLATFORMS),
    multiple=True,
    default=("apns", "fcm"),
    show_default=True,
    callback=_each_once,
    help="Of the devices; may be repeated.",
)


@click.command(epilog="Example: pushq demo --devices 20000 --dead-ratio 0.05")
@click.option("--devices", type=click.IntRange(1, 10_000_000), default=100_000, show_default=True)
@click.option(
    "--dead-ratio", type=click.FloatRange(0, 1), default=0.03, show_default=True, help="Share of dead tokens."
)
@click.option(
    "--latency-ms",
    type=click.FloatRange(0, 60_000),
    default=80.0,
    show_default=True,
    help="Of the providers.",
)
@click.option(
    "--guarantee",
    type=click.Choice(["at_most_once", "at_least_once"]),
    default="at_most_once",
    show_default=True,
)
@click.option(
    "--broker-url", help="Another broker than the embedded Redis, such as amqp://user:password@localhost//."
)
@click.option(
    "--keep", is_flag=True, help="Leave everything running, with a console to look at it, until Ctrl-C."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8080,
    show_default=True,
    help="Of the console, with --keep; another one where this is taken.",
)
@platforms_option
@json_option
def demo(
    devices: int,
    dead_ratio: float,
    latency_ms: float,
    guarantee: str,
    broker_url: str | None,
    keep: bool,
    port: int,
    platforms: tuple[str, ...],
    as_json: bool,
) -> None:
    """Broadcast to generated devices through real workers, with everything embedded.

    Starts PostgreSQL, Redis, mock providers and workers in a private folder, imports the devices, sends one broadcast, counts at
    the mock what arrived, and removes everything again.

    With --keep it stays, and a console is served on this machine: the link that is printed signs you in, once.
    """
    from pushq.database import Database  # noqa: PLC0415
    from pushq.demo.stack import Stack  # noqa: PLC0415
    from pushq.service_urls import ServiceUrl  # noqa: PLC0415

    if keep:
        _need_web()
    out = console(stderr=as_json)
    with Stack(latency_ms=latency_ms, broker_url=broker_url, platforms=platforms, say=_say(out)) as stack:
        os.environ.update(stack.environment)
        database = Database(ServiceUrl(stack.environment["PUSHQ_DATABASE_URL"]), pool_size=2)
        try:
            report = _broadcast(stack, database, devices, dead_ratio, platforms, guarantee, out)
            if keep:
                _print(out, report, as_json=as_json)
                _keep(stack, database, port, out)
        finally:
            database.close()
        _say(out)("stopping and removing everything")
    if not keep:
        _print(out, report, as_json=as_json)
    if problems := _problems(report):
        raise DemoFailed("; ".join(problems))


def _print(out: Console, report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        emit_json(report)
    else:
        _print_report(out, report)


def _need_web() -> None:
    # Not imported: Celery would be configured with it, before the demo's broker is there.
    for library in ("fastapi", "jinja2", "uvicorn"):
        if find_spec(library) is None:
            raise PushqError(
                f"pushq demo --keep needs {library}, which is not installed. Run: pip install 'pushq[web]'"
            )


def _keep(stack: Stack, database: Database, port: int, out: Console) -> None:
    """Serve a console until Ctrl-C."""
    from pushq.demo.console import add_segments, start  # noqa: PLC0415

    add_segments(database, APP)
    made = start(stack, database, port=port)
    file = stack.folder / "env"
    # Passwords of the private servers are in it.
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
        opened.write(stack.exports())
    out.print("\n[bold]The console is ready. Open this link, once, within 15 minutes:[/bold]\n")
    out.print(f"  {made.link}\n", soft_wrap=True)
    out.print(f"  later: {made.address}   user {made.user}, password {made.password}", soft_wrap=True)
    out.print(f"  for commands, elsewhere: source {file}", soft_wrap=True)
    out.print("  stop and remove everything: Ctrl-C")
    try:
        while True:
            stack.fleet.check_alive()
            time.sleep(0.5)
    except KeyboardInterrupt:
        out.print()


def _say(out: Console) -> Any:
    def say(text: str) -> None:
        out.print(f"[dim]·[/dim] {text}")

    return say


def _broadcast(
    stack: Stack,
    database: Database,
    devices: int,
    dead_ratio: float,
    platforms: Sequence[str],
    guarantee: str,
    out: Console,
) -> dict[str, Any]:
    from pushq import send_broadcast  # noqa: PLC0415
    from pushq.cli.progress import follow  # noqa: PLC0415
    from pushq.demo.commands import pushq_command  # noqa: PLC0415
    from pushq.demo.devices import generate, write_csv  # noqa: PLC0415

    say = _say(out)
    say(f"generating {devices:,} devices")
    path = stack.folder / "devices.csv"
    with path.open("w", encoding="utf-8") as file:
        write_csv(file, generate(devices, dead_ratio, platforms=platforms), app=APP, now=datetime.now(UTC))
    say("importing them: pushq tokens import devices.csv")
    pushq_command("tokens", "import", str(path), "--json", timeout_s=TIMEOUT_S)
    say("warming the token cache: pushq cache warm")
    pushq_command("cache", "warm", "--json", timeout_s=TIMEOUT_S)
    say("send_broadcast.delay(...)")
    result = send_broadcast.delay(
        notification={"title": "Sale", "body": "20% off until midnight", "data": {"campaign": "demo"}},
        audience={"segments": ["all"]},
        app=APP,
        guarantee=guarantee,
    )
    send_id = uuid.UUID(result.id)
    state = follow(database, send_id, out, timeout_s=TIMEOUT_S, alive=stack.fleet.check_alive)
    if state is None or not state.finished:
        where = (
            f"{state.total('pending'):,} recipients pending, {state.error or state.state}"
            if state
            else "never begun"
        )
        raise DemoFailed(
            f"the broadcast was not finished after {TIMEOUT_S:g} s: {where}\n{stack.fleet.log_tail('core')}"
        )
    _await_dead_letters(database, send_id)
    return _report(stack, database, state, devices, dead_ratio, platforms)


def _await_dead_letters(database: Database, send_id: uuid.UUID) -> None:
    from pushq.ledger.progress import waiting_dead_letters  # noqa: PLC0415

    deadline = time.monotonic() + DEAD_LETTER_TIMEOUT_S
    while waiting_dead_letters(database, send_id):
        if time.monotonic() > deadline:
            raise DemoFailed(f"dead letters were not processed within {DEAD_LETTER_TIMEOUT_S:g} s")
        time.sleep(0.1)


def _report(
    stack: Stack,
    database: Database,
    state: Progress,
    devices: int,
    dead_ratio: float,
    platforms: Sequence[str],
) -> dict[str, Any]:
    from pushq.demo.devices import generate  # noqa: PLC0415
    from pushq.ledger.progress import reasons  # noqa: PLC0415

    expected: dict[str, set[str]] = {platform: set() for platform in platforms}
    for device in generate(devices, dead_ratio, platforms=platforms):
        if not device.dead:
            expected[device.platform].add(device.token)
    counted = {platform: stack.mock.accepted(platform) for platform in expected}
    return {
        "send_id": str(state.id),
        "devices": state.total("devices"),
        "accepted": state.total("accepted"),
        "dead": state.total("dead"),
        "rejected": state.total("rejected"),
        "exhausted": state.total("exhausted"),
        "unknown": state.total("unknown"),
        "pending": state.total("pending"),
        "seconds": round(state.seconds, 3),
        "per_second": round(state.total("devices") / state.seconds),
        "provider_accepted": {platform: len(tokens) for platform, tokens in counted.items()},
        "provider_duplicates": sum(sum(tokens.values()) - len(tokens) for tokens in counted.values()),
        "provider_missing": sum(len(expected[p] - counted[p].keys()) for p in expected),
        "tokens_deactivated": sum(row["tokens_deactivated"] for row in reasons(database, state.id)),
    }


def _problems(report: dict[str, Any]) -> list[str]:
    problems = []
    if report["accepted"] + report["dead"] != report["devices"]:
        problems.append(
            f"accepted {report['accepted']} and dead {report['dead']} are not all {report['devices']} devices"
        )
    problems += [
        f"{name} is {report[name]}, not 0"
        for name in ("provider_duplicates", "provider_missing")
        if report[name]
    ]
    if report["tokens_deactivated"] != report["dead"]:
        problems.append(f"{report['tokens_deactivated']} tokens deactivated, but {report['dead']} dead")
    return problems


def _print_report(out: Console, report: dict[str, Any]) -> None:
    counted = report["provider_accepted"]
    out.print(
        f"\n[bold]{report['devices']:,} devices in {report['seconds']:.2f} s: {report['per_second']:,} notifications a second[/bold]"
    )
    out.print(
        f"  accepted {report['accepted']:,}   dead tokens {report['dead']:,}   pending {report['pending']:,}"
    )
    out.print(
        f"  counted by the providers: {', '.join(f'{TITLES[p]} {n:,}' for p, n in counted.items())},"
        f" twice {report['provider_duplicates']:,}, missing {report['provider_missing']:,}"
    )
    out.print(f"  tokens deactivated {report['tokens_deactivated']:,}")


@click.command(epilog="Example: pushq up --env-file .pushq/env   (then, elsewhere: source .pushq/env)")
@click.option(
    "--env-file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(".pushq/env"),
    show_default=True,
    help="Where to write the settings for other shells.",
)
@click.option(
    "--latency-ms",
    type=click.FloatRange(0, 60_000),
    default=80.0,
    show_default=True,
    help="Of the providers.",
)
@click.option("--broker-url", help="Another broker than the embedded Redis.")
def up(env_file: Path, latency_ms: float, broker_url: str | None) -> None:
    """Run PostgreSQL, Redis, mock providers and workers until Ctrl-C; everything is removed then."""
    from pushq.demo.stack import Stack  # noqa: PLC0415

    out = console()
    with Stack(
        latency_ms=latency_ms, broker_url=broker_url, settings={"PUSHQ_EVENTS": "true"}, say=_say(out)
    ) as stack:
        env_file.parent.mkdir(parents=True, exist_ok=True)
        # Passwords of the private servers are in it.
        with os.fdopen(os.open(env_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(stack.exports())
        out.print(
            f"ready. In another shell: [bold]source {env_file}[/bold]   logs: {stack.folder}/*.log   stop: Ctrl-C"
        )
        try:
            while True:
                stack.fleet.check_alive()
                time.sleep(0.5)
        finally:
            env_file.unlink(missing_ok=True)


@click.command(
    name="sample-devices",
    epilog="Example: pushq sample-devices --count 1000 --platform fcm --platform hms > devices.csv",
)
@click.option("--count", type=click.IntRange(1, 100_000_000), default=1000, show_default=True)
@click.option(
    "--dead-ratio", type=click.FloatRange(0, 1), default=0.03, show_default=True, help="Share of dead tokens."
)
@click.option("--app", "app_name", default=APP, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@platforms_option
def sample_devices(
    count: int, dead_ratio: float, app_name: str, seed: int, platforms: tuple[str, ...]
) -> None:
    """Write generated devices as CSV to standard output; a mock provider calls the dead ones dead."""
    from pushq.demo.devices import generate, write_csv  # noqa: PLC0415

    write_csv(
        sys.stdout,
        generate(count, dead_ratio, seed=seed, platforms=platforms),
        app=app_name,
        now=datetime.now(UTC),
    )
