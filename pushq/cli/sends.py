"""``pushq sends`` and ``show``."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.table import Table

from pushq.cli.output import console, emit_json, json_option, plain, table_console
from pushq.database import Database
from pushq.ledger import progress
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
    table_console().print(table if rows else "No sends yet. Try: pushq send --help")


@click.command(
    epilog="""\b
Examples:
  pushq show 0d9c3f0e-6f0d-4d3e-8c3a-5a8a6f4a1b2c
  pushq show 0d9c3f0e-6f0d-4d3e-8c3a-5a8a6f4a1b2c --watch"""
)
@click.argument("send_id", type=click.UUID)
@click.option(
    "--watch", is_flag=True, help="Until the send has ended; Ctrl-C ends the watching, the send goes on."
)
@json_option
def show(send_id: uuid.UUID, watch: bool, as_json: bool) -> None:
    """Where one send stands: every platform, every outcome."""
    from pushq.cli.progress import follow, picture, steps, watching  # noqa: PLC0415

    with database() as opened:
        state = progress.progress(opened, send_id)
        if watch and not as_json:
            with watching(send_id):
                state = follow(opened, send_id, console(), until_held=False) or state
        elif watch:
            with watching(send_id):
                for state in steps(opened, send_id):
                    emit_json(as_document(state))
            return
        reasons = progress.reasons(opened, send_id)
        parked = progress.parked(opened, send_id) if state.parked else []
    if as_json:
        emit_json({**as_document(state), "reasons": reasons, "parked_batches": parked})
        return
    out = console()
    if not watch:
        out.print(picture(state))
    for row in reasons:
        out.print(f"  {row['platform']}  {row['outcome']:<10} {row['reason']:<24} {row['recipients']:>10,}")
    for row in parked:
        what = f"batch {row['batch_no']} is parked after {row['runs']} runs, {row['recipients']:,} recipients"
        out.print(f"  {row['platform']}  {what}: {row['error'] or 'no reason'}", markup=False)
    if state.rate is not None and not state.finished:
        out.print(f"  limited to {state.rate:,} requests a second")
    if state.error:
        out.print(state.error, style="bold", markup=False)
