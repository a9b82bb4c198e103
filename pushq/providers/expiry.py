"""What apps are known by at their providers, and when it ends: for people, health checks and metrics. Reads files, opens nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pushq.app_settings import AppSettings
from pushq.errors import SettingsError
from pushq.providers.apns.client import WARN_BEFORE
from pushq.providers.apns.credentials import load_certificate


@dataclass(frozen=True)
class Credential:
    """One credential of an app.

    Attributes:
        kind: ``key``, ``certificate``, ``service_account`` or ``client_secret``.
        setting: where it is configured, such as ``apps.shop.apns.certificate_file``.
        expires_at: UTC; None: it does not end by itself.
        fault: why it cannot be used; "" when it can be read.
    """

    app: str
    platform: str
    kind: str
    setting: str
    expires_at: datetime | None = None
    fault: str = ""

    def state(self, now: datetime) -> str:
        """``ok``, ``expires_soon``, ``expired`` or ``unusable``."""
        if self.fault:
            return "unusable"
        if self.expires_at is None or now < self.expires_at - WARN_BEFORE:
            return "ok"
        return "expires_soon" if now < self.expires_at else "expired"


def credentials(apps: Mapping[str, AppSettings]) -> list[Credential]:
    """Every credential of these apps, by app and platform. A certificate that cannot be read has a ``fault``."""
    found: list[Credential] = []
    for app, providers in sorted(apps.items()):
        for platform, section in providers.platforms().items():
            for setting, kind in _KINDS.items():
                if getattr(section, setting, None) is not None:
                    name = f"apps.{app}.{platform}.{setting}"
                    found.append(
                        _certificate(app, providers, name)
                        if kind == "certificate"
                        else Credential(app, platform, kind, name)
                    )
    return found


_KINDS: Final = {
    "key_file": "key",
    "sandbox_key_file": "key",
    "certificate_file": "certificate",
    "service_account_file": "service_account",
    "client_secret_file": "client_secret",
}


def _certificate(app: str, providers: AppSettings, setting: str) -> Credential:
    assert providers.apns is not None
    try:
        certificate = load_certificate(providers.apns, app)
    except SettingsError as exc:
        return Credential(app, "apns", "certificate", setting, fault=str(exc))
    return Credential(
        app, "apns", "certificate", setting, None if certificate is None else certificate.expires_at
    )
