"""Everything a client needs to trust the mock and be trusted by it, as files in one folder.

Keys are kept when they exist, so that a mock restarted in the same folder is the same provider to its clients.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import secrets
import string
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pushq.mock.names import PROVIDERS
from pushq.mock.settings import LOOPBACK

CERTIFICATE_LIFE = dt.timedelta(days=365)
PROJECT_ID = "pushq-demo"
CLIENT_EMAIL = f"pushq@{PROJECT_ID}.iam.gserviceaccount.com"
APPLE_ID_LENGTH = 10
#: ``private_key_id`` of the account file that the mock starts with.
FIRST_KEY_ID = "mock"
HMS_APP_ID = "104210105"
HMS_PROJECT_ID = "388421841222199046"
HMS_SUB_ACCOUNT = "100216901"
HMS_KEY_ID = "0d8d5cd0b6d54a6ea5c2e76d3fcd8a29"

_PEM = serialization.Encoding.PEM
_PKCS8 = serialization.PrivateFormat.PKCS8
_CLEAR = serialization.NoEncryption()


@dataclass(frozen=True, slots=True)
class Credentials:
    """Paths are absolute. ``service_account_file`` is written by ``write_service_account``, once the OAuth port is known."""

    folder: Path
    ca_file: Path
    certificate_file: Path
    certificate_key_file: Path
    team_id: str
    key_id: str
    apns_key_file: Path
    apns_public_key: ec.EllipticCurvePublicKey
    service_account_file: Path
    service_account_key: rsa.RSAPrivateKey
    hms_secret_file: Path
    hms_account_file: Path

    @property
    def hms_secret(self) -> str:
        return self.hms_secret_file.read_text("ascii").strip()

    def write_service_account(self, token_uri: str) -> None:
        self.write_account(self.service_account_file, FIRST_KEY_ID, self.service_account_key, token_uri)

    def write_account(self, path: Path, key_id: str, key: rsa.RSAPrivateKey, token_uri: str) -> None:
        """A file of the one service account, with one of its keys."""
        pem = key.private_bytes(_PEM, _PKCS8, _CLEAR).decode()
        account = {
            "type": "service_account",
            "project_id": PROJECT_ID,
            "private_key_id": key_id,
            "private_key": pem,
            "client_email": CLIENT_EMAIL,
            "client_id": "100000000000000000001",
            "auth_uri": token_uri,
            "token_uri": token_uri,
        }
        write_private(path, json.dumps(account, indent=2).encode())


def make_credentials(folder: Path, host: str = LOOPBACK) -> Credentials:
    """Load what the folder holds, make what is missing. ``host`` is a name that the certificate has to be for.

    Raises ``OSError`` when the folder cannot be written.
    """
    folder = folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca_file, certificate_file, certificate_key_file = (
        folder / "ca.pem",
        folder / "server.pem",
        folder / "server-key.pem",
    )
    if not (ca_file.exists() and certificate_key_file.exists() and _serves_on(certificate_file, host)):
        _make_certificates(ca_file, certificate_file, certificate_key_file, host)
    team_id, apns_key_file = _apns_key(folder)
    apns_key = serialization.load_pem_private_key(apns_key_file.read_bytes(), None)
    assert isinstance(apns_key, ec.EllipticCurvePrivateKey)
    service_account_file = folder / "service-account.json"
    key = _service_account_key(service_account_file)
    return Credentials(
        folder=folder,
        ca_file=ca_file,
        certificate_file=certificate_file,
        certificate_key_file=certificate_key_file,
        team_id=team_id,
        key_id=apns_key_file.stem.removeprefix("AuthKey_"),
        apns_key_file=apns_key_file,
        apns_public_key=apns_key.public_key(),
        service_account_file=service_account_file,
        service_account_key=key,
        hms_secret_file=_hms_secret(folder),
        hms_account_file=_hms_account(folder, key),
    )


def write_private(path: Path, content: bytes) -> None:
    """Appears complete or not at all, readable by its owner only."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.replace(path)


