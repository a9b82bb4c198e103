"""The proxy of the settings, for everything that speaks to a provider."""

from __future__ import annotations

from pushq.errors import SettingsError
from pushq.http2 import Proxy
from pushq.settings import Settings


def proxy_of(settings: Settings) -> Proxy | None:
    """The proxy that connections to providers go through; None if there is none.

    Raises:
        SettingsError: ``PUSHQ_HTTP_PROXY`` and what belongs to it do not make one.
    """
    if settings.http_proxy is None:
        return None
    try:
        return Proxy.parse(
            settings.http_proxy.reveal(),
            no_proxy=settings.no_proxy,
            password_file=settings.http_proxy_password_file,
            ca_file=settings.http_proxy_ca_file,
        )
    except SettingsError as error:
        raise SettingsError(f"PUSHQ_HTTP_PROXY: {error}") from None
