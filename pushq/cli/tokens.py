"""``pushq tokens``: register, import and look at device tokens."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import orjson
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from pushq.cli.output import console, emit_json, json_option, table_console
from pushq.database import Database
from pushq.errors import InvalidRequest
from pushq.platforms import PLATFORMS
from pushq.redis_client import open_redis
from pushq.settings import load
from pushq.tokens import importing, lookup, registration, statistics, upkeep
from pushq.tokens.cache import TokenCache
from pushq.tokens.device import ENVIRONMENTS, parse_device
from pushq.tokens.partitions import PARTITIONS

#: Width of a full bar in `pushq tokens stats`, in characters.
BAR = 20


@contextmanager
def services(pool_size: int = 2) -> Iterator[tuple[Database, TokenCache | None]]:
    """The database, and the cache if Redis is configured; says at the end what the cache was not told."""
    settings = load()
    database = Database(settings.need_database(), pool_size=pool_size, application_name="pushq-cli")
    client = open_redis(settings.redis_url) if settings.redis_url is not None else None
    cache = (
        TokenCache(client, database, timedelta(days=settings.token_ttl_days)) if client is not None else None
    )
    try:
        yield database, cache
        if cache is not None and cache.behind:
            click.echo(
                "warning: Redis could not be reached, so entries of the cache may be out of date."
                " When it is back, run: pushq cache clear",
                err=True,
            )
    finally:
        if client is not None:
            client.close()
        database.close()


@click.group()
def tokens() -> None:
    """Register, import and look at device tokens."""


app_option = click.option("--app", required=True, help="The app that the token belongs to.")
platform_option = click.option("--platform", required=True, type=click.Choice(PLATFORMS))
environment_option = click.option(
    "--environment",
    type=click.Choice(ENVIRONMENTS),
    default="production",
    show_default=True,
    help="APNs only.",
)


@tokens.command(
    epilog="Example: pushq tokens register --user 42 --app shop --platform fcm --token TOKEN --language de --tag vip"
)
@click.option("--user", "user_id", required=True, type=int, help="The user's id.")
@app_option
@platform_option
@click.option("--token", required=True, help="The device token; - reads it from standard input.")
@environment_option
@click.option("--language", help="Such as de or pt-BR.")
@click.option("--country", help="Two letters.")
@click.option("--timezone", help="Such as Europe/Berlin.")
@click.option("--app-version", help="Such as 4.12.0.")
@click.option("--tag", "tags", multiple=True, help="May be repeated; replaces the stored tags.")
@click.option("--attributes", help='A JSON object such as {"plan": "pro"}; replaces the stored attributes.')
@json_option
def register(tags: tuple[str, ...], attributes: str | None, as_json: bool, **fields: Any) -> None:
    """Register one device; safe to repeat. A token that another user had moves to this one."""
    fields["token"] = _token(fields["token"])
    if tags:
        fields["tags"] = list(tags)
    if attributes is not None:
        try:
            fields["attributes"] = orjson.loads(attributes)
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(
                "attributes", f"text that is no JSON ({error.msg})", "a JSON object"
            ) from None
    device = parse_device(fields, now=datetime.now(UTC))
    with services() as (database, cache):
        done = registration.register(database, device, cache=cache)
    if as_json:
        emit_json(done)
        return
    click.echo(f"device {done.device_id} {'registered' if done.created else 'registered again'}")
    for user_id in done.moved_from:
        click.echo(f"the token was user {user_id}'s until now")


@tokens.command(epilog="Example: pushq tokens unregister --app shop --platform fcm --token TOKEN")
@app_option
@platform_option
@click.option("--token", required=True, help="The device token; - reads it from standard input.")
@environment_option
@click.option("--user", "user_id", type=int, help="Only if the token is this user's.")
@json_option
def unregister(
    app: str, platform: str, token: str, environment: str, user_id: int | None, as_json: bool
) -> None:
    """Take one token out of use; safe to repeat."""
    with services() as (database, cache):
        changed = registration.unregister(
            database,
            app=app,
            platform=platform,
            token=_token(token),
            environment=environment,
            user_id=user_id,
            cache=cache,
        )
    if as_json:
        emit_json({"unregistered": changed})
    else:
        click.echo("unregistered" if changed else "the token was not in use")


def _token(value: str) -> str:
    return sys.stdin.readline().strip() if value == "-" else value


@tokens.command(
    name="import",
    epilog="""\b
Examples:
  pushq tokens import devices.csv
  pushq tokens import export.jsonl.gz --app shop --rejects wrong.csv
  pushq tokens import ten-million.csv --vacuum
  zcat devices.csv.gz | pushq tokens import - --json

