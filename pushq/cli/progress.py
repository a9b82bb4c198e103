"""The picture of a running send: one bar per platform, with counts, rate and time left."""

from __future__ import annotations

import math
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pushq.database import Database
from pushq.ledger.pace import POLL_S, Speed, duration
from pushq.ledger.progress import COUNTS, Progress, progress
from pushq.ledger.sends import UnknownSend

_COLOURS = {
    "accepted": "green",
    "dead": "red",
    "rejected": "red",
    "exhausted": "red",
    "expired": "yellow",
    "suppressed": "yellow",
    "cancelled": "yellow",
    "unknown": "magenta",
}
_WIDTH = 26


def bar(counts: dict[str, int] | None, width: int = _WIDTH) -> Text:
    """Outcomes as lengths of one bar: what is missing at its end is still pending."""
    text = Text()
    devices = counts["devices"] if counts else 0
    if not counts or not devices:
        return text.append("·" * width, style="dim")
    drawn = 0
    seen = 0
    for name in COUNTS:
        seen += counts[name]
        upto = seen * width // devices
        text.append("█" * (upto - drawn), style=_COLOURS[name])
        drawn = upto
    return text.append("·" * (width - drawn), style="dim")


def picture(state: Progress, rate: float | None = None) -> Table:
    """A table for one send.

    Args:
        rate: recipients settled a second at present; None for the mean since the call.
    """
    table = Table(
        title=f"send {state.id}  {state.kind}  {state.state}", title_justify="left", box=None, pad_edge=False
    )
    for name in ("platform", "", "devices", "accepted", "dead", "other", "pending"):
        table.add_column(name, justify="left" if name in ("platform", "") else "right", no_wrap=True)
    for platform, counts in state.platforms.items():
        other = sum(counts[name] for name in COUNTS if name not in ("accepted", "dead"))
        table.add_row(
            platform,
            bar(dict(counts)),
            *(f"{counts[name]:,}" for name in ("devices", "accepted", "dead")),
            f"{other:,}",
            f"{counts['pending']:,}",
        )
    speed = rate
    if speed is None or state.finished:
        speed = state.settled / state.seconds if state.seconds > 0 else 0.0
    eta = ""
    if state.state == "sending" and speed > 0:
        eta = f", about {duration(state.total('pending') / speed)} left"
    table.caption = f"{state.settled:,} settled in {state.seconds:,.1f} s, {speed:,.0f} a second{eta}"
    table.caption_justify = "left"
    return table


@contextmanager
def watching(send_id: uuid.UUID) -> Iterator[None]:
    """Ctrl-C ends only the watching; says so."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\nno longer watched; the send goes on: pushq show {send_id}", err=True)
        sys.exit(130)


def steps(database: Database, send_id: uuid.UUID) -> Iterator[Progress]:
    """Where the send stands, whenever that has changed, until it has ended."""
    last: Progress | None = None
    while last is None or not last.finished:
        state = progress(database, send_id)
        if last is None or replace(state, seconds=last.seconds) != last:
            yield state
            last = state
        if not state.finished:
            time.sleep(POLL_S)


def follow(
    database: Database,
    send_id: uuid.UUID,
    console: Console,
    *,
    timeout_s: float = math.inf,
    alive: Callable[[], None] | None = None,
    until_held: bool = True,
) -> Progress | None:
    """Draw the send until it is finished; returns where it stands then, or None when it has not even begun.

    Args:
        alive: called at every look; raises when waiting has become pointless.
        until_held: whether a paused send ends it as well.
    """
    deadline = time.monotonic() + timeout_s
    state: Progress | None = None
    speed = Speed()
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while time.monotonic() < deadline:
            if alive is not None:
                alive()
            try:
                state = progress(database, send_id)
            except UnknownSend:
                state = None  # still on its way to the broadcast worker
            stopped = state is not None and (state.finished or (until_held and state.state == "paused"))
            if state is not None and (stopped or console.is_terminal):
                live.update(picture(state, speed.rate(time.monotonic(), state.settled)), refresh=True)
            if stopped:
                break
            time.sleep(POLL_S)
    if not console.is_terminal:
        console.print()  # rich ends a live picture with a new line on terminals only
    return state
