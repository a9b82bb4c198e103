"""``pushq apns``: broadcast channels, and the credentials that end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click
from rich.table import Table

from pushq.cli.output import console, emit_json, json_option, table_console
from pushq.errors import InvalidRequest
from pushq.ledger.sends import resolve_app
from pushq.providers import expiry
from pushq.providers.apns.channels import Channel, Channels
from pushq.providers.apns.credentials import load_certificate, provider_tokens
from pushq.providers.proxy import proxy_of
from pushq.redis_client import open_redis
from pushq.settings import load

app_option = click.option("--app", help="The app; not needed where only one is configured.")
environment_option = click.option(
    "--environment",
    type=click.Choice(("production", "sandbox")),
    default="production",
    show_default=True,
    help="A channel belongs to one of them.",
)


@click.group()
def apns() -> None:
    """Broadcast channels of APNs, and when certificates end."""


@apns.command(name="credentials", epilog="Example: pushq apns credentials --json")
@json_option
def credentials_(as_json: bool) -> None:
    """What each app is known by at its providers, and when that ends. Exit code 1 when something has ended or cannot be read."""
    now = datetime.now(UTC)
    found = [(each, each.state(now)) for each in expiry.credentials(load().need_apps())]
    if as_json:
        emit_json({"credentials": [{**vars(each), "state": state} for each, state in found]})
    else:
        table = Table("app", "platform", "kind", "setting", "ends", "state")
        for each, state in found:
            ends = "never by itself" if each.expires_at is None else f"{each.expires_at:%Y-%m-%d %H:%M} UTC"
            table.add_row(each.app, each.platform, each.kind, each.setting, ends, each.fault or state)
        table_console().print(table)
    if any(state in ("expired", "unusable") for _, state in found):
        sys.exit(1)


@apns.group()
def channels() -> None:
    """Broadcast channels: one message updates a Live Activity on every phone that listens to the channel (iOS 18)."""


@contextmanager
def _channels(app: str | None, environment: str) -> Iterator[Channels]:
    settings = load()
    apps = settings.need_apps()
    name = resolve_app(app, apps)
    section = apps[name].apns
    if section is None:
        raise InvalidRequest("app", repr(name), "an app with a table [apps.NAME.apns] in the configuration")
    redis = open_redis(settings.need_redis())
    try:
        # The fleet's token: Apple counts how often a team makes new ones.
        tokens = provider_tokens(section, name, redis, time.time).get(environment)
        with Channels(
            section,
            environment,
            authorization=None if tokens is None else tokens.authorization,
            certificate=load_certificate(section, name),
            proxy=proxy_of(settings),
        ) as opened:
            yield opened
    finally:
        redis.close()


@channels.command(
    epilog="""\b
Examples:
  pushq apns channels create --app shop --store
  pushq send --channel ID --notification goal.json"""
)
@app_option
@environment_option
@click.option(
    "--store/--no-store",
    default=False,
    show_default=True,
    help="Keep the newest message for phones that are offline (for at most 8 hours); without, Apple allows more messages.",
)
@json_option
def create(app: str | None, environment: str, store: bool, as_json: bool) -> None:
    """Make a channel and print its id. The policy cannot be changed later; an app has at most 10,000 channels."""
    with _channels(app, environment) as opened:
        channel = opened.create(stores=store)
    if as_json:
        emit_json({**_described(channel), "environment": environment})
    else:
        console().print(channel.id)


@channels.command(epilog="Example: pushq apns channels show dHN0LXNyY2gtY2hubA== --app shop")
@click.argument("channel_id")
@app_option
@environment_option
@json_option
def show(channel_id: str, app: str | None, environment: str, as_json: bool) -> None:
    """What a channel does with messages for phones that are offline."""
    with _channels(app, environment) as opened:
        channel = opened.read(channel_id)
    if as_json:
        emit_json({**_described(channel), "environment": environment})
    else:
        console().print(
            "keeps the newest message" if channel.stores else "keeps no message: send with a ttl of 0"
        )


@channels.command(epilog="Example: pushq apns channels delete dHN0LXNyY2gtY2hubA== --app shop --yes")
@click.argument("channel_id")
@app_option
@environment_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def delete(channel_id: str, app: str | None, environment: str, yes: bool, as_json: bool) -> None:
    """Delete a channel for good: its id never comes back, and phones that listen to it hear nothing more."""
    if not yes:
        click.confirm("Delete the channel for good?", abort=True, err=True)
    with _channels(app, environment) as opened:
        opened.delete(channel_id)
    if as_json:
        emit_json({"deleted": channel_id, "environment": environment})
    else:
        console().print("deleted")


@channels.command(name="list", epilog="Example: pushq apns channels list --app shop --environment sandbox")
@app_option
@environment_option
@json_option
def list_(app: str | None, environment: str, as_json: bool) -> None:
    """The ids of all channels, one a line."""
    with _channels(app, environment) as opened:
        found = opened.list()
    if as_json:
        emit_json({"channels": found, "environment": environment})
    else:
        for each in found:
            click.echo(each)


def _described(channel: Channel) -> dict[str, object]:
    return {"channel": channel.id, "stores": channel.stores}
