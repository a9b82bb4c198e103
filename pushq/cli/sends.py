"""``pushq sends``, ``show``, ``pause`` and ``resume``."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.table import Table

from pushq.cli.output import console, emit_json, json_option, plain
from pushq.database import Database
from pushq.ledger import progress, sends
from pushq.ledger.progress import Progress
from pushq.settings import load


@contextmanager
def database() -> Iterator[Database]:
    opened = Database(load().need_database(), pool_size=2, application_name="pushq-cli")
    try:
        yield opened
    finally:
        opened.close()


def as_document(state: Progress) -> dict[str, Any]:
    """Progress as one JSON object: totals beside the platforms."""
    document: dict[str, Any] = plain(state)
    totals = {name: state.total(name) for name in ("devices", *progress.COUNTS, "pending")}
    return {"send_id": document.pop("id"), **totals, **document}


@click.command(name="sends", epilog="Example: pushq sends --limit 5")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@json_option
def sends_(limit: int, as_json: bool) -> None:
    """List the newest sends."""
    with database() as opened:
        rows = progress.recent(opened, limit)
    if as_json:
        emit_json({"sends": rows})
        return
    table = Table(box=None, pad_edge=False)
    for name in ("send", "called", "app", "kind", "state", "title"):
        # The id is there to be copied: never cut.
        table.add_column(name, no_wrap=name != "title", min_width=36 if name == "send" else None)
    for row in rows:
        called = row["called_at"].strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(
            str(row["id"]), called, row["app"], row["kind"], row["state"], row["error"] or row["title"] or ""
        )
    console().print(table if rows else "No sends yet. Try: pushq send --help")


@click.command(epilog="Example: pushq show 0d9c3f0e-6f0d-4d3e-8c3a-5a8a6f4a1b2c")
@click.argument("send_id", type=click.UUID)
@json_option
def show(send_id: uuid.UUID, as_json: bool) -> None:
    """Where one send stands: every platform, every outcome."""
    from pushq.cli.progress import picture  # noqa: PLC0415

    with database() as opened:
        state = progress.progress(opened, send_id)
        reasons = progress.reasons(opened, send_id)
    if as_json:
        emit_json({**as_document(state), "reasons": reasons})
        return
    out = console()
    out.print(picture(state))
    for row in reasons:
        out.print(f"  {row['platform']}  {row['outcome']:<10} {row['reason']:<24} {row['recipients']:>10,}")
    if state.error:
        out.print(f"[bold]{state.error}[/bold]")


@click.command(epilog="Example: pushq pause SEND_ID")
@click.argument("send_id", type=click.UUID)
@json_option
def pause(send_id: uuid.UUID, as_json: bool) -> None:
    """Hold a running send: what is in flight is finished, nothing new is begun."""
    _control(send_id, as_json, "paused", "is not running")


@click.command(epilog="Example: pushq resume SEND_ID")
@click.argument("send_id", type=click.UUID)
@json_option
def resume(send_id: uuid.UUID, as_json: bool) -> None:
    """Let a held send go on, after its cause has been mended."""
    _control(send_id, as_json, "resumed", "is not paused")


def _control(send_id: uuid.UUID, as_json: bool, done: str, refused: str) -> None:
    act = sends.pause if done == "paused" else sends.resume
    with database() as opened:
        with opened.begin() as connection:
            sends.load(connection, send_id)
            changed = act(connection, send_id)
        state = progress.progress(opened, send_id)
    if as_json:
        emit_json({"send_id": str(send_id), "changed": changed, "state": state.state})
    elif changed:
        click.echo(f"{send_id} {done}")
    else:
        raise click.ClickException(f"{send_id} {refused}: it is {state.state}")
