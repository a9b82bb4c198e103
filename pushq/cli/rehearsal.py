"""``pushq send --dry-run``: what a send would meet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click

from pushq.cli.output import emit_json
from pushq.platforms import TITLES
from pushq.settings import Settings, load


def report(submission: Any, *, as_json: bool) -> bool:
    """Print what each platform would make of the call. False: a provider would not take it.

    Raises:
        InvalidRequest: the app, a platform or a segment does not exist.
        ServiceUnavailable, SettingsError
    """
    from pushq.audience.survey import some_devices, survey  # noqa: PLC0415
    from pushq.cli.sends import database  # noqa: PLC0415
    from pushq.delivery.composing import send_of  # noqa: PLC0415
    from pushq.delivery.rehearsal import SAMPLE, needed_values, rehearse  # noqa: PLC0415
    from pushq.ledger.sends import resolve_app, sendable_platforms  # noqa: PLC0415
    from pushq.tokens.lookup import addressed  # noqa: PLC0415

    settings = load()
    app = resolve_app(submission.app, settings.need_apps())
    platforms = sendable_platforms(submission, settings.apps[app], app)
    send = send_of(submission, app)
    called = {name for values in send.values.values() for name in values}
    names = [name for name in needed_values(send.notification) if name not in called]
    counted: dict[str, Any] = {}
    devices: dict[str, list[Any]] = {platform: [] for platform in platforms}
    with database() as opened:
        if send.target is None:
            with opened.begin() as connection:
                counted = survey(connection, app, submission.audience, names)
                some = {
                    platform: some_devices(connection, app, submission.audience, platform, SAMPLE)
                    for platform in platforms
                }
            for platform, pairs in some.items():
                devices[platform] = [
                    d for user, device in pairs for d in addressed(opened, app, user, device)
                ]
    found = []
    with _clients(settings, app, platforms) as clients:
        for platform in platforms:
            said = rehearse(clients[platform], send, devices[platform])
            part = counted.get(platform)
            found.append(
                {
                    "platform": platform,
                    "devices": None if send.target is not None else part.devices if part else 0,
                    "without": {name: many for name, many in part.without.items() if many} if part else {},
                    **asdict(said),
                }
            )
    good = not any(each["objections"] for each in found)
    if as_json:
        emit_json({"app": app, "good": good, "platforms": found})
    else:
        click.echo(f"app {app} · dry run, nothing was sent")
        click.echo("\n".join(line for each in found for line in _lines(each)))
    return good


@contextmanager
def _clients(settings: Settings, app: str, platforms: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The app's clients by platform, open as long as the context is."""
    from pushq.providers.opening import ClientOpener  # noqa: PLC0415
    from pushq.providers.proxy import proxy_of  # noqa: PLC0415
    from pushq.redis_client import open_redis  # noqa: PLC0415

    redis = open_redis(settings.need_redis())
    try:
        opener = ClientOpener(
            platforms, redis, request_timeout_s=settings.request_timeout, proxy=proxy_of(settings)
        )
        clients = opener.open({app: settings.apps[app]}, {})
        try:
            yield {platform: each.client for (_, platform), each in clients.items()}
        finally:
            for each in clients.values():
                each.client.close(0.0)
    finally:
        redis.close()


def _lines(found: dict[str, Any]) -> list[str]:
    title = TITLES[found["platform"]]
    devices = "a topic or channel" if found["devices"] is None else f"{found['devices']:,} devices"
    checked = (
        found["note"]
        or f"{found['validated']} of {found['validated'] + len(found['objections'])} requests taken"
    )
    lines = [f"{title:<6}{devices:>20}   {checked}"]
    for name, many in found["without"].items():
        lines.append(f"{'':6}{many:>12,} without {name}: rejected (value_missing) where the text asks for it")
    for objection in found["objections"]:
        language = f"{objection['language']}: " if objection["language"] else ""
        status = f"{objection['status']} " if objection["status"] else ""
        lines.append(f"{'':6}refused  {language}{status}{objection['reason']} {objection['detail']}".rstrip())
    return lines
