"""The TLS context of an origin, made anew when its certificate files change on disk."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from pushq.errors import SettingsError
from pushq.http2.client_certificate import read_client_certificate
from pushq.http2.settings import Origin

_log = logging.getLogger("pushq.http2")

#: What tells one version of a file from the next; None for a file that cannot be looked at.
_Stamp = tuple[int, int, int] | None


class TlsContext:
    """Gives out the context for the next connection.

    Files that have become unusable (half written, a key that does not belong to its certificate) leave the last good context in
    force, and an error is logged once for each version of them: an operator who botches a renewal does not stop the sending.
    """

    def __init__(self, origin: Origin) -> None:
        """Raises:
        SettingsError: a certificate or key file cannot be used.
        """
        self._origin = origin
        # Looked at before they are read: a change in between is then seen the next time.
        self._stamps = _stamps(origin)
        self._context = _make(origin)

    def current(self) -> ssl.SSLContext:
        """The context for a new connection; another object than before if the files have changed."""
        stamps = _stamps(self._origin)
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._context = _make(self._origin)
            except SettingsError as error:
                _log.error(
                    "http2_certificates_unusable", extra={"host": self._origin.host, "detail": str(error)}
                )
            else:
                _log.info("http2_certificates_reloaded", extra={"host": self._origin.host})
        return self._context


def _files(origin: Origin) -> list[Path]:
    named = (origin.ca_file, origin.client_cert, origin.client_key, origin.client_password)
    return [path for path in named if path is not None]


def _stamps(origin: Origin) -> list[_Stamp]:
    return [_stamp(path) for path in _files(origin)]


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _make(origin: Origin) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(origin.ca_file) if origin.ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"ca_file {origin.ca_file}: {error}; expected a PEM file of certificates"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2"])
    if origin.client_cert is not None:
        certificate = read_client_certificate(origin.client_cert, origin.client_key, origin.client_password)
        try:
            certificate.load_into(context)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"client_cert {origin.client_cert}: {error}; expected a certificate and key that OpenSSL takes"
            ) from error
    return context
