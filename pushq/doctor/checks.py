"""All checks that belong to some settings."""

from __future__ import annotations

from datetime import UTC, datetime

from pushq.doctor import services
from pushq.doctor.files import files
from pushq.doctor.findings import Check, failed
from pushq.doctor.providers import ADVICE, provider
from pushq.errors import SettingsError
from pushq.platforms import TITLES
from pushq.providers.proxy import proxy_of
from pushq.settings import Settings


def checks(settings: Settings, timeout_s: float) -> list[Check]:
    """Everything that is to be looked at. Nothing is looked at before they are run."""
    found = [
        Check("database", lambda: services.database(settings), services.DATABASE_ADVICE),
        Check("broker", lambda: services.broker(settings), services.BROKER_ADVICE),
        Check("Redis", lambda: services.redis_server(settings), services.REDIS_ADVICE),
        Check("workers", lambda: services.workers(settings), services.REDIS_ADVICE),
        Check(
            "files",
            lambda: files(settings.apps, datetime.now(UTC)),
            "Check the folder that the files lie in: is a network drive gone?",
        ),
    ]
    try:
        proxy = proxy_of(settings)
    except SettingsError as exc:
        wrong = failed("proxy", str(exc), "Correct PUSHQ_HTTP_PROXY; see docs/connections.md.")
        found.append(Check("proxy", lambda: [wrong], ""))
        proxy = None
    # Less than the limit of the check, so that the provider is blamed and not the check.
    patience = max(1.0, timeout_s - 2.0)
    found += [
        Check(
            f"{TITLES[platform]} {app}",
            provider(app, platform, section, settings, proxy, patience),
            ADVICE,
        )
        for app, providers in settings.apps.items()
        for platform, section in providers.platforms().items()
    ]
    return found
