"""``pushq fcm``: topic subscriptions in bulk."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import click
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pushq.audience.request import Audience, parse_audience
from pushq.cli.output import console, emit_json, json_option
from pushq.database import Database
from pushq.errors import InvalidRequest
from pushq.ledger.sends import resolve_app
from pushq.providers.fcm.credentials import AccessTokens
from pushq.providers.fcm.topics import NOT_A_TOKEN, TopicChange, Topics
from pushq.providers.proxy import proxy_of
from pushq.redis_client import open_redis
from pushq.settings import Settings, load
from pushq.tokens.registrations import fcm_registrations

#: What people can do about it, by the service's word.
_MEANINGS = {
    "NOT_FOUND": "the registration is gone (the app was removed, or the token is stale)",
    "INVALID_ARGUMENT": "not a registration token of this project",
    "TOO_MANY_TOPICS": "the device has 2,000 topics already",
    NOT_A_TOKEN: "registered by installation id: such a device subscribes in the app",
}


@click.group()
def fcm() -> None:
    """Topics of Firebase Cloud Messaging."""


@fcm.group()
def topics() -> None:
    """Subscribe devices to topics, or end that. Send to a topic with an audience {"topic": "NAME"}."""


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        json_option,
        click.option(
            "--tokens-file",
            type=click.Path(allow_dash=True, dir_okay=False, path_type=Path),
            help="Registration tokens, one a line; - is standard input.",
        ),
        click.option("--users", metavar="IDS", help="All FCM devices of these users: 12,34,56."),
        click.option(
            "--segment", "segments", multiple=True, help="All FCM devices of a segment; all is everybody."
        ),
        click.option("--app", help="The app; not needed where only one is configured."),
        click.argument("topic"),
    ):
        command = option(command)
    return command


@topics.command(epilog="Example: pushq fcm topics subscribe news --app shop --segment german")
@_options
def subscribe(
    topic: str,
    app: str | None,
    segments: tuple[str, ...],
    users: str | None,
    tokens_file: Path | None,
    as_json: bool,
) -> None:
    """Subscribe devices to TOPIC, a thousand in a request. Repeating it does no harm."""
    _change(topic, app, segments, users, tokens_file, subscribe=True, as_json=as_json)


@topics.command(epilog="Example: pushq fcm topics unsubscribe news --app shop --tokens-file tokens.txt")
@_options
def unsubscribe(
    topic: str,
    app: str | None,
    segments: tuple[str, ...],
    users: str | None,
    tokens_file: Path | None,
    as_json: bool,
) -> None:
    """End the subscription of devices to TOPIC, a thousand in a request. Repeating it does no harm."""
    _change(topic, app, segments, users, tokens_file, subscribe=False, as_json=as_json)


def _change(
    topic: str,
    app: str | None,
    segments: tuple[str, ...],
    users: str | None,
    tokens_file: Path | None,
    *,
    subscribe: bool,
    as_json: bool,
) -> None:
    if (tokens_file is not None) == bool(segments or users):
        raise click.UsageError("Say either --tokens-file, or --segment or --users.")
    settings = load()
    apps = settings.need_apps()
    name = resolve_app(app, apps)
    section = apps[name].fcm
    if section is None:
        raise InvalidRequest("app", repr(name), "an app with a table [apps.NAME.fcm] in the configuration")
    proxy = proxy_of(settings)
    out = console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.completed:,} changed"), TimeElapsedColumn())
    with ExitStack() as stack:
        if tokens_file is not None:
            registrations: Iterable[str] = _lines(stack, tokens_file)
        else:
            registrations = _of_audience(stack, settings, name, segments, users)
        redis = stack.enter_context(closing(open_redis(settings.need_redis())))
        tokens = stack.enter_context(closing(AccessTokens(name, section, redis, time.time, proxy)))
        opened = stack.enter_context(Topics(name, section, tokens, proxy=proxy))
        bar = stack.enter_context(
            Progress(*columns, console=out, transient=True, disable=not out.is_terminal)
        )
        task = bar.add_task("topics", total=None)

        def show(so_far: TopicChange) -> None:
            bar.update(task, completed=so_far.changed)

        change = opened.change(topic, registrations, subscribe=subscribe, progress=show)
    if as_json:
        emit_json({"topic": topic, "changed": change.changed, "failed": dict(change.failed)})
        return
    done = "subscribed to" if subscribe else "no longer subscribed to"
    console().print(f"{change.changed:,} devices are {done} {topic}")
    for reason, count in change.failed.most_common():
        console().print(f"{count:,} not: {reason}{' - ' + _MEANINGS[reason] if reason in _MEANINGS else ''}")


def _lines(stack: ExitStack, path: Path) -> Iterator[str]:
    if str(path) == "-":
        source = sys.stdin
    else:
        try:
            source = stack.enter_context(path.open(encoding="utf-8"))
        except OSError as exc:
            raise InvalidRequest(
                "--tokens-file", f"{str(path)!r} ({exc.strerror})", "a readable file"
            ) from None
    return (line.strip() for line in source if line.strip())


def _of_audience(
    stack: ExitStack, settings: Settings, app: str, segments: tuple[str, ...], users: str | None
) -> Iterator[str]:
    document: dict[str, object] = {"segments": list(segments)} if segments else {}
    if users is not None:
        try:
            document["user_ids"] = [int(each) for each in users.split(",")]
        except ValueError:
            raise InvalidRequest(
                "--users", repr(users[:60]), "user ids with commas between them: 12,34"
            ) from None
    audience: Audience = parse_audience(document)
    database = Database(settings.need_database(), pool_size=2, application_name="pushq-cli")
    stack.callback(database.close)
    return fcm_registrations(database, app, audience)
