"""httpx clients for what is not the sending itself: token endpoints, channels, topics, and HMS."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from pushq.http2 import ClientCertificate, Proxy

CONNECT_TIMEOUT_S: Final = 10.0


class Dialling:
    """Makes clients for one origin, each of them one connection at a time.

    Args:
        url: the origin.
        proxy: gone through if it covers the origin; its password is read for every client.
        certificate: shown to the origin.

    Raises:
        SettingsError, OSError: a certificate file cannot be used.
    """

    def __init__(
        self,
        url: str,
        ca_file: Path | None,
        proxy: Proxy | None = None,
        *,
        certificate: ClientCertificate | None = None,
    ) -> None:
        import ssl  # noqa: PLC0415 - gevent must have patched ssl before this module's first use of it

        self._ssl = ssl
        self._verify = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        if certificate is not None:
            certificate.load_into(self._verify)
        parts = urlsplit(url)
        covered = proxy is not None and proxy.covers(parts.hostname or "", parts.port or 443)
        self._proxy = proxy if covered else None

    @property
    def proxied(self) -> bool:
        """Whether connections go through the proxy."""
        return self._proxy is not None

    def client(self, timeout_s: float, *, http2: bool, idle_close_s: float = 5.0) -> httpx.Client:
        """A client; the caller closes it.

        Raises:
            OSError, UnicodeDecodeError: the proxy's password file cannot be read.
        """
        proxy = None
        if self._proxy is not None:
            trusted = None
            if self._proxy.tls:
                ca_file = self._proxy.ca_file
                trusted = self._ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
            proxy = httpx.Proxy(str(self._proxy), auth=self._proxy.credentials(), ssl_context=trusted)
        return httpx.Client(
            verify=self._verify,
            http2=http2,
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            limits=httpx.Limits(
                max_connections=1, max_keepalive_connections=1, keepalive_expiry=idle_close_s
            ),
            # A proxy is used when the settings say so, and for everything or for nothing.
            trust_env=False,
            proxy=proxy,
            follow_redirects=False,
        )
