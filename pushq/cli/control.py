"""``pushq pause``, ``resume``, ``cancel``, ``rate`` and ``replay``: the brake, and what follows it."""

from __future__ import annotations

import sys
import uuid

import click

from pushq import control
from pushq.cli.output import emit_json, json_option
from pushq.cli.sends import database
from pushq.control import Change, Replay
from pushq.ledger.replay import REPLAYABLE
from pushq.platforms import PLATFORMS
from pushq.submission import MAX_RATE

send_argument = click.argument("send_id", type=click.UUID)


@click.command(epilog="Example: pushq pause 0d9c3f0e-6f0d-4d3e-8c3a-5a8a6f4a1b2c")
@send_argument
@json_option
def pause(send_id: uuid.UUID, as_json: bool) -> None:
    """Hold a running send: what is in flight is finished, nothing new is begun."""
    with database() as opened:
        change = control.pause(send_id, database=opened)
    _report(change, as_json, ordered="paused", refused="is not running")


@click.command(epilog="Example: pushq resume 0d9c3f0e-6f0d-4d3e-8c3a-5a8a6f4a1b2c")
@send_argument
@click.option(
    "--trust-rejections",
    is_flag=True,
    help="The tokens whose rejection held this send are dead in truth: take them out of use.",
)
@json_option
def resume(send_id: uuid.UUID, trust_rejections: bool, as_json: bool) -> None:
    """Let a held send go on, after its cause has been mended."""
    with database() as opened:
        change = control.resume(send_id, trust_rejections=trust_rejections, database=opened)
    _report(change, as_json, ordered="resumed", refused="is not paused")


@click.command(epilog="Example: pushq cancel 0d9c3f0e-6f0d-4d3e-8c3a-5a8a6f4a1b2c")
@send_argument
@json_option
def cancel(send_id: uuid.UUID, as_json: bool) -> None:
    """End a send for good: what is in flight is finished, everybody else ends as cancelled."""
    with database() as opened:
        change = control.cancel(send_id, database=opened)
        in_flight = control.progress(send_id, database=opened).in_flight
    _report(change, as_json, ordered="cancelled", refused="has ended before")
    if in_flight and not as_json:
        click.echo(f"{in_flight:,} batches were with a worker and are being ended: pushq show {send_id}")


def _report(change: Change, as_json: bool, *, ordered: str, refused: str) -> None:
    """What became of an order; exit code 1 when the send's state did not allow it."""
    already = not change.changed and change.state == ordered
    if as_json:
        emit_json(change)
    elif change.changed:
        click.echo(f"{change.send_id} {ordered}")
    elif already:
        click.echo(f"{change.send_id} is {ordered} already")
    if change.changed or already:
        return
    if as_json:
        sys.exit(1)
    raise click.ClickException(f"{change.send_id} {refused}: it is {change.state}")


@click.command(
    epilog="""\b
Examples:
  pushq rate 0d9c3f0e-6f0d-4d3e-8c3a-5a8a6f4a1b2c 500
  pushq rate 0d9c3f0e-6f0d-4d3e-8c3a-5a8a6f4a1b2c --unlimited"""
)
@send_argument
@click.argument("rate", type=int, required=False)
@click.option("--unlimited", is_flag=True, help="No limit but the provider's own.")
@json_option
def rate(send_id: uuid.UUID, rate: int | None, unlimited: bool, as_json: bool) -> None:
    """Change the speed of a running send: RATE requests a second, all workers together."""
    if (rate is None) is not unlimited:
        raise click.UsageError("Give either a RATE in requests a second, or --unlimited.")
    if rate is not None and not 1 <= rate <= MAX_RATE:
        raise click.UsageError(
            f"RATE: found {rate}; expected 1 to {MAX_RATE:,}. To send nothing: pushq pause; to have no limit: --unlimited"
        )
    with database() as opened:
        change = control.set_rate(send_id, rate, database=opened)
    if as_json:
        emit_json({"send_id": send_id, "changed": change.changed, "state": change.state, "rate": rate})
        if not change.changed:
            sys.exit(1)
    elif change.changed:
        click.echo(
            f"{send_id} {'has no limit of its own' if rate is None else f'makes {rate:,} requests a second at most'}"
        )
    else:
        raise click.ClickException(f"{send_id} has ended: it is {change.state}")


@click.command(
    epilog="""\b
Examples:
  pushq replay 0d9c3f0e-6f0d-4d3e-8c3a-5a8a6f4a1b2c --outcome exhausted --dry-run
  pushq replay 0d9c3f0e-6f0d-4d3e-8c3a-5a8a6f4a1b2c --outcome rejected --reason BadTopic --yes"""
)
@send_argument
@click.option(
    "--outcome",
    "outcomes",
    multiple=True,
    required=True,
    type=click.Choice(list(REPLAYABLE)),
    help="Who gets it again, by how it ended. May be repeated.",
)
@click.option(
    "--reason", "reasons", multiple=True, help="Only those with this reason in `pushq show`. May be repeated."
)
@click.option("--platform", "platforms", multiple=True, type=click.Choice(PLATFORMS), help="Only these.")
@click.option("--may-duplicate", is_flag=True, help="With --outcome unknown: some of these may get it twice.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def replay(
    send_id: uuid.UUID,
    outcomes: tuple[str, ...],
    reasons: tuple[str, ...],
    platforms: tuple[str, ...],
    may_duplicate: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Send again to recipients of an ended send that were not reached."""
    if as_json and not (yes or dry_run):
        raise click.UsageError("With --json nobody can be asked: add --yes, or --dry-run.")

    def run(dry: bool) -> Replay:
        return control.replay(
            send_id,
            outcomes,
            reasons=reasons,
            platforms=platforms,
            may_duplicate=may_duplicate,
            dry_run=dry,
            database=opened,
        )

    with database() as opened:
        chosen = run(dry=True)
        if not as_json:
            _show(chosen)
        if chosen.recipients and not dry_run:
            if not (yes or _confirmed(chosen)):
                raise click.ClickException("not confirmed; nothing was changed")
            chosen = run(dry=False)
            if not as_json:
                click.echo(f"{send_id} goes on: pushq show {send_id} --watch")
    if as_json:
        emit_json({"dry_run": dry_run, **chosen.__dict__})


def _show(chosen: Replay) -> None:
    for platform, counts in sorted(chosen.platforms.items()):
        for outcome, recipients in sorted(counts.items()):
            click.echo(f"{recipients:>12,}  {platform:<6}{outcome}")
    click.echo(f"{chosen.recipients:>12,}  recipients in {chosen.batches:,} batches")
    if chosen.unplanned:
        click.echo(
            "The send was stopped before all of its audience was planned: that part is not in the ledger and stays unsent."
        )


def _confirmed(chosen: Replay) -> bool:
    try:
        return click.confirm(f"Send again to {chosen.recipients:,} recipients?", err=True)
    except click.Abort:
        return False  # nobody there to ask
