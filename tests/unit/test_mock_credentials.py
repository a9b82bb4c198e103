"""Keys stay, certificates are renewed in time."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509

from pushq.mock import credentials
from pushq.mock.credentials import make_credentials
from pushq.mock.names import PROVIDERS


def test_what_exists_is_kept(tmp_path: Path) -> None:
    first = make_credentials(tmp_path)
    certificate = first.certificate_file.read_bytes()
    again = make_credentials(tmp_path)
    assert (again.team_id, again.key_id, again.apns_key_file) == (
        first.team_id,
        first.key_id,
        first.apns_key_file,
    )
    assert again.certificate_file.read_bytes() == certificate


def test_a_certificate_about_to_end_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "CERTIFICATE_LIFE", dt.timedelta(hours=12))
    old = make_credentials(tmp_path).certificate_file.read_bytes()
    monkeypatch.undo()
    new = make_credentials(tmp_path).certificate_file.read_bytes()
    assert new != old
    assert make_credentials(tmp_path).certificate_file.read_bytes() == new


def test_a_certificate_for_another_name_is_replaced_and_serves_on_localhost_too(tmp_path: Path) -> None:
    make_credentials(tmp_path)
    assert set(_names(tmp_path)) == {"localhost", *PROVIDERS}
    make_credentials(tmp_path, "mock")
    assert set(_names(tmp_path)) == {"localhost", "mock", *PROVIDERS}
    kept = (tmp_path / "server.pem").read_bytes()
    make_credentials(tmp_path)
    assert (tmp_path / "server.pem").read_bytes() == kept


def _names(folder: Path) -> list[str]:
    certificate = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)
