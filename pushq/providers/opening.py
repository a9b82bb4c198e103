"""Every provider's client, and which of them stay when the configuration changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, cast

import redis

from pushq.app_settings import AppSettings
from pushq.http2 import Proxy
from pushq.providers.apns.client import ApnsClient
from pushq.providers.client import ProviderClient
from pushq.providers.fcm.client import FcmClient
from pushq.providers.hms.client import HmsClient
from pushq.reload import section_digest

#: What makes a platform's client from the app's name, its settings, Redis, a request's time-out and the proxy.
CLIENTS: Final[Mapping[str, Callable[..., object]]] = {
    "apns": ApnsClient,
    "fcm": FcmClient,
    "hms": HmsClient,
}


@dataclass(frozen=True)
class OpenClient:
    """A client and the digest of what it was made from: its settings and the content of their files."""

    client: ProviderClient
    made_from: str


class ClientOpener:
    """Makes the clients of a process.

    Args:
        platforms: those that the process delivers to.
        client: where clients share their credentials with the fleet's.
    """

    def __init__(
        self,
        platforms: Iterable[str],
        client: redis.Redis,
        *,
        request_timeout_s: float,
        proxy: Proxy | None,
    ) -> None:
        self._platforms, self._redis = frozenset(platforms), client
        self._request_timeout_s, self._proxy = request_timeout_s, proxy

    def open(
        self, apps: Mapping[str, AppSettings], known: Mapping[tuple[str, str], OpenClient]
    ) -> dict[tuple[str, str], OpenClient]:
        """The clients of these apps by app and platform. One that would be the same as a known one is that one.

        None has opened a connection yet, but for those that were known.

        Raises:
            SettingsError: a secret or a certificate cannot be used; nothing stays open then but what was known.
            OSError: a file cannot be read; the same.
        """
        opened: dict[tuple[str, str], OpenClient] = {}
        try:
            for app, providers in apps.items():
                for platform, section in providers.platforms().items():
                    if platform not in self._platforms:
                        continue
                    key, made_from = (app, platform), section_digest(section)
                    have = known.get(key)
                    if have is None or have.made_from != made_from:
                        made = CLIENTS[platform](
                            app,
                            section,
                            self._redis,
                            request_timeout_s=self._request_timeout_s,
                            proxy=self._proxy,
                        )
                        have = OpenClient(cast("ProviderClient", made), made_from)
                    opened[key] = have
        except BaseException:
            for key, have in opened.items():
                if known.get(key) is not have:
                    have.client.close(0.0)
            raise
        return opened
