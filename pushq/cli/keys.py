"""``pushq keys``: who may come in through the HTTP API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
from rich.markup import escape
from rich.table import Table

from pushq.access import keys as store
from pushq.access.local import local
from pushq.access.principal import SCOPES
from pushq.cli.output import emit_json, json_option, table_console
from pushq.cli.sends import database

_SCOPES_EPILOG = "Scopes:\n" + "\n".join(f"  {scope:<15}{meaning}" for scope, meaning in SCOPES.items())


def shown_time(value: datetime | None) -> str:
    return "-" if value is None else f"{value:%Y-%m-%d %H:%M}"


def shown_apps(apps: frozenset[str] | None) -> str:
    return "all" if apps is None else ", ".join(sorted(apps))


@click.group()
def keys() -> None:
    """Create, list and revoke the API keys of `pushq web`."""


@keys.command(
    epilog=f"""\b
Examples:
  pushq keys create shop-backend --scope send --app shop
  pushq keys create reports --scope sends:read --expires-days 90 --json

\b
{_SCOPES_EPILOG}"""
)
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(list(SCOPES)),
    help="What it lets through. May be repeated.",
)
@click.option("--app", "apps", multiple=True, help="Only this app. May be repeated. Default: all apps.")
@click.option(
    "--rate",
    type=click.IntRange(1, store.MOST_RATE),
    help="Requests a second. Default: PUSHQ_WEB_KEY_RATE.",
)
@click.option("--expires-days", type=click.IntRange(1, 3650), help="Default: until it is revoked.")
@json_option
def create(
    name: str,
    scopes: tuple[str, ...],
    apps: tuple[str, ...],
    rate: int | None,
    expires_days: int | None,
    as_json: bool,
) -> None:
    """Create a key for NAME, such as the service that will hold it, and print it: once, it is not stored."""
    expires_at = None if expires_days is None else datetime.now(UTC) + timedelta(days=expires_days)
    with database() as opened:
        made, key = store.issue(
            opened, local(), name=name, scopes=scopes, apps=apps, rate=rate, expires_at=expires_at
        )
    if as_json:
        emit_json({"key": key, **_document(made)})
        return
    click.echo(f"Key {made.id} for {name}. Keep it now: it is shown this once.", err=True)
    click.echo(key)


def _document(key: store.ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "apps": None if key.apps is None else sorted(key.apps),
        "rate": key.rate,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
        "revoked_at": key.revoked_at,
    }


@keys.command(name="list", epilog="Example: pushq keys list --all")
@click.option("--all", "revoked", is_flag=True, help="Also those that are revoked or over.")
@json_option
def list_(revoked: bool, as_json: bool) -> None:
    """List the keys, newest first; their secrets are stored nowhere."""
    with database() as opened:
        found = store.list_keys(opened, revoked=revoked)
    if as_json:
        emit_json({"keys": [_document(key) for key in found]})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("id", "name", "scopes", "apps", "created", "last used", "ends"):
        table.add_column(column, no_wrap=column in ("id", "created", "last used", "ends"))
    for key in found:
        ends = "revoked" if key.revoked_at is not None else shown_time(key.expires_at)
        table.add_row(
            key.id,
            escape(key.name),
            ", ".join(sorted(key.scopes)),
            shown_apps(key.apps),
            shown_time(key.created_at),
            shown_time(key.last_used_at),
            ends,
        )
    table_console().print(table if found else "No keys. Create one: pushq keys create --help")


@keys.command(epilog="Example: pushq keys revoke 3f1c9a0b7d5e2468   (ids: pushq keys list)")
@click.argument("key_id", metavar="ID")
@json_option
def revoke(key_id: str, as_json: bool) -> None:
    """Let the key with this ID in no more; within seconds, and for good."""
    with database() as opened:
        changed = store.revoke(opened, local(), key_id)
    if as_json:
        emit_json({"id": key_id, "revoked": True, "changed": changed})
    else:
        click.echo(f"{key_id} is revoked{'' if changed else ' already'}")
