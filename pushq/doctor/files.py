"""The files that the configuration names: who may read them, and how long their certificates last."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from pushq.app_settings import AppSettings
from pushq.doctor.findings import Finding, failed, ok, warning
from pushq.reload import content_of, named_files

_SUBJECT: Final = "files"
#: What is left of a certificate when it should be renewed.
RENEW: Final = timedelta(days=30)
_PEM: Final = b"-----BEGIN CERTIFICATE-----"


def files(apps: Mapping[str, AppSettings], now: datetime) -> Sequence[Finding]:
    """Permissions of secrets, and the certificates in PEM files. A file that several settings name is looked at once."""
    by_path: dict[Path, list[str]] = {}
    for setting, path in named_files(apps).items():
        by_path.setdefault(path, []).append(setting)
    findings = [finding for path, settings in by_path.items() for finding in _file(path, settings, now)]
    if not findings and by_path:
        return [ok(_SUBJECT, f"{len(by_path)} file(s); nobody else may read the secrets among them")]
    return findings


def _file(path: Path, settings: Sequence[str], now: datetime) -> list[Finding]:
    named = settings[0] if len(settings) == 1 else f"{settings[0]} and {len(settings) - 1} more"
    try:
        mode, content = stat.S_IMODE(path.stat().st_mode), content_of(path)
    except OSError as exc:
        text = f"{path} ({named}) cannot be read: {exc.strerror}"
        return [
            failed(_SUBJECT, text, "Give it to the user that the workers run as, or correct the setting.")
        ]
    findings = []
    if mode & stat.S_IWOTH or (mode & stat.S_IROTH and _secret(settings, content)):
        what = "change" if mode & stat.S_IWOTH else "read"
        text = f"everybody on this machine may {what} {path} ({named}, mode {mode:04o})"
        report = failed if what == "change" else warning
        findings.append(report(_SUBJECT, text, f"chmod o-rwx {path} (a mounted secret: defaultMode 0440)"))
    if _PEM in content:
        findings += _certificates(path, named, content, now)
    return findings


def _certificates(path: Path, named: str, content: bytes, now: datetime) -> list[Finding]:
    try:
        certificates = x509.load_pem_x509_certificates(content)
    except ValueError:
        return [failed(_SUBJECT, f"{path} ({named}) holds a damaged certificate", "Fetch the file again.")]
    ends = min(certificate.not_valid_after_utc for certificate in certificates)
    return expiry(_SUBJECT, f"the certificate in {path} ({named})", ends, now)


def expiry(subject: str, what: str, ends: datetime, now: datetime) -> list[Finding]:
    """What the end of something's validity means; nothing while it is far away."""
    day = ends.astimezone(UTC).date().isoformat()
    if ends <= now:
        return [
            failed(subject, f"{what} ended on {day}", "Renew it; a running worker takes the new file over.")
        ]
    if ends - now < RENEW:
        text = f"{what} ends on {day}, in {(ends - now).days} day(s)"
        return [warning(subject, text, "Renew it; a running worker takes the new file over.")]
    return []


def _secret(settings: Sequence[str], content: bytes) -> bool:
    """Certificates alone are public, in PEM; with a key beside them, or as .p12, they are not."""
    if all(setting.endswith(".ca_file") for setting in settings):
        return False
    return _PEM not in content or b"PRIVATE KEY" in content
