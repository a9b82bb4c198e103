"""``pushq queues``: what waits in the broker, and who takes it."""

from __future__ import annotations

import click
from rich.markup import escape
from rich.table import Table

from pushq.cli.output import emit_json, json_option, table_console
from pushq.settings import load


@click.command(epilog="Example: pushq queues --json | jq '.queues[] | select(.ready > 0)'")
@json_option
def queues(as_json: bool) -> None:
    """Messages in each queue, and the workers that announce themselves."""
    from pushq.observe.crew import crew  # noqa: PLC0415
    from pushq.observe.queues import queues_of  # noqa: PLC0415

    settings = load()
    broker = queues_of(settings)
    try:
        found = crew(settings, broker.broker, broker.depths())
    finally:
        broker.close()
    if as_json:
        emit_json(found)
        return
    out = table_console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("queue")
    for name in ("waiting", "with workers", "workers"):
        table.add_column(name, justify="right")
    table.add_column("carries")
    for line in found.queues:
        table.add_row(
            line.name,
            _number(line.ready, "none yet"),
            _number(line.unacked),
            _number(line.workers),
            line.carries,
        )
    out.print(table)
    if found.workers:
        workers = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("worker", "serves", "configuration"):
            workers.add_column(name)
        for worker in found.workers:
            about = worker.fault or ("differs from here" if worker.same is False else "")
            workers.add_row(worker.worker, worker.kind, f"{worker.config} {escape(about)}".rstrip())
        out.print()
        out.print(workers)
    for note in found.notes:
        out.print(note, markup=False, soft_wrap=True)


def _number(count: int | None, missing: str = "?") -> str:
    return missing if count is None else f"{count:,}"
