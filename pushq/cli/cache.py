"""``pushq cache``: the hot cache of device tokens in Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import click
import redis
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pushq.cli.output import console, emit_json, json_option
from pushq.database import Database
from pushq.errors import ServiceUnavailable
from pushq.platforms import PLATFORMS
from pushq.redis_client import open_redis
from pushq.settings import load
from pushq.tokens import keyspace, warming
from pushq.tokens.cache import TokenCache


@contextmanager
def client() -> Iterator[redis.Redis]:
    opened = open_redis(load().need_redis())
    try:
        yield opened
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise ServiceUnavailable("Redis", "PUSHQ_REDIS_URL", str(error)[:200]) from error
    finally:
        opened.close()


@click.group()
def cache() -> None:
    """Warm, clear and look at the cache of device tokens. It may be lost at any time without a wrong send."""


@cache.command(epilog="Example: pushq cache warm --app shop --platform apns")
@click.option("--app", help="Only users with a device of this app.")
@click.option("--platform", "platforms", type=click.Choice(PLATFORMS), multiple=True, help="Default: all.")
@json_option
def warm(app: str | None, platforms: tuple[str, ...], as_json: bool) -> None:
    """Fill the cache with the devices of users seen within 30 days, before a broadcast."""
    settings = load()
    out = console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.completed:,} devices"), TimeElapsedColumn())
    with (
        client() as opened,
        Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar,
    ):
        opened.ping()
        database = Database(settings.need_database(), pool_size=2, application_name="pushq-cli")
        try:
            task = bar.add_task("warm", total=None)
            report = warming.warm(
                database,
                TokenCache(opened, database, timedelta(days=settings.token_ttl_days)),
                app=app,
                platforms=platforms or PLATFORMS,
                progress=lambda devices: bar.update(task, completed=devices),
            )
        finally:
            database.close()
    if not report.complete:
        raise ServiceUnavailable("Redis", "PUSHQ_REDIS_URL", f"it went away after {report.devices:,} devices")
    if as_json:
        emit_json(report)
    else:
        rate = f" ({report.devices / report.seconds:,.0f} devices/s)" if report.seconds else ""
        click.echo(
            f"{report.entries:,} entries added, {report.devices:,} devices read in {report.seconds:.1f} s{rate}"
        )


@cache.command(epilog="Example: pushq cache clear")
@json_option
def clear(as_json: bool) -> None:
    """Remove every entry. Other keys of the same Redis stay."""
    with client() as opened:
        removed = keyspace.clear(opened)
    if as_json:
        emit_json({"removed": removed})
    else:
        click.echo(f"{removed:,} entries removed")


@cache.command(epilog="Example: pushq cache stats")
@json_option
def stats(as_json: bool) -> None:
    """Count the entries by platform."""
    with client() as opened:
        found = keyspace.stats(opened)
    if as_json:
        emit_json(found)
        return
    if not found.entries:
        click.echo("the cache is empty; fill it: pushq cache warm")
        return
    for platform, entries in found.entries.items():
        click.echo(f"{entries:>12,}  {platform}")
    click.echo(f"{found.sampled_bytes:>12,}  bytes per entry, on average of some")
