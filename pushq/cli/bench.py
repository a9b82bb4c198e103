"""``pushq bench``: measure pushq on this machine."""

from __future__ import annotations

import click

from pushq.cli.lazy import LazyGroup

COMMANDS = {
    "wire": ("pushq.cli.bench_wire:wire", "The sender alone, against a server of yours."),
    "broadcast": ("pushq.cli.bench_broadcast:broadcast", "A whole broadcast, everything private."),
    "soak": (
        "pushq.cli.bench_soak:soak",
        "Sends without pause against failing providers: does anything leak?",
    ),
}


@click.group(cls=LazyGroup, table=COMMANDS, epilog="Example: pushq bench broadcast --devices 100000")
def bench() -> None:
    """Measure pushq on this machine."""
