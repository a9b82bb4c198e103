"""``pushq send``: a broadcast or a transactional send from a shell."""

from __future__ import annotations

import sys
import uuid
from typing import Any, Final, TextIO

import click
from click.core import ParameterSource

from pushq.cli.lazy import LazyGroup
from pushq.cli.message import message_options, notification_of, read_json
from pushq.cli.output import console, emit_json, json_option
from pushq.cli.root import COMMANDS
from pushq.errors import InvalidRequest
from pushq.settings import load

#: The commands about one send, here as well as at the top.
SUBCOMMANDS: Final = {
    name: COMMANDS[name] for name in ("show", "pause", "resume", "cancel", "rate", "replay", "export")
}


@click.group(
    cls=LazyGroup,
    table=SUBCOMMANDS,
    invoke_without_command=True,
    subcommand_metavar="| COMMAND SEND_ID",
    epilog="""\b
Examples:
  pushq send --app shop --title Sale --body '20% off until midnight' --segment all --wait
  pushq send show 0d9c3f0e-6f0d-4d3e-8c3a-5a8a6f4a1b2c --watch""",
)
@click.option("--app", "app_name", help="Which app; may be left out when only one is configured.")
@message_options
@click.option(
    "--segment", "segments", multiple=True, help="Who gets it; 'all' is everybody. May be repeated."
)
@click.option("--exclude-segment", "excluded", multiple=True, help="Who does not.")
@click.option(
    "--user", "users", multiple=True, type=int, help="A user id, instead of segments: a transactional send."
)
@click.option("--topic", help="Instead of segments: everybody who is subscribed to this topic of FCM.")
@click.option("--condition", help="Instead of segments: a condition on FCM's topics: \"'news' in topics\"")
@click.option("--channel", help="Instead of segments: a broadcast channel of APNs, by its id.")
@click.option(
    "--environment", type=click.Choice(["production", "sandbox"]), help="Of the channel; default: production."
)
@click.option("--platform", "platforms", multiple=True, help="Only these; default: all that the app has.")
@click.option(
    "--guarantee", type=click.Choice(["at_most_once", "at_least_once"]), help="Never twice, or never lost."
)
@click.option("--idempotency-key", help="The same key sends once, however often it is called.")
@click.option("--send-at", help="Not before this time, such as 2030-01-31T18:00:00+01:00.")
@click.option("--rate", type=int, help="Requests a second at most, all workers together.")
@click.option("--max-attempts", type=int, help="Tries for each device, the first one included.")
@click.option("--retry-initial-delay", type=float, help="Seconds before the second try; doubles with each.")
@click.option("--retry-max-delay", type=float, help="Seconds that the doubling ends at.")
@click.option(
    "--values",
    "values_file",
    type=click.File(encoding="utf-8"),
    metavar="FILE",
    help='With --user: placeholders\' values as JSON, {"42": {"first_name": "Ada"}}.',
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Send nothing: check the message, let the providers check it, and count the audience.",
)
@click.option(
    "--wait", is_flag=True, help="Show progress until the last outcome; exit code 1 when the send failed."
)
@click.option(
    "--timeout", type=click.FloatRange(1, 86_400), default=3600, show_default=True, help="Seconds to --wait."
)
@json_option
@click.pass_context
def send(
    ctx: click.Context,
    /,
    app_name: str | None,
    segments: tuple[str, ...],
    excluded: tuple[str, ...],
    users: tuple[int, ...],
    topic: str | None,
    condition: str | None,
    channel: str | None,
    environment: str | None,
    platforms: tuple[str, ...],
    guarantee: str | None,
    idempotency_key: str | None,
    send_at: str | None,
    rate: int | None,
    max_attempts: int | None,
    retry_initial_delay: float | None,
    retry_max_delay: float | None,
    wait: bool,
    timeout: float,
    dry_run: bool,
    values_file: TextIO | None,
    as_json: bool,
    **message: Any,
) -> None:
    """Send one notification to an audience; or, with a COMMAND, look at a send or steer it."""
    if ctx.invoked_subcommand is not None:
        given = [name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if given:
            raise click.UsageError(
                f"Options of `pushq send` go with a notification, not with {ctx.invoked_subcommand!r}."
            )
        return
    from pushq import send_broadcast, send_notification  # noqa: PLC0415

    notification = notification_of(message)
    options: dict[str, Any] = {"app": app_name, "idempotency_key": idempotency_key, "send_at": send_at}
    if guarantee is not None:
        options["guarantee"] = guarantee
    retry = {"max_attempts": max_attempts, "initial_delay": retry_initial_delay, "max_delay": retry_max_delay}
    options |= {"rate": rate, "retry": {key: value for key, value in retry.items() if value is not None}}
    target = {"topic": topic, "condition": condition, "channel": channel, "environment": environment}
    if users:
        if any(target.values()):
            raise InvalidRequest(
                "--user", "users together with a topic, condition or channel", "one of the two"
            )
        if segments or excluded:
            raise InvalidRequest("--user", "users and segments together", "one of the two")
        task = send_notification
        arguments: dict[str, Any] = {"user_ids": list(users), "platforms": list(platforms) or None}
        arguments["values"] = read_json(values_file, "--values")
    else:
        if values_file is not None:
            raise InvalidRequest("--values", "values without --user", "the users that they belong to")
        task = send_broadcast
        audience = {
            "segments": list(segments),
            "exclude_segments": list(excluded),
            "platforms": list(platforms),
            **target,
        }
        arguments = {"audience": {key: value for key, value in audience.items() if value}}
    arguments |= {"notification": notification, **options}
    # A shell user is told at once what the broadcast worker could only write into the ledger.
    submission = task.checked((), arguments)
    if dry_run:
        _rehearse(submission, as_json)
        return
    _check_here(submission)
    send_id = uuid.UUID(task.apply_async(kwargs=arguments).id)
    if not wait:
        if as_json:
            emit_json({"send_id": str(send_id)})
        else:
            click.echo(f"accepted: {send_id}\nsee: pushq show {send_id}")
        return
    _follow(send_id, timeout, as_json)


def _check_here(submission: Any) -> None:
    from pushq.audience.sql import select_devices  # noqa: PLC0415
    from pushq.cli.sends import database  # noqa: PLC0415
    from pushq.ledger.sends import resolve_app, sendable_platforms  # noqa: PLC0415

    settings = load()
    app = resolve_app(submission.app, settings.need_apps())
    sendable_platforms(submission, settings.apps[app], app)
    with database() as opened, opened.begin() as connection:
        select_devices(connection, app, submission.audience)


def _rehearse(submission: Any, as_json: bool) -> None:
    from pushq.cli.rehearsal import report  # noqa: PLC0415

    if not report(submission, as_json=as_json):
        sys.exit(1)


def _follow(send_id: uuid.UUID, timeout: float, as_json: bool) -> None:
    from pushq.cli.progress import follow, watching  # noqa: PLC0415
    from pushq.cli.sends import as_document, database  # noqa: PLC0415

    with database() as opened, watching(send_id):
        state = follow(opened, send_id, console(stderr=as_json), timeout_s=timeout)
    if state is None:
        raise click.ClickException(
            f"no worker has taken up send {send_id} within {timeout:g} s; it is queued. Is `pushq worker core` running?"
        )
    if as_json:
        emit_json(as_document(state))
    if state.error:
        click.echo(f"error: {state.error}", err=True)
    elif not state.finished:
        click.echo(f"not finished within {timeout:g} s; it goes on: pushq show {send_id}", err=True)
    if state.state != "done":
        sys.exit(1)
