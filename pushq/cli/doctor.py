"""``pushq doctor``: is everything there that a send needs?"""

from __future__ import annotations

import logging
import os
from collections import Counter

import click
from rich.markup import escape

from pushq.cli.output import emit_json, json_option, table_console

_MARKS = {"ok": "[green]ok     [/]", "warning": "[yellow]warning[/]", "failed": "[red]FAILED [/]"}


@click.command(epilog="Example: pushq doctor --json | jq '.findings[] | select(.status == \"failed\")'")
@click.option(
    "--timeout",
    type=click.FloatRange(2, 300),
    default=15.0,
    show_default=True,
    help="Seconds for each check; they run side by side.",
)
@json_option
def doctor(timeout: float, as_json: bool) -> None:
    """Check configuration, database, broker, Redis, workers, clocks, secret files, and every provider of every app.

    Providers are asked to deliver to a device that cannot exist, the way a worker asks: no phone rings. For each failure a line says
    what to do. Ends with 1 if something failed; warnings alone end with 0.
    """
    from pushq.doctor import checks, examine, read  # noqa: PLC0415

    # What goes wrong is in the findings.
    logging.getLogger("pushq").setLevel(logging.CRITICAL)
    settings, findings = read(os.environ)
    findings += examine(checks(settings, timeout), timeout)
    counts = Counter(str(finding.status) for finding in findings)
    if as_json:
        emit_json(
            {
                "ok": not counts["failed"],
                "failed": counts["failed"],
                "warnings": counts["warning"],
                "findings": [finding.__dict__ for finding in findings],
            }
        )
    else:
        out = table_console()
        for finding in findings:
            out.print(
                f"{_MARKS[finding.status]} [bold]{escape(finding.subject)}[/]: {escape(finding.found)}",
                soft_wrap=True,
            )
            if finding.advice:
                out.print(f"        {escape(finding.advice)}", soft_wrap=True)
        out.print(f"{counts['failed']} failed, {counts['warning']} warning(s), {counts['ok']} ok")
    if counts["failed"]:
        raise SystemExit(1)
