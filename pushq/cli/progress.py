"""The picture of a running send: one bar per platform, with counts, rate and time left."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pushq.database import Database
from pushq.ledger.progress import COUNTS, Progress, progress
from pushq.ledger.sends import UnknownSend

POLL_S = 0.25
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


def picture(state: Progress) -> Table:
    """A table for one send."""
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
    settled = sum(state.total(name) for name in COUNTS)
    rate = settled / state.seconds if state.seconds > 0 else 0.0
    left = state.total("pending") / rate if rate else 0.0
    eta = f", about {left:,.0f} s left" if not state.finished and settled and state.planned_at else ""
    table.caption = f"{settled:,} settled in {state.seconds:,.1f} s, {rate:,.0f} a second{eta}"
    table.caption_justify = "left"
    return table


def follow(
    database: Database,
    send_id: uuid.UUID,
    console: Console,
    *,
    timeout_s: float,
    alive: Callable[[], None] | None = None,
) -> Progress | None:
    """Draw the send until it is finished or held; returns where it stands then, or None when it has not even begun.

    Args:
        alive: called at every look; raises when waiting has become pointless.
    """
    deadline = time.monotonic() + timeout_s
    state: Progress | None = None
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while time.monotonic() < deadline:
            if alive is not None:
                alive()
            try:
                state = progress(database, send_id)
            except UnknownSend:
                state = None  # still on its way to the broadcast worker
            stopped = state is not None and (state.finished or state.state == "paused")
            if state is not None and (stopped or console.is_terminal):
                live.update(picture(state), refresh=True)
            if stopped:
                break
            time.sleep(POLL_S)
    if not console.is_terminal:
        console.print()  # rich ends a live picture with a new line on terminals only
    return state
