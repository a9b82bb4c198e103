"""TLS client certificates for APNs: an authority of its own, and a push certificate for the one app, as .pem and as .p12."""

from __future__ import annotations

import datetime as dt
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pushq.mock.credentials import write_private

# Apple's are valid for a year.
LIFE = dt.timedelta(days=365)
_PEM = serialization.Encoding.PEM
_PKCS8 = serialization.PrivateFormat.PKCS8
_CLEAR = serialization.NoEncryption()


@dataclass(frozen=True, slots=True)
class ClientCertificates:
    """Paths are absolute. ``pem_file`` holds certificate and key; the password is that of ``p12_file``."""

    authority_file: Path
    pem_file: Path
    p12_file: Path
    password_file: Path


def make_client_certificates(folder: Path, bundle_id: str) -> ClientCertificates:
    """Load what the folder holds, make what is missing or ends within a day. Raises ``OSError`` when it cannot be written."""
    folder = folder.resolve()
    made = ClientCertificates(
        folder / "client-ca.pem",
        folder / "apns-client.pem",
        folder / "apns-client.p12",
        folder / "apns-client.password",
    )
    if not (made.authority_file.exists() and _serves(made.pem_file, bundle_id)):
        authority, authority_key = make_authority()
        write_private(made.authority_file, authority.public_bytes(_PEM))
        pem, p12, password = issue(authority, authority_key, bundle_id)
        write_private(made.pem_file, pem)
        write_private(made.p12_file, p12)
        write_private(made.password_file, password)
    return made


def make_authority() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """What stands for Apple's authority of push certificates."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pushq mock push authority")])
    certificate = (
        _builder(name, name, key.public_key(), dt.datetime.now(dt.UTC) + LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def issue(
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    bundle_id: str,
    *,
    expires_at: dt.datetime | None = None,
) -> tuple[bytes, bytes, bytes]:
    """A push certificate as PEM (certificate and key), as PKCS#12, and the password of the latter."""
    key = ec.generate_private_key(ec.SECP256R1())
    # As Apple's: the bundle id is the UID, and stands in the common name.
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.USER_ID, bundle_id),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Apple Push Services: {bundle_id}"),
        ]
    )
    certificate = (
        _builder(subject, authority.subject, key.public_key(), expires_at or dt.datetime.now(dt.UTC) + LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    password = secrets.token_urlsafe(12).encode()
    pem = certificate.public_bytes(_PEM) + key.private_bytes(_PEM, _PKCS8, _CLEAR)
    p12 = pkcs12.serialize_key_and_certificates(
        bundle_id.encode(), key, certificate, [authority], serialization.BestAvailableEncryption(password)
    )
    return pem, p12, password


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, expires_at: dt.datetime
) -> x509.CertificateBuilder:
    # Long before any end, so that an expired one can be made too.
    begins_at = min(dt.datetime.now(dt.UTC), expires_at) - dt.timedelta(hours=1)
    return x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number(), begins_at, expires_at)


def _serves(pem_file: Path, bundle_id: str) -> bool:
    if not pem_file.exists():
        return False
    certificate = x509.load_pem_x509_certificate(pem_file.read_bytes())
    names = [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.USER_ID)]
    return names == [bundle_id] and certificate.not_valid_after_utc > dt.datetime.now(dt.UTC) + dt.timedelta(
        days=1
    )
