"""``pushq audit``: who did what."""

from __future__ import annotations

from datetime import UTC, datetime

import click
import orjson
from rich.markup import escape
from rich.table import Table

from pushq.access import audit as store
from pushq.cli.output import emit_json, json_option, table_console
from pushq.cli.sends import database


@click.command(
    epilog="""\b
Examples:
  pushq audit --limit 20
  pushq audit --action send.pause --since 2030-01-31
  pushq audit --object 0d9c3f0e-6f0d-4d3e-8c3a-5a8a6f4a1b2c --json

\b
The next page: --before with the last id of this one."""
)
@click.option("--limit", type=click.IntRange(1, store.MOST_ROWS), default=50, show_default=True)
@click.option("--before", type=int, metavar="ID", help="Only rows older than the one with this id.")
@click.option("--actor", help="Name or id of a key or a user.")
@click.option("--action", help="Such as send.pause; send finds all that begins with it.")
@click.option("--app", help="Only what was done to this app.")
@click.option("--object", "object_id", metavar="ID", help="Id of a send or a key, name of a user or segment.")
@click.option("--since", type=click.DateTime(), help="UTC.")
@json_option
def audit(
    limit: int,
    before: int | None,
    actor: str | None,
    action: str | None,
    app: str | None,
    object_id: str | None,
    since: datetime | None,
    as_json: bool,
) -> None:
    """Who sent, held, ended, exported or changed what, newest first."""
    with database() as opened:
        rows = store.read(
            opened,
            limit=limit,
            before=before,
            actor=actor,
            action=action,
            app=app,
            object_id=object_id,
            since=None if since is None else since.replace(tzinfo=UTC),
        )
    if as_json:
        emit_json({"audit": list(rows)})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("id", "at (UTC)", "who", "from", "action", "app", "object", "detail"):
        table.add_column(column, no_wrap=column in ("id", "at (UTC)", "action", "object"))
    for row in rows:
        who = f"{row.actor} ({row.actor_kind})"
        detail = orjson.dumps(row.detail).decode() if row.detail else ""
        table.add_row(
            str(row.id),
            f"{row.at:%Y-%m-%d %H:%M:%S}",
            *(escape(text or "") for text in (who, row.remote, row.action, row.app, row.object_id, detail)),
        )
    table_console().print(table if rows else "Nothing is on record for this.")