\b
Columns: user_id, app, platform, token; may be there: environment, language, country,
timezone, app_version, tags (a|b, or a JSON list), attributes (a JSON object),
last_seen, registered_at. JSON lines have the same fields.""",
)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--format",
    "format_",
    type=click.Choice(importing.FORMATS),
    help="Default: by the file's name; CSV for -.",
)
@click.option("--app", help="For records that name no app.")
@click.option("--rejects", type=click.Path(path_type=Path, dir_okay=False), help="Default: FILE.rejects.csv")
@click.option(
    "--strict",
    is_flag=True,
    help="Exit with 1 if a record was rejected; the others are imported all the same.",
)
@click.option(
    "--vacuum",
    is_flag=True,
    help="Then VACUUM (ANALYZE) the table, for a broadcast that follows at once; takes its owner.",
)
@json_option
def import_(
    file: Path,
    format_: str | None,
    app: str | None,
    rejects: Path | None,
    strict: bool,
    vacuum: bool,
    as_json: bool,
) -> None:
    """Import devices from a CSV or JSON lines FILE, packed or not; - is standard input.

    A wrong record goes to the rejects file with its line and reason, the good ones go in. Importing a file again is harmless.
    """
    vacuumed = {}
    with services(pool_size=4) as (database, cache):
        if vacuum:
            upkeep.check_vacuum(database)
        with _bar(file) as progress:
            report = importing.import_file(
                database, file, format=format_, app=app, rejects=rejects, cache=cache, progress=progress
            )
        if vacuum:
            started = time.monotonic()
            with _vacuum_bar() as progress:
                upkeep.vacuum(database, progress)
            vacuumed = {"vacuum_seconds": round(time.monotonic() - started, 3)}
    if as_json:
        emit_json(report.as_json() | vacuumed)
    else:
        _print_report(report)
        if vacuumed:
            console().print(f"table vacuumed in {vacuumed['vacuum_seconds']:.1f} s")
    if strict and report.rejected:
        sys.exit(1)


@contextmanager
def _bar(file: Path) -> Iterator[Callable[[int], None]]:
    out = console(stderr=True)
    total = file.stat().st_size if file.is_file() else None
    if not out.is_terminal:
        yield lambda _: None
        return
    columns = (
        TextColumn("importing"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("import", total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def _vacuum_bar() -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("vacuuming"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    out = console(stderr=True)
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("vacuum", total=PARTITIONS)
        yield lambda done: bar.update(task, completed=done)


def _print_report(report: importing.ImportReport) -> None:
    out = console()
    out.print(f"{report.records:,} records in {report.seconds:.1f} s ({report.per_second:,}/s)")
    for count, what in (
        (report.inserted, "new devices"),
        (report.updated, "devices updated"),
        (report.superseded, "older than what is stored, left out"),
        (report.repeated, "repeated further down in the file"),
        (report.rejected, "rejected"),
    ):
        if count or what == "new devices":
            out.print(f"  {count:>12,}  {what}")
    if report.moved:
        out.print(f"  {report.moved:,} tokens moved here from other users")
    if report.rejects_file:
        out.print("[bold red]Some records were rejected:[/] line, reason and record are in", end=" ")
        out.print(report.rejects_file, markup=False, soft_wrap=True)


@tokens.command(epilog="Example: pushq tokens stats --json")
@json_option
def stats(as_json: bool) -> None:
    """Count the devices by app, platform, environment and state."""
    with services() as (database, _):
        counts = statistics.stats(database)
    if as_json:
        emit_json({"devices": counts})
        return
    out = table_console()
    if not counts:
        out.print("No devices yet. Import some: pushq tokens import FILE")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("app", "platform", "environment"):
        table.add_column(name)
    for name in ("active", "seen 30 d", "inactive"):
        table.add_column(name, justify="right")
    table.add_column("active, inactive")
    table.add_column("why inactive")
    most = max(count.active + count.inactive for count in counts)
    for count in counts:
        alive, gone = round(BAR * count.active / most), round(BAR * count.inactive / most)
        reasons = sorted(count.by_reason.items(), key=lambda item: -item[1])
        table.add_row(
            count.app, count.platform, count.environment, f"{count.active:,}", f"{count.seen:,}", f"{count.inactive:,}",
            f"[green]{'█' * alive}[/][red]{'░' * gone}[/]", ", ".join(f"{reason} {number:,}" for reason, number in reasons[:4]),
        )  # fmt: skip
    out.print(table)


@tokens.command(epilog="Example: pushq tokens show --user 42")
@click.option("--user", "user_id", required=True, type=click.IntRange(min=1), help="The user's id.")
@json_option
def show(user_id: int, as_json: bool) -> None:
    """Show the devices of one user; of a token only a short hash."""
    with services() as (database, _):
        devices = lookup.devices_of(database, user_id)
    if as_json:
        emit_json({"user_id": user_id, "devices": devices})
        return
    out = table_console()
    if not devices:
        out.print(f"User {user_id} has no devices.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (
        "device",
        "app",
        "platform",
        "environment",
        "token",
        "state",
        "registered",
        "last seen",
        "language",
        "version",
        "tags",
    ):
        table.add_column(name)
    for device in devices:
        state = "active" if device.is_active else device.deactivation_reason or "inactive"
        table.add_row(
            str(device.id), device.app, device.platform, device.environment, device.token, state,
            f"{device.registered_at:%Y-%m-%d %H:%M}", f"{device.last_seen:%Y-%m-%d}",
            device.language or "", device.app_version or "", ", ".join(device.tags),
        )  # fmt: skip
    out.print(table)
