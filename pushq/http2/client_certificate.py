"""The certificate that we show to a server: PEM or PKCS#12, with or without a password.

``ssl`` reads certificates from files only, and knows no PKCS#12. So everything is decoded here and handed over as one PEM file that
lives in memory where the system has such files (Linux), and else in a private file for the moment of the call.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    pkcs12,
)

from pushq.errors import SettingsError

_OLD_EXPORT = (
    "; if the password is right, the file may be encrypted in an outdated way, as by Keychain Access: openssl pkcs12 -legacy"
    " -in OLD.p12 -nodes -out NEW.pem"
)


@dataclass(frozen=True)
class ClientCertificate:
    """A certificate, those between it and its authority, and its key.

    Attributes:
        pem: everything, the key unencrypted. A secret.
        expires_at, begins_at: UTC.
        user_id: what the subject has as UID (Apple: the bundle id); "" for none.
        name: the subject's common name, for people.
    """

    pem: bytes = field(repr=False)
    begins_at: datetime
    expires_at: datetime
    name: str
    user_id: str

    def load_into(self, context: ssl.SSLContext) -> None:
        """Show this certificate in the handshakes of ``context``.

        Raises:
            ssl.SSLError: OpenSSL refuses it (a key that is too short for its level of security, say).
        """
        with _file_of(self.pem) as path:
            context.load_cert_chain(path)


def read_client_certificate(
    certificate: Path, key: Path | None = None, password: Path | None = None, *, name: str = "client_cert"
) -> ClientCertificate:
    """Read it from a .p12 file, or from PEM with the key in the same file or in one of its own.

    Args:
        password: file with the password of the .p12 file or of the key; a newline at its end does not count.
        name: what to call the certificate's setting in errors. What stands in the files is never shown.

    Raises:
        SettingsError: a file cannot be read, or does not hold what it should.
    """
    content = _bytes_of(certificate, name)
    word = None if password is None else _bytes_of(password, f"{name}: the password").rstrip(b"\r\n")
    found = f"{name}: found {str(certificate)!r}"
    if b"-----BEGIN" in content:
        try:
            chain = x509.load_pem_x509_certificates(content)
        except ValueError:
            raise SettingsError(
                f"{found}, which holds no readable certificate; expected one in PEM"
            ) from None
        holder = content if key is None else _bytes_of(key, f"{name}: its key")
        try:
            private = load_pem_private_key(holder, word or None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            where = "it" if key is None else repr(str(key))
            raise SettingsError(
                f"{found}, but {where} holds no key that can be read"
                f" {'without a password' if word is None else 'with this password'}; expected its private key in PEM"
            ) from None
    else:
        try:
            parsed = pkcs12.load_pkcs12(content, word)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise SettingsError(
                f"{found}, which cannot be opened {'without a password' if word is None else 'with this password'};"
                f" expected a .p12 file or PEM{_OLD_EXPORT}"
            ) from None
        if parsed.cert is None or parsed.key is None:
            raise SettingsError(
                f"{found}, which lacks a certificate or its key; expected both in the .p12 file"
            )
        chain = [parsed.cert.certificate, *(other.certificate for other in parsed.additional_certs)]
        private = parsed.key
    leaf = chain[0]
    if _public(private.public_key()) != _public(leaf.public_key()):
        raise SettingsError(
            f"{found}, whose key belongs to another certificate; expected the two that belong together"
        )
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return ClientCertificate(
        pem=secret + b"".join(each.public_bytes(Encoding.PEM) for each in chain),
        begins_at=leaf.not_valid_before_utc,
        expires_at=leaf.not_valid_after_utc,
        name=_attribute(leaf, x509.NameOID.COMMON_NAME),
        user_id=_attribute(leaf, x509.NameOID.USER_ID),
    )


def _bytes_of(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise SettingsError(f"{name}: found {str(path)!r}, which cannot be read ({exc.strerror})") from None


def _public(key: object) -> bytes:
    public: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return public


def _attribute(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    found = certificate.subject.get_attributes_for_oid(oid)
    return str(found[0].value) if found else ""


@contextlib.contextmanager
def _file_of(content: bytes) -> Iterator[str]:
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        descriptor = os.memfd_create("pushq-certificate")
        try:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory(prefix="pushq-") as folder:  # for its owner only
        path = Path(folder) / "certificate.pem"
        path.touch(mode=0o600)
        path.write_bytes(content)
        yield str(path)
