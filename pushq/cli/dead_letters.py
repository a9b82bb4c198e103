"""``pushq dead-letters``: why messages did not arrive, over time."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from datetime import UTC, datetime

import click
from rich.table import Table

from pushq.cli.output import emit_json, json_option, table_console
from pushq.cli.sends import database
from pushq.ledger.dead_letters import SPANS, Filter, history, newest
from pushq.platforms import PLATFORMS
from pushq.providers.meanings import meaning

_BLOCKS = " ▁▂▃▄▅▆▇█"


@click.command(
    name="dead-letters",
    epilog="""\b
Examples:
  pushq dead-letters --span day
  pushq dead-letters --span week --platform apns --reason BadDeviceToken --newest 20""",
)
@click.option(
    "--span", type=click.Choice(list(SPANS)), default="day", show_default=True, help="How far back."
)
@click.option("--app", "app_name", help="Only of this app.")
@click.option("--platform", type=click.Choice(PLATFORMS), help="Only of this one.")
@click.option("--reason", help="Only those with this reason.")
@click.option("--send", "send_id", type=click.UUID, help="Only those of this send.")
@click.option(
    "--newest", "many", type=click.IntRange(0, 1000), default=0, help="List so many, the newest first."
)
@json_option
def dead_letters(
    span: str,
    app_name: str | None,
    platform: str | None,
    reason: str | None,
    send_id: uuid.UUID | None,
    many: int,
    as_json: bool,
) -> None:
    """Recipients that messages did not reach, by reason and over time."""
    only = Filter(None if app_name is None else (app_name,), platform, reason, send_id)
    now = datetime.now(UTC)
    with database() as opened:
        found = history(opened, span, now=now, only=only)
        letters = newest(opened, span, now=now, only=only, limit=many) if many else []
    if as_json:
        emit_json(
            {
                "span": span,
                "step_seconds": found.step.total_seconds(),
                "times": found.times,
                "recipients": found.recipients,
                "reasons": found.reasons,
                "newest": [asdict(letter) for letter in letters],
            }
        )
        return
    out = table_console()
    if not found.reasons:
        out.print(f"No dead letters within the last {span}.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("reason")
    for name in ("recipients", "tokens deactivated"):
        table.add_column(name, justify="right")
    table.add_column("meaning")
    table.add_column("platforms")
    table.add_column(f"last {span}", no_wrap=True)
    most = max(max(each.series) for each in found.reasons)
    for each in found.reasons:
        line = "".join(
            _BLOCKS[-(-count * (len(_BLOCKS) - 1) // most) if count else 0] for count in each.series
        )
        platforms = ", ".join(f"{name} {count:,}" for name, count in sorted(each.platforms.items()))
        table.add_row(
            each.reason,
            f"{each.recipients:,}",
            f"{each.deactivated:,}",
            meaning(each.reason),
            platforms,
            line,
        )
    out.print(table)
    for letter in letters:
        out.print(
            f"{letter.created_at:%Y-%m-%d %H:%M:%S}  {letter.send_id}  {letter.platform:<5} user {letter.user_id}"
            f" device {letter.device_id}  {letter.status or '-'} {letter.reason}",
            markup=False,
        )
