"""When the credentials of a process end, as metrics: read whenever somebody scrapes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from pushq import metrics

_Labels = tuple[str, str, str]

#: What is open by app, platform and kind, the newest last: a changed configuration makes another client while the old one drains.
_open: dict[_Labels, list[Callable[[], float]]] = {}


class CredentialMetrics:
    """The credentials of one client, from its start to :meth:`conceal`. The newest client of an app and platform counts."""

    def __init__(self, app: str, platform: str) -> None:
        self._target = app, platform
        self._exposed: list[tuple[_Labels, Callable[[], float]]] = []

    def token(self, kind: str, ends_at: Callable[[], float]) -> None:
        """Let the end of a token be read.

        Args:
            kind: ``access_token``, ``provider_token`` or ``client_certificate``.
            ends_at: UNIX seconds; nan while there is nothing to say: before the first token, and for one that nobody renews because
                nobody sends. No alert compares with nan, and an idle process must not call anybody out of bed.
        """
        labels = (*self._target, kind)
        self._exposed.append((labels, ends_at))
        _open.setdefault(labels, []).append(ends_at)
        metrics.credential_expiry.labels(*labels).set_function(ends_at)

    def certificate(self, kind: str, path: Path | None) -> None:
        """Let the end of a PEM file's certificates be read, of the one that ends first among those that had not ended when the file
        was read. The file is read again when it has changed.

        Args:
            kind: ``ca`` or ``client_certificate``.
            path: None says nothing.
        """
        if path is not None:
            self.token(kind, _Certificates(path).ends_at)

    def conceal(self) -> None:
        """The client is closed: an older one of its app and platform counts again, or there is no such credential any more."""
        for labels, ends_at in self._exposed:
            # Bound methods: equal where object and function are the same, and never the same object twice.
            left = [each for each in _open[labels] if each != ends_at]
            if left:
                _open[labels] = left
                metrics.credential_expiry.labels(*labels).set_function(left[-1])
            else:
                del _open[labels]
                metrics.credential_expiry.remove(*labels)
        self._exposed.clear()


class _Certificates:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._ends = math.nan

    def ends_at(self) -> float:
        try:
            found = self._path.stat()
            stamp = found.st_mtime_ns, found.st_size
            if stamp != self._stamp:
                self._ends = first_end(self._path.read_bytes(), time.time())
                self._stamp = stamp
        except (OSError, ValueError):
            # The connections complain of such a file (http2_certificates_unusable); a scrape must not fail with it.
            return math.nan
        return self._ends


def first_end(pem: bytes, now: float) -> float:
    """UNIX seconds at which the first of the certificates ends; those that ended before ``now`` do not count unless all have.

    Raises:
        ValueError: no certificates in PEM.
    """
    ends = [each.not_valid_after_utc.timestamp() for each in x509.load_pem_x509_certificates(pem)]
    return min((end for end in ends if end > now), default=max(ends))
