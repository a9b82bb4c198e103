"""Connections to Huawei by httpx: how they are made, and what its errors mean for a request."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import h2.errors
import h2.events
import httpcore
import httpx

from pushq.http2 import Code, Proxy, Reason

CONNECT_TIMEOUT_S: Final = 10.0
#: What an answer may be long: a thousand tokens that are named, and room.
MAX_ANSWER_BYTES: Final = 8 << 20


class Dialling:
    """Makes clients for one origin, each of them one connection at a time.

    Args:
        url: the origin.
        proxy: gone through if it covers the origin; its password is read for every client.

    Raises:
        SettingsError, OSError: a certificate file cannot be used.
    """

    def __init__(self, url: str, ca_file: Path | None, proxy: Proxy | None = None) -> None:
        import ssl  # noqa: PLC0415 - gevent must have patched ssl before this module's first use of it

        self._ssl = ssl
        self._verify = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        parts = urlsplit(url)
        covered = proxy is not None and proxy.covers(parts.hostname or "", parts.port or 443)
        self._proxy = proxy if covered else None

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


def outcome(error: Exception, *, written: bool) -> tuple[Code, Reason]:
    """What is known about a request that ended with this error instead of an answer.

    Args:
        written: whether any of its bytes may have left.
    """
    causes = list(_chain(error))
    if not written:
        return Code.NOT_SENT, _why_not_connected(error, causes)
    for cause in causes:
        # RFC 9113 section 8.7: the one reset that promises that nothing was processed.
        event = cause.args[0] if cause.args and isinstance(cause, httpcore.RemoteProtocolError) else None
        if isinstance(event, h2.events.StreamReset):
            refused = event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM
            return (Code.REFUSED, Reason.REFUSED_STREAM) if refused else (Code.UNKNOWN, Reason.STREAM_RESET)
    if isinstance(error, httpx.TimeoutException):
        return Code.UNKNOWN, Reason.TIMEOUT
    if isinstance(error, httpx.DecodingError | httpx.LocalProtocolError):
        return Code.UNKNOWN, Reason.MALFORMED_ANSWER
    return Code.UNKNOWN, Reason.CONNECTION_LOST


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what it came from; bounded, for a chain may be a ring."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and len(found) < 10:
        found.append(current)
        current = current.__cause__ or current.__context__
    return found


def _why_not_connected(error: Exception, causes: list[BaseException]) -> Reason:
    import ssl  # noqa: PLC0415 - as above

    if isinstance(error, httpx.ProxyError):
        status = str(error)[:3]
        return {"407": Reason.PROXY_AUTH, "403": Reason.PROXY_FORBIDDEN, "502": Reason.PROXY_BAD_GATEWAY}.get(
            status, Reason.PROXY_REFUSED
        )
    if isinstance(error, httpx.TimeoutException):
        return Reason.CONNECT_TIMEOUT
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Reason.TLS_VERIFY_FAILED
        if isinstance(cause, ssl.SSLError):
            return Reason.TLS_FAILED
        if isinstance(cause, socket.gaierror):
            return Reason.DNS
        if isinstance(cause, ConnectionRefusedError):
            return Reason.CONNECT_REFUSED
    return Reason.CONNECT_FAILED