def _serves_on(certificate_file: Path, host: str) -> bool:
    """Whether the certificate is there, is for every name, and lasts another day."""
    if not certificate_file.exists():
        return False
    certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if not {host, LOOPBACK, *PROVIDERS} <= set(names.get_values_for_type(x509.DNSName)):
        return False
    return certificate.not_valid_after_utc > dt.datetime.now(dt.UTC) + dt.timedelta(days=1)


def _apns_key(folder: Path) -> tuple[str, Path]:
    team_file = folder / "team-id"
    for key_file in sorted(folder.glob("AuthKey_*.p8")):
        if team_file.exists():
            return team_file.read_text().strip(), key_file
    team_id = _apple_id()
    write_private(team_file, team_id.encode())
    return team_id, new_apns_key(folder)[1]


def new_apns_key(folder: Path) -> tuple[str, Path, ec.EllipticCurvePublicKey]:
    """Another key in a file of its own, as Apple gives them out: its id, the file, and what to verify with."""
    key_id, key = _apple_id(), ec.generate_private_key(ec.SECP256R1())
    key_file = folder / f"AuthKey_{key_id}.p8"
    write_private(key_file, key.private_bytes(_PEM, _PKCS8, _CLEAR))
    return key_id, key_file, key.public_key()


def new_service_account_key() -> tuple[str, rsa.RSAPrivateKey]:
    """Another key of a service account, and its id."""
    return secrets.token_hex(20), rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _apple_id() -> str:
    alphabet = string.ascii_uppercase + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(APPLE_ID_LENGTH))


def _hms_secret(folder: Path) -> Path:
    path = folder / "hms-client-secret"
    if not path.exists():
        new_hms_secret(path)
    return path


def new_hms_secret(path: Path) -> str:
    """Another secret of an OAuth client, in a file of its own."""
    # Huawei's may hold each of these, and a form must encode them.
    secret = f"{secrets.token_hex(28)}=/+\\"
    write_private(path, secret.encode())
    return secret


def _hms_account(folder: Path, key: rsa.RSAPrivateKey) -> Path:
    """Huawei's form of a service account. The key is Google's as well: another one would cost every start a tenth of a second."""
    path = folder / "hms-service-account.json"
    account = {
        "project_id": HMS_PROJECT_ID,
        "key_id": HMS_KEY_ID,
        "private_key": key.private_bytes(_PEM, _PKCS8, _CLEAR).decode(),
        "sub_account": HMS_SUB_ACCOUNT,
        "token_uri": "https://oauth-login.cloud.huawei.com/oauth2/v3/token",
    }
    write_private(path, json.dumps(account, indent=2).encode())
    return path


def _service_account_key(path: Path) -> rsa.RSAPrivateKey:
    if path.exists():
        pem = json.loads(path.read_text(encoding="utf-8"))["private_key"].encode()
        key = serialization.load_pem_private_key(pem, None)
        assert isinstance(key, rsa.RSAPrivateKey)
        return key
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _make_certificates(ca_file: Path, certificate_file: Path, key_file: Path, host: str) -> None:
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pushq mock CA")])
    ca = (
        _certificate(ca_name, ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    loopback = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
    hosts = dict.fromkeys((LOOPBACK, host, *PROVIDERS))
    names = [*map(x509.DNSName, hosts), *(x509.IPAddress(address) for address in loopback)]
    certificate = (
        _certificate(name, ca_name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    write_private(ca_file, ca.public_bytes(_PEM))
    write_private(key_file, key.private_bytes(_PEM, _PKCS8, _CLEAR))
    write_private(certificate_file, certificate.public_bytes(_PEM))


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return x509.CertificateBuilder(
        issuer, subject, key, x509.random_serial_number(), now - dt.timedelta(hours=1), now + CERTIFICATE_LIFE
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
