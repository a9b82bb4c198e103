"""``pushq db``: the schema."""

from __future__ import annotations

import click

from pushq.cli.output import emit_json, json_option
from pushq.settings import load


@click.group()
def db() -> None:
    """Bring the database to this version's schema."""


@db.command(epilog="Example: pushq db upgrade")
@json_option
def upgrade(as_json: bool) -> None:
    """Migrate up to the newest schema; safe to repeat."""
    from pushq.ledger import schema  # noqa: PLC0415

    url = load().need_database()
    revision = schema.upgrade(url)
    if as_json:
        emit_json({"revision": revision})
    else:
        click.echo(f"{url.redacted()} is at schema {revision}")


@db.command(epilog="Example: pushq db downgrade base --yes")
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def downgrade(revision: str, yes: bool, as_json: bool) -> None:
    """Migrate down to REVISION; `base` removes every table and what is in it."""
    from pushq.ledger import schema  # noqa: PLC0415

    url = load().need_database()
    if not yes:
        click.confirm(f"This removes tables and their rows from {url.redacted()}. Go on?", abort=True)
    reached = schema.downgrade(url, revision)
    if as_json:
        emit_json({"revision": reached})
    else:
        click.echo(f"{url.redacted()} is at schema {reached or 'none'}")


@db.command(epilog="Example: pushq db current")
@json_option
def current(as_json: bool) -> None:
    """Show the schema that the database is at."""
    from pushq.database import Database  # noqa: PLC0415
    from pushq.ledger import schema  # noqa: PLC0415

    database = Database(load().need_database(), pool_size=1)
    try:
        found, newest = schema.current(database), schema.HEAD
    finally:
        database.close()
    if as_json:
        emit_json({"revision": found, "newest": newest})
    else:
        click.echo(
            f"schema {found or 'none'}"
            + ("" if found == newest else f"; newest is {newest}: pushq db upgrade")
        )
