"""When credentials end, as the metrics say: an alert for who needs a renewal and gets none, and none for who sends nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pushq.app_settings import load_apps
from pushq.embedded.redis import RedisServer
from pushq.mock import MockProcess
from pushq.providers.apns.credentials import LIFE_S, RENEW_AFTER_S, ProviderTokens, load_key
from pushq.providers.client import CredentialUnavailable
from pushq.providers.credential_metrics import CredentialMetrics, first_end
from pushq.providers.fcm.credentials import AccessTokens
from pushq.providers.shared_token import MARGIN_S
from pushq.redis_client import open_redis
from pushq.service_urls import ServiceUrl
from tests.integration.counted import value

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def certificate(days: float, since: datetime = NOW) -> bytes:
    """A certificate that ends so many days after ``since``, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since - timedelta(days=1000))
        .not_valid_after(since + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM)


def in_days(days: float) -> float:
    return (NOW + timedelta(days=days)).timestamp()


def test_the_first_to_end_counts_but_not_those_that_have() -> None:
    bundle = certificate(300) + certificate(20) + certificate(-5)
    assert first_end(bundle, NOW.timestamp()) == in_days(20)
    assert first_end(certificate(-5) + certificate(-9), NOW.timestamp()) == in_days(-5)
    with pytest.raises(ValueError, match="PEM"):
        first_end(b"nothing", NOW.timestamp())


def test_a_renewed_file_is_read_again(tmp_path: Path) -> None:
    def ends() -> float:
        found = value("pushq_credential_expiry_timestamp_seconds", app="renewed", platform="apns", kind="ca")
        assert found is not None
        return found

    path, now = tmp_path / "ca.pem", datetime.now(UTC).replace(microsecond=0)
    path.write_bytes(certificate(20, now))
    metrics = CredentialMetrics("renewed", "apns")
    metrics.certificate("ca", path)
    assert ends() == (now + timedelta(days=20)).timestamp()
    path.write_bytes(certificate(90, now))
    os.utime(path, (1, 1))  # whatever the file system's clock does
    assert ends() == (now + timedelta(days=90)).timestamp()
    path.unlink()
    assert math.isnan(ends())
    metrics.conceal()


def shown(app: str, kind: str) -> float | None:
    return value("pushq_credential_expiry_timestamp_seconds", app=app, platform="fcm", kind=kind)


def test_the_newest_client_counts_and_nothing_is_left_of_the_last_one() -> None:
    old, new, refused = (CredentialMetrics("replaced", "fcm") for _ in range(3))
    old.token("access_token", lambda: 1.0)
    old.token("client_certificate", lambda: 5.0)
    new.token("access_token", lambda: 2.0)
    refused.token("access_token", lambda: 3.0)
    assert shown("replaced", "access_token") == 3.0
    # Its file could not be used: what was there before goes on.
    refused.conceal()
    assert shown("replaced", "access_token") == 2.0
    # The old one has drained: nobody uses its certificate any more.
    old.conceal()
    assert (shown("replaced", "access_token"), shown("replaced", "client_certificate")) == (2.0, None)
    # The app is gone from the configuration, and may come again.
    new.conceal()
    new.conceal()
    assert shown("replaced", "access_token") is None
    new.token("access_token", lambda: 4.0)
    assert shown("replaced", "access_token") == 4.0
    new.conceal()


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with closing(open_redis(ServiceUrl(redis_server.url(0)))) as opened:
        yield opened


def test_tokens_that_nobody_needs_say_nothing_and_those_that_fail_say_when_they_end(
    client: redis.Redis, tmp_path: Path
) -> None:
    with MockProcess(tmp_path / "mock") as mock:
        app = load_apps(mock.config_file)["shop"]
        assert app.fcm is not None
        assert app.apns is not None
        now = [datetime.now(UTC).timestamp()]
        with closing(AccessTokens("shop", app.fcm, client, lambda: now[0])) as access:
            provider = ProviderTokens(app.apns, load_key(app.apns, "shop"), client, lambda: now[0])
            assert math.isnan(access.ends_at())
            assert math.isnan(provider.ends_at())
            access.authorization()
            provider.authorization()
            began, ends = now[0], access.ends_at()
            assert ends > began + MARGIN_S
            assert provider.ends_at() == int(began) + LIFE_S
            # Nobody sends for a while.
            now[0] = began + RENEW_AFTER_S
            assert math.isnan(provider.ends_at())
            now[0] = ends - MARGIN_S
            assert math.isnan(access.ends_at())
            # Somebody does, and Google does not answer.
            mock.set_faults([{"platform": "oauth", "every": 1, "answer": {"status": 503}}])
            access.authorization()  # the old one, to its end
            assert access.ends_at() == ends
            now[0] = ends
            with pytest.raises(CredentialUnavailable):
                access.authorization()
            assert access.ends_at() == ends
            mock.set_faults([])
            now[0] = began
            access.expired(access.authorization())
            assert access.ends_at() > began + MARGIN_S
