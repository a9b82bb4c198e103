"""``pushq export``: one row for each recipient of a send."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pushq import control
from pushq.cli.output import console, emit_json, json_option
from pushq.cli.sends import database
from pushq.ledger.export import FORMATS, choose_format
from pushq.ledger.recipients import OUTCOMES


@click.command(
    epilog="""\b
Examples:
  pushq export 0d9c3f0e-6f0d-4d3e-8c3a-5a8a6f4a1b2c --output sale.parquet
  pushq export 0d9c3f0e-6f0d-4d3e-8c3a-5a8a6f4a1b2c --format jsonl --outcome exhausted | head

\b
Columns: send_id, batch_no, position, user_id, device_id, platform, outcome, reason,
status, attempt, time."""
)
@click.argument("send_id", type=click.UUID)
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(FORMATS)),
    help="Default: by the file's name; csv without a file.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Default: standard output. The file appears when it is complete.",
)
@click.option(
    "--outcome", "outcomes", multiple=True, type=click.Choice(OUTCOMES), help="Only these. May be repeated."
)
@json_option
def export(
    send_id: uuid.UUID, format_: str | None, output: Path | None, outcomes: tuple[str, ...], as_json: bool
) -> None:
    """Write one row for each recipient of a send: outcome, reason, tries, time."""
    if as_json and output is None:
        raise click.UsageError("With --json the rows need a file: add --output FILE.")
    chosen = choose_format(format_, output)
    with database() as opened:
        state = control.progress(send_id, database=opened)
        expected = sum(state.total(name) for name in set(outcomes) or {"devices"})
        with _bar(expected) as seen:
            written = control.export(
                send_id, output, format=chosen, outcomes=outcomes, on_rows=seen, database=opened
            )
    if as_json:
        emit_json({"send_id": send_id, "rows": written, "format": chosen, "output": str(output)})
    elif output is not None:
        click.echo(f"{written:,} rows in {output}")


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    out = console(stderr=True)
    if not out.is_terminal:
        yield lambda _: None
        return
    columns = TextColumn("exporting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("export", total=total)
        yield lambda done: bar.update(task, completed=done)
