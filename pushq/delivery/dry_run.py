"""A whole call without sending it: the audience counted by platform, and the message looked over by each provider that can do so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from pushq.audience.survey import Platform, some_devices, survey
from pushq.database import Database
from pushq.delivery.composing import send_of
from pushq.delivery.rehearsal import SAMPLE, Rehearsal, needed_values, rehearse
from pushq.ledger.sends import resolve_app, sendable_platforms
from pushq.providers.client import ProviderClient
from pushq.providers.opening import ClientOpener
from pushq.providers.proxy import proxy_of
from pushq.redis_client import open_redis
from pushq.settings import Settings
from pushq.submission import Submission
from pushq.tokens.lookup import AddressedDevice, addressed


@dataclass(frozen=True)
class Checked:
    """What one platform would make of the call.

    Attributes:
        devices: of the audience; None for a topic and its like.
        without: by a value's name, how many of them lack it.
    """

    platform: str
    devices: int | None
    without: Mapping[str, int] = field(default_factory=dict)
    said: Rehearsal = field(default_factory=Rehearsal)


def dry_run(settings: Settings, database: Database, submission: Submission) -> tuple[str, list[Checked]]:
    """The app that is meant, and what each platform says.

    Raises:
        InvalidRequest: the app, a platform or a segment does not exist.
        ServiceUnavailable, SettingsError
    """
    app = resolve_app(submission.app, settings.need_apps())
    platforms = sendable_platforms(submission, settings.apps[app], app)
    send = send_of(submission, app)
    called = {name for values in send.values.values() for name in values}
    names = [name for name in needed_values(send.notification) if name not in called]
    counted: dict[str, Platform] = {}
    devices: dict[str, list[AddressedDevice]] = {platform: [] for platform in platforms}
    if send.target is None:
        with database.begin() as connection:
            counted = survey(connection, app, submission.audience, names)
            some = {
                platform: some_devices(connection, app, submission.audience, platform, SAMPLE)
                for platform in platforms
            }
        for platform, pairs in some.items():
            devices[platform] = [d for user, device in pairs for d in addressed(database, app, user, device)]
    found = []
    with _clients(settings, app, platforms) as clients:
        for platform in platforms:
            said = rehearse(clients[platform], send, devices[platform])
            part = counted.get(platform)
            many = None if send.target is not None else part.devices if part else 0
            without = {name: count for name, count in part.without.items() if count} if part else {}
            found.append(Checked(platform, many, without, said))
    return app, found


@contextmanager
def _clients(settings: Settings, app: str, platforms: tuple[str, ...]) -> Iterator[dict[str, ProviderClient]]:
    """The app's clients by platform, open as long as the context is."""
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
