"""Client certificates: PEM and PKCS#12, what is wrong with them, and when they end."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)

from pushq.app_settings import ApnsSettings, AppSettings
from pushq.errors import SettingsError
from pushq.http2 import read_client_certificate
from pushq.mock.client_certificates import issue, make_authority
from pushq.providers.apns.credentials import load_certificate
from pushq.providers.expiry import credentials

BUNDLE = "com.example.shop"
ENDS = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)


class Made:
    """A certificate in every form."""

    def __init__(self, folder: Path) -> None:
        pem, p12, password = issue(*make_authority(), BUNDLE, expires_at=ENDS)
        self.pem, self.p12, self.password = folder / "c.pem", folder / "c.p12", folder / "password"
        self.pem.write_bytes(pem)
        self.p12.write_bytes(p12)
        self.password.write_bytes(password + b"\n")
        self.certificate, self.key, self.locked = (
            folder / "only.pem",
            folder / "key.pem",
            folder / "locked.pem",
        )
        end = pem.index(b"-----BEGIN PRIVATE KEY")
        self.certificate.write_bytes(pem[:end])
        self.key.write_bytes(pem[end:])
        private = load_pem_private_key(pem[end:], None)
        self.locked.write_bytes(
            private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password))
        )


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        lambda made: (made.pem, None, None),
        lambda made: (made.certificate, made.key, None),
        lambda made: (made.certificate, made.locked, made.password),
        lambda made: (made.p12, None, made.password),
    ],
    ids=["pem", "pem and key", "pem and locked key", "p12"],
)
def test_every_form_is_read_and_taken_by_openssl(
    made: Made, files: Callable[[Made], tuple[Path, Path | None, Path | None]]
) -> None:
    found = read_client_certificate(*files(made))
    assert (found.user_id, found.name, found.expires_at) == (BUNDLE, f"Apple Push Services: {BUNDLE}", ENDS)
    assert found.begins_at < datetime.now(UTC)
    found.load_into(ssl.create_default_context())
    assert b"PRIVATE KEY" not in repr(found).encode()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (lambda made, folder: (folder / "none.pem", None, None), "cannot be read"),
        (lambda made, folder: (made.certificate, folder / "none", None), "cannot be read"),
        (lambda made, folder: (made.p12, None, folder / "none"), "cannot be read"),
        (
            lambda made, folder: (made.certificate, None, None),
            "holds no key that can be read without a password",
        ),
        (lambda made, folder: (made.key, None, None), "no readable certificate"),
        (lambda made, folder: (made.certificate, made.locked, None), "without a password"),
        (
            lambda made, folder: (made.certificate, made.locked, write(folder / "w", b"wrong")),
            "with this password",
        ),
        (lambda made, folder: (made.p12, None, None), "cannot be opened without a password"),
        (
            lambda made, folder: (made.p12, None, write(folder / "w", b"wrong")),
            "cannot be opened with this password",
        ),
        (lambda made, folder: (write(folder / "x", b"\x00"), None, None), "openssl pkcs12"),
        (
            lambda made, folder: (
                write(folder / "x", b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n"),
                None,
                None,
            ),
            "no readable certificate",
        ),
        (lambda made, folder: (made.certificate, other_key(folder), None), "belongs to another certificate"),
        (lambda made, folder: (empty_p12(folder), None, None), "lacks a certificate or its key"),
    ],
)
def test_what_cannot_be_used_is_named(
    made: Made,
    tmp_path: Path,
    files: Callable[[Made, Path], tuple[Path, Path | None, Path | None]],
    says: str,
) -> None:
    with pytest.raises(SettingsError, match=says) as refused:
        read_client_certificate(*files(made, tmp_path), name="apps.shop.apns.certificate_file")
    assert str(refused.value).startswith("apps.shop.apns.certificate_file")
    assert made.password.read_text().strip() not in str(refused.value)


def other_key(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    return write(folder / "other.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def empty_p12(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    return write(
        folder / "empty.p12", pkcs12.serialize_key_and_certificates(b"n", key, None, None, NoEncryption())
    )


class TestAnAppsCertificate:
    def test_its_end_is_shown(self, made: Made) -> None:
        apns = ApnsSettings(topic=BUNDLE, certificate_file=made.p12, certificate_password_file=made.password)
        (found,) = credentials({"shop": AppSettings(apns=apns)})
        assert (found.kind, found.setting, found.expires_at, found.fault) == (
            "certificate",
            "apps.shop.apns.certificate_file",
            ENDS,
            "",
        )
        days = timedelta(days=1)
        assert [found.state(ENDS - 31 * days), found.state(ENDS - 29 * days), found.state(ENDS)] == [
            "ok",
            "expires_soon",
            "expired",
        ]

    def test_what_cannot_be_read_is_told_and_does_not_hide_the_others(self, made: Made) -> None:
        broken = AppSettings(apns=ApnsSettings(topic=BUNDLE, certificate_file=made.p12))
        good = AppSettings(apns=ApnsSettings(topic=BUNDLE, certificate_file=made.pem))
        first, second = credentials({"broken": broken, "good": good})
        assert (first.state(ENDS - timedelta(days=99)), second.expires_at) == ("unusable", ENDS)
        assert "apps.broken.apns.certificate_file" in first.fault

    def test_a_voip_certificate_is_for_the_bundle(self, made: Made) -> None:
        settings = ApnsSettings(topic=f"{BUNDLE}.voip", certificate_file=made.pem)
        assert load_certificate(settings, "shop") is not None

    def test_another_apps_certificate_is_refused(self, made: Made) -> None:
        with pytest.raises(SettingsError, match=r"for 'com\.example\.shop'; expected one for"):
            load_certificate(ApnsSettings(topic="com.example.other", certificate_file=made.pem), "shop")
